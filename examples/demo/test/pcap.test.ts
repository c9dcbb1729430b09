import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DemoInputError } from '../src/errors.ts'
import { MAX_RECORD_BYTES } from '../src/pcap.ts'
import { fixture, readPcap, refusal, type WholeCapture, writePcap } from './support/fixtures.ts'

const file = fixture('traffic.pcap')
const whole = await readPcap(file, 'traffic.pcap')

/** The file with a 32-bit little-endian field replaced. */
function withField(bytes: Uint8Array, offset: number, value: number): Uint8Array {
  const changed = Uint8Array.from(bytes)
  new DataView(changed.buffer).setUint32(offset, value, true)
  return changed
}

describe('pcap: the fixture', () => {
  const { frames, header } = whole

  test('has the header that tcpdump -s 65535 writes on a little-endian machine', () => {
    expect(header).toEqual({
      byteOrder: 'little',
      resolution: 'microseconds',
      timeZone: 0,
      accuracy: 0,
      snapLength: 65_535,
      linkFlags: 0,
    })
  })

  test('has frames from the smallest to the largest size, and none that no wire would carry', () => {
    const lengths = frames.map(({ data }) => data.length)
    expect(frames.length).toBeGreaterThanOrEqual(150)
    expect(Math.min(...lengths)).toBe(42)
    expect(Math.max(...lengths)).toBe(1514)
    expect(lengths.filter((length) => length === 1514).length).toBeGreaterThanOrEqual(20)
    expect(new Set(lengths).size).toBeGreaterThanOrEqual(30)
  })

  test('has ARP, IPv4 and IPv6, all between the two made-up addresses', () => {
    const etherTypes = new Set(frames.map(({ data }) => (data[12] << 8) | data[13]))
    expect(etherTypes).toEqual(new Set([0x0806, 0x0800, 0x86dd]))
    const senders = new Set(frames.map(({ data }) => data.subarray(6, 12).join('.')))
    expect(senders).toEqual(new Set(['2.0.0.0.0.1', '2.0.0.0.0.2']))
  })

  test('has time stamps that never go back', () => {
    const times = frames.map(({ seconds, fraction }) => seconds * 1e6 + fraction)
    expect(times).toEqual(times.toSorted((a, b) => a - b))
    expect(frames.every(({ fraction }) => fraction < 1e6)).toBe(true)
  })

  test('is written byte for byte as it was read', () => {
    const written = writePcap({ header, frames })
    expect(Buffer.compare(written, file)).toBe(0)
  })

  test('is read alike from the middle of a larger buffer', async () => {
    const larger = new Uint8Array(file.length + 7)
    larger.set(file, 3)
    const capture = await readPcap(larger.subarray(3, 3 + file.length), 'traffic.pcap')
    expect(capture.frames).toEqual(frames)
  })
})

describe('pcap: format variants', () => {
  // Written by hand, so that reader and writer cannot share a mistake.
  const bigEndianNanoseconds = Uint8Array.from([
    ...[0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4, 0xff, 0xff, 0xf1, 0xf0, 0, 0, 0, 9, 0, 4, 0, 0, 0, 0, 0, 1],
    ...[0x65, 0x4b, 0x1f, 0x80, 0x3b, 0x9a, 0xc9, 0xff, 0, 0, 0, 3, 0, 0, 0, 3, 7, 8, 9],
  ])
  const littleEndianNanoseconds = Uint8Array.from([
    ...[0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0xf0, 0xf1, 0xff, 0xff, 9, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0],
    ...[0x80, 0x1f, 0x4b, 0x65, 0xff, 0xc9, 0x9a, 0x3b, 3, 0, 0, 0, 3, 0, 0, 0, 7, 8, 9],
  ])
  const bigEndianMicroseconds = Uint8Array.from(bigEndianNanoseconds)
  bigEndianMicroseconds.set([0xc3, 0xd4], 2)

  test.each([
    ['big', 'nanoseconds', bigEndianNanoseconds],
    ['little', 'nanoseconds', littleEndianNanoseconds],
    ['big', 'microseconds', bigEndianMicroseconds],
  ] as const)('%s-endian %s are read, and written as they were', async (byteOrder, resolution, bytes) => {
    const capture = await readPcap(bytes, 'variant.pcap')
    expect(capture).toEqual({
      header: { byteOrder, resolution, timeZone: -3600, accuracy: 9, snapLength: 262_144, linkFlags: 0 },
      frames: [{ seconds: 0x654b_1f80, fraction: 999_999_999, originalLength: 3, data: Uint8Array.of(7, 8, 9) }],
    })
    expect(writePcap(capture)).toEqual(bytes)
  })

  test('a capture without frames is a capture', async () => {
    const bytes = file.slice(0, 24)
    expect((await readPcap(bytes, 'none.pcap')).frames).toEqual([])
    expect(writePcap(await readPcap(bytes, 'none.pcap'))).toEqual(bytes)
  })

  test('a snap length of 0 names no limit, a larger one than 256 KiB does not raise it', async () => {
    const data = new Uint8Array(MAX_RECORD_BYTES).fill(1)
    const frame = { seconds: 1, fraction: 2, originalLength: data.length, data }
    for (const snapLength of [0, 0xffff_ffff]) {
      const written = writePcap({ header: { ...whole.header, snapLength }, frames: [frame] })
      expect((await readPcap(written, 'long.pcap')).frames[0].data.length).toBe(MAX_RECORD_BYTES)
    }
  })

  test.each([
    ['reserved bits', 0x03ff_0001],
    ['a length of check sequences that is not known', 0x4000_0001],
    ['check sequences of no bytes', 0x0400_0001],
  ])('a link type has 16 bits: %s above it are kept', async (_, word) => {
    const changed = withField(file, 20, word)
    expect((await readPcap(changed, 'flags.pcap')).frames).toEqual(whole.frames)
    expect(Buffer.compare(writePcap(await readPcap(changed, 'flags.pcap')), changed)).toBe(0)
  })

  test('an original length below the captured one is kept', async () => {
    const changed = withField(file, 24 + 12, 1)
    expect((await readPcap(changed, 'odd.pcap')).frames[0].originalLength).toBe(1)
    expect(Buffer.compare(writePcap(await readPcap(changed, 'odd.pcap')), changed)).toBe(0)
  })
})

describe('pcap: refusals name the file, the place, what is there and what to do', () => {
  const first = whole.frames[0].data.length
  const second = 24 + 16 + first

  test.each([
    ['PCAP_TRUNCATED_HEADER', 'an empty file', new Uint8Array(), 0, 'after 0 bytes', '24'],
    ['PCAP_TRUNCATED_HEADER', 'half a magic number', file.slice(0, 3), 3, 'after 3 bytes', '24'],
    ['PCAP_TRUNCATED_HEADER', 'a header that ends early', file.slice(0, 23), 23, 'after 23 bytes', '24'],
    ['PCAP_NOT_PCAP', 'a text', new TextEncoder().encode('hello, world'), 0, '0x68656c6c', 'tcpdump -w'],
    ['PCAP_IS_PCAPNG', 'pcapng', withField(file, 0, 0x0a0d_0d0a), 0, '0xa0d0d0a', 'editcap -F pcap'],
    ['PCAP_VERSION', 'an old version', withField(file, 4, 0x0003_0002), 4, '2.3', '2.4'],
    ['PCAP_LINK_TYPE', 'a cooked capture', withField(file, 20, 113), 20, 113, 'Ethernet (1)'],
    ['PCAP_LINK_TYPE', 'frame check sequences', withField(file, 20, 0x4400_0001), 20, 0x4400_0001, 'Ethernet (1)'],
    ['PCAP_TRUNCATED_RECORD', 'a record header that ends early', file.slice(0, 24 + 15), 24, '15 bytes', '16'],
    [
      'PCAP_TRUNCATED_RECORD',
      'a frame that ends early',
      file.slice(0, second - 1),
      40,
      `${first - 1} bytes`,
      `${first}`,
    ],
    ['PCAP_RECORD_LENGTH', 'more than the snap length', withField(file, 32, 65_536), 32, 65_536, '65535'],
    ['PCAP_RECORD_LENGTH', 'a length with its sign bit', withField(file, 32, 0xffff_ffff), 32, 0xffff_ffff, '65535'],
    [
      'PCAP_RECORD_LENGTH',
      'more than 256 KiB where no limit is named',
      withField(withField(file, 16, 0), 32, 262_145),
      32,
      262_145,
      '262144',
    ],
    [
      'PCAP_RECORD_LENGTH',
      'more than 256 KiB where the snap length is larger',
      withField(withField(file, 16, 0xffff_ffff), 32, 262_145),
      32,
      262_145,
      '262144',
    ],
    [
      'PCAP_FRAME_CUT_SHORT',
      'one byte less',
      withField(file, 36, first + 1),
      32,
      `${first} of ${first + 1} bytes`,
      '-s 0',
    ],
    ['PCAP_EMPTY_FRAME', 'an empty frame', withField(withField(file, 32, 0), 36, 0), 32, 0, 'at least one byte'],
  ] as const)('%s: %s', async (code, _case, bytes, offset, found, advice) => {
    const record = await refusal(() => readPcap(bytes, 'some.pcap'))
    expect(record).toMatchObject({ code, part: 'some.pcap', details: { offset, found } })
    expect(record.details.advice).toContain(advice)
    expect(record.message).toMatch(/^some\.pcap: at byte \d+: /)
    expect(record.message).toContain(`at byte ${offset}: `)
    expect(record.message).toContain(String(found))
    expect(record.message).toContain(advice)
    expect(structuredClone(record)).toEqual(record)
  })

  test('a frame that follows good ones is named by its number, counted from 1, and its offset', async () => {
    const record = await refusal(() => readPcap(withField(file, second + 8, 70_000), 'some.pcap'))
    expect(record).toMatchObject({ code: 'PCAP_RECORD_LENGTH', details: { offset: second + 8 } })
    expect(record.message).toContain('the length of frame 2 is 70000')
  })

  test('every cut of a capture is either whole records or refused as truncated', async () => {
    const short = file.slice(0, 400)
    const ends = new Set([24])
    for (const { data } of whole.frames) ends.add(Math.max(...ends) + 16 + data.length)
    for (let length = 0; length <= short.length; length++) {
      const outcome = await attempt(short.subarray(0, length))
      if (ends.has(length)) expect(outcome).not.toBeInstanceOf(DemoInputError)
      else expect(outcome).toMatchObject({ code: length < 24 ? 'PCAP_TRUNCATED_HEADER' : 'PCAP_TRUNCATED_RECORD' })
    }
  })
})

describe('pcap: properties', () => {
  const u32 = fc.nat({ max: 0xffff_ffff })
  const frame = fc
    .record({ seconds: u32, fraction: u32, data: fc.uint8Array({ minLength: 1, maxLength: 80 }) })
    .map(({ data, ...time }) => ({ ...time, originalLength: data.length, data: Uint8Array.from(data) }))
  const header = fc.record({
    byteOrder: fc.constantFrom('little' as const, 'big' as const),
    resolution: fc.constantFrom('microseconds' as const, 'nanoseconds' as const),
    timeZone: fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff }),
    accuracy: u32,
    snapLength: fc.oneof(fc.constant(0), fc.integer({ min: 80, max: 0xffff_ffff })),
    linkFlags: fc.constantFrom(0, 0x0001_0000, 0x4000_0000),
  })
  const capture: fc.Arbitrary<WholeCapture> = fc.record({ header, frames: fc.array(frame, { maxLength: 8 }) })

  test('what is written is read back, in whatever pieces it comes', async () => {
    await fc.assert(
      fc.asyncProperty(capture, fc.integer({ min: 1, max: 100 }), async (given, size) => {
        const bytes = writePcap(given)
        const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
          bytes.subarray(i * size, (i + 1) * size),
        )
        expect(await readPcap(pieces, 'x.pcap')).toEqual(given)
      }),
    )
  })

  test('arbitrary bytes are read or refused with a DemoInputError', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => void (await attempt(bytes))))
  })

  test('a damaged capture is refused with a DemoInputError, or read and written as it is', async () => {
    const damage = fc.array(fc.tuple(fc.nat({ max: 1000 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 4 })
    let refused = 0
    await fc.assert(
      fc.asyncProperty(capture, damage, fc.nat({ max: 1000 }), async (given, changes, cut) => {
        const bytes = writePcap(given).slice(0, -(cut % 50) || undefined)
        for (const [at, value] of changes) bytes[at % Math.max(bytes.length, 1)] = value
        const outcome = await attempt(bytes)
        if (outcome instanceof DemoInputError) refused++
        else expect(writePcap(outcome)).toEqual(bytes)
      }),
      { numRuns: 1000 },
    )
    expect(refused).toBeGreaterThan(0)
  })
})

/** What came of reading; anything but a DemoInputError is thrown on. */
async function attempt(bytes: Uint8Array): Promise<WholeCapture | DemoInputError> {
  try {
    return await readPcap(bytes, 'x.pcap')
  } catch (error) {
    if (error instanceof DemoInputError) return error
    throw error
  }
}
