import { PciTransport } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import {
  BAR4,
  COMMON,
  DEVICE,
  type FakeCap,
  type FakeOptions,
  ISR,
  NOTIFY,
  PciFunction,
  PLAIN,
  WINDOW,
} from './support/pci-function.ts'

function probe(options: FakeOptions = {}, swiotlbRfc = false): PciTransport {
  return probeFunction(new PciFunction(options), swiotlbRfc)
}

function probeFunction(fake: PciFunction, swiotlbRfc = false): PciTransport {
  const transport = PciTransport.probe(fake, 'net0', { swiotlbRfc })
  if (transport === null) throw new Error('no device')
  return transport
}

const caps = (...list: FakeCap[]): FakeOptions => ({ caps: list })
const code = (name: string): unknown => expect.objectContaining({ code: name })
const why = (transport: PciTransport): string[] => transport.ignored.map((entry) => entry.why)

/** Which offset of BAR 4 the device status is read from: where the chosen common configuration lies. */
function commonAt(fake: PciFunction, transport: PciTransport): number {
  fake.log.length = 0
  transport.readStatus()
  return fake.log[0].offset - 0x14
}

describe('pci/discovery (virtio 1.4 §4.1.2)', () => {
  it.each([
    ['nothing at all', { vendor: 0xffff, device: 0xffff }],
    ['another vendor', { vendor: 0x8086 }],
    ['a device ID above the range', { device: 0x1080 }],
    ['a device ID below the range', { device: 0x0fff }],
    ['virtio device ID 0', { device: 0x1040 }],
    ['a transitional device without a type', { device: 0x1000, subsystem: 0 }],
  ])('sees no device in %s, and writes nothing', { tags: ['4.1.2.2/modern-ids'] }, (_, options) => {
    const fake = new PciFunction(options)
    expect(PciTransport.probe(fake, 'x')).toBeNull()
    expect(fake.log.filter(({ kind }) => kind === 'w')).toEqual([])
  })

  it.each([
    [0x1041, 0, 1, false],
    [0x1042, 9, 2, false],
    [0x107f, 0, 0x3f, false],
    [0x1000, 1, 1, true],
    [0x103f, 7, 7, true],
  ])(
    'reads device %i with subsystem ID %i as type %i',
    { tags: ['4.1.2.2/modern-ids', '4.1.2.2/transitional-ids'] },
    (device, subsystem, deviceId, transitional) => {
      expect(probe({ device, subsystem })).toMatchObject({ deviceId, transitional, kind: 'pci', name: 'net0' })
    },
  )

  it.each([0, 1, 2, 0x7f, 0xff])('accepts revision %i (§4.1.2.2)', { tags: ['4.1.2.2/any-revision'] }, (revision) => {
    const fake = new PciFunction()
    fake.space[8] = revision
    expect(probeFunction(fake).deviceId).toBe(1)
  })

  it('does not touch the BARs of a header that is not that of a device', () => {
    const fake = new PciFunction({ header: 1 })
    expect(() => probeFunction(fake)).toThrow(code('TRANSPORT_PCI_HEADER'))
    expect(fake.log.filter(({ kind }) => kind === 'w')).toEqual([])
    expect(probe({ header: 0x80 }).deviceId).toBe(1)
  })

  it('does not touch the device itself', () => {
    const fake = new PciFunction()
    probeFunction(fake)
    expect(fake.log.filter(({ where }) => where !== 'config')).toEqual([])
  })
})

describe('pci/capabilities: the list (PCI 3.0 §6.7, virtio 1.4 §4.1.4)', () => {
  it('takes a device without any virtio capability for a legacy one and fails (§4.1.5.1.1)', {
    tags: ['4.1.5.1.1.1/look-for-capabilities', '4.1.5.1.1.1/none-is-legacy'],
  }, () => {
    expect(() => probe(caps())).toThrow(code('TRANSPORT_LEGACY'))
    expect(() => probe(caps({ id: 0x11, type: 0 }, { id: 1, type: 1 }))).toThrow(code('TRANSPORT_LEGACY'))
  })

  it('has no list where the status register says so', () => {
    const fake = new PciFunction()
    fake.put(0x06, 2, 0)
    expect(() => probeFunction(fake)).toThrow(code('TRANSPORT_LEGACY'))
    expect(fake.log.filter(({ offset }) => offset >= 0x34)).toEqual([])
  })

  it('ends a list that loops, and uses what came before', () => {
    const fake = new PciFunction()
    const last = 0x40 + 16 + 20 + 16
    fake.put(last + 1, 1, 0x40)
    const transport = probeFunction(fake)
    expect(transport.ignored).toEqual([{ offset: 0x40, type: null, why: 'the list returns to where it was' }])
    expect(transport.deviceId).toBe(1)
  })

  it('ends a list that points into the header', () => {
    const fake = new PciFunction()
    fake.put(0x40 + 16 + 20 + 16 + 1, 1, 0x3c)
    expect(probeFunction(fake).ignored).toEqual([{ offset: 0x3c, type: null, why: 'the list points into the header' }])
    fake.put(0x34, 1, 0x10)
    expect(() => probeFunction(fake)).toThrow(code('TRANSPORT_LEGACY'))
  })

  it('masks the two reserved bits of every pointer', () => {
    const fake = new PciFunction()
    fake.put(0x34, 1, 0x43)
    fake.put(0x41, 1, fake.get(0x41, 1) | 1)
    expect(probeFunction(fake).ignored).toEqual([])
  })

  it('does not read beyond configuration space', () => {
    const fake = new PciFunction()
    const last = 0x40 + 16 + 20 + 16
    fake.put(last + 1, 1, 0xf4)
    for (const [i, byte] of [9, 0xfc, 16, 1].entries()) fake.space[0xf4 + i] = byte
    for (const [i, byte] of [0x11, 0, 0, 0].entries()) fake.space[0xfc + i] = byte
    expect(probeFunction(fake).ignored).toEqual([
      { offset: 0xf4, type: 1, why: 'it runs over the end of configuration space' },
    ])
  })

  it('reads each field once, in its own width', () => {
    const fake = new PciFunction()
    probeFunction(fake)
    const reads = fake.log.filter(({ kind, offset }) => kind === 'r' && offset >= 0x34)
    const places = reads.map(({ offset }) => offset)
    expect(new Set(places).size).toBe(places.length)
    expect(reads.filter(({ offset }) => offset >= 0x40 && offset < 0x50).map((a) => [a.offset - 0x40, a.size])).toEqual(
      [
        [0, 1],
        [2, 1],
        [3, 1],
        [4, 1],
        [8, 4],
        [12, 4],
        [5, 1],
        [1, 1],
      ],
    )
  })

  it('never writes into a capability (§4.1.4.1)', { tags: ['4.1.4.1/capabilities-unwritten'] }, () => {
    const fake = new PciFunction({ caps: [...PLAIN, WINDOW] })
    probeFunction(fake)
    expect(fake.log.filter(({ kind, offset }) => kind === 'w' && offset >= 0x40)).toEqual([])
  })

  it('does not read pci_cfg_data, which would be an access to a BAR (§4.1.4.9)', () => {
    const fake = new PciFunction({ caps: [WINDOW, ...PLAIN] })
    probeFunction(fake)
    expect(fake.log.filter(({ kind, offset }) => kind === 'r' && offset === 0x40 + 16)).toEqual([])
  })
})

describe('pci/capabilities: one capability (virtio 1.4 §4.1.4.1)', () => {
  it.each([0, 6, 7, 10, 0xff])('ignores reserved type %i', { tags: ['4.1.4.1/reserved-type'] }, (type) => {
    expect(probe(caps({ type, bar: 4, length: 64 }, ...PLAIN)).ignored).toEqual([
      { offset: 0x40, type, why: `type ${type} is reserved` },
    ])
  })

  it.each([6, 7, 0xff])(
    'ignores reserved BAR %i and takes the next instance',
    { tags: ['4.1.4.1/reserved-bar'] },
    (bar) => {
      expect(why(probe(caps({ ...COMMON, bar }, ...PLAIN)))).toEqual([`BAR ${bar} is reserved`])
      expect(() => probe(caps({ ...COMMON, bar }, NOTIFY, ISR))).toThrow(code('TRANSPORT_PCI_CAPABILITY'))
    },
  )

  it('passes over vendor data without a word: it has other fields (§4.1.4.8)', {
    tags: ['4.1.4.8.2/debugging', '4.1.4.8.2/vendor-id'],
  }, () => {
    expect(probe(caps({ type: 9, bar: 0xff, bytes: 8 }, ...PLAIN)).ignored).toEqual([])
  })

  it.each([
    ['common', { ...COMMON, bytes: 15 }],
    ['notification', { ...NOTIFY, bytes: 19 }],
    ['ISR', { ...ISR, bytes: 0 }],
    ['shared memory', { type: 8, bar: 4, length: 16, extra: [0, 0], bytes: 23 }],
    ['configuration access', { ...WINDOW, bytes: 16 }],
  ])('ignores a %s capability that is too short', (_, cap) => {
    expect(why(probe(caps(cap, ...PLAIN)))).toEqual([expect.stringContaining('too short')])
  })

  it('accepts a cap_len that is larger than specified, even absurdly', { tags: ['4.1.4.1/cap-len'] }, () => {
    expect(probe({ caps: PLAIN.map((cap) => ({ ...cap, bytes: 0xff })) }).ignored).toEqual([])
  })

  it('accepts an unexpectedly large length, up to the end of the BAR', {
    tags: ['2.5.1/no-size-limit', '4.1.4.1/large-length'],
  }, () => {
    expect(probe(caps({ ...COMMON, length: 0x4000 }, NOTIFY, ISR)).ignored).toEqual([])
    expect(why(probe(caps({ ...COMMON, length: 0x4001 }, ...PLAIN)))).toEqual([
      '0x0 + 0x4001 lies outside the 0x4000 bytes of BAR 4',
    ])
  })

  it.each([
    ['a BAR that does not exist', { bar: 2 }, 'BAR 2 does not exist'],
    ['the high half of a 64-bit BAR', { bar: 5 }, 'BAR 5 does not exist'],
    ['an offset behind the BAR', { offset: 0x4000 }, '0x4000 + 0x40 lies outside the 0x4000 bytes of BAR 4'],
    ['a sum that would wrap in 32 bits', { offset: 0xffff_fff0 }, /0xfffffff0 \+ 0x40 lies outside/],
    ['an offset that is not a multiple of 4', { offset: 2 }, 'offset 0x2 is not a multiple of 4'],
    ['a length below what every device has', { length: 0x37 }, '0x37 bytes are too few, 0x38 are needed'],
  ])('ignores a common configuration in %s', (_, change, reason) => {
    const fake = new PciFunction(caps({ ...COMMON, ...change }, { ...COMMON, offset: 0x100 }, NOTIFY, ISR))
    const transport = probeFunction(fake)
    expect(why(transport)).toEqual([typeof reason === 'string' ? reason : expect.stringMatching(reason)])
    expect(commonAt(fake, transport)).toBe(0x100)
  })

  it.each([
    ['notification', { ...NOTIFY, offset: 0x3001 }, 'offset 0x3001 is not a multiple of 2'],
    ['notification', { ...NOTIFY, length: 1 }, '0x1 bytes are too few, 0x2 are needed'],
    ['ISR', { ...ISR, length: 0 }, '0x0 bytes are too few, 0x1 are needed'],
    ['device', { ...DEVICE, offset: 0x2002 }, 'offset 0x2002 is not a multiple of 4'],
  ])('checks a %s capability by its own rules', (_, cap, reason) => {
    expect(why(probe(caps(cap, ...PLAIN)))).toEqual([reason])
  })

  it('takes an ISR status at any offset (§4.1.4.5)', () => {
    expect(probe(caps(COMMON, NOTIFY, { ...ISR, offset: 0x1003 })).ignored).toEqual([])
  })

  it.each([
    ['common configuration', [NOTIFY, ISR, DEVICE]],
    ['notification structure', [COMMON, ISR, DEVICE]],
    ['ISR status', [COMMON, NOTIFY, { ...ISR, offset: 0x4000 }, DEVICE]],
  ])('says which structure is missing: %s', (missing, list) => {
    expect(() => probe({ caps: list })).toThrow(
      expect.objectContaining({
        code: 'TRANSPORT_PCI_CAPABILITY',
        message: expect.stringContaining(missing),
        details: expect.objectContaining({ missing }),
      }),
    )
  })

  it('says what was ignored, and why, where that left nothing', () => {
    expect(() => probe(caps({ ...COMMON, length: 8 }, NOTIFY, ISR))).toThrow(
      /capability at 0x40: 0x8 bytes are too few/,
    )
  })

  it('does without a device-specific configuration until somebody wants it (§4.1.4.6)', () => {
    const transport = probe(caps(COMMON, NOTIFY, ISR))
    expect(() => transport.readConfig((config) => config.read8(0))).toThrow(code('TRANSPORT_PCI_CAPABILITY'))
    expect(() => transport.writeConfig(0, 1, 0)).toThrow(code('TRANSPORT_PCI_CAPABILITY'))
  })
})

describe('pci/capabilities: first usable instance (virtio 1.4 §4.1.4, §4.1.4.1)', () => {
  const second = { ...COMMON, offset: 0x100 }

  it('is the first in the list', { tags: ['4.1.4.1/first-instance'] }, () => {
    const fake = new PciFunction(caps(second, COMMON, NOTIFY, ISR))
    expect(commonAt(fake, probeFunction(fake))).toBe(0x100)
  })

  it('is a later one where the first lies in an I/O BAR that the machine does not have', () => {
    const io = { index: 0, kind: 'io', size: 0x1000, mapped: false } as const
    const fake = new PciFunction({ bars: [io, BAR4], caps: [{ ...COMMON, bar: 0 }, second, NOTIFY, ISR] })
    const transport = probeFunction(fake)
    expect(why(transport)).toEqual(['BAR 0 is not mapped'])
    expect(commonAt(fake, transport)).toBe(0x100)
  })

  it('is the I/O one where the machine has I/O', () => {
    const io = { index: 0, kind: 'io', size: 0x1000 } as const
    const fake = new PciFunction({ bars: [io, BAR4], caps: [{ ...COMMON, bar: 0 }, second, NOTIFY, ISR] })
    probeFunction(fake).readStatus()
    expect(fake.log.at(-1)).toMatchObject({ where: 0, offset: 0x14 })
  })
})

describe('pci/window: BARs that are not mapped, through configuration space (virtio 1.4 §4.1.4.9)', () => {
  const bars = [{ ...BAR4, mapped: false }]

  it('reaches all structures, and selects before each access', () => {
    const fake = new PciFunction({ bars, caps: [WINDOW, ...PLAIN] })
    const transport = probeFunction(fake)
    expect(transport.ignored).toEqual([])
    fake.log.length = 0
    transport.writeStatus(5)
    expect(transport.readStatus()).toBe(5)
    fake.deviceConfig[6] = 0xab
    expect(transport.readConfig((config) => config.read16(6))).toBe(0xab)
    expect(fake.log.slice(0, 8).map(({ kind, offset, size, value }) => [kind, offset - 0x40, size, value])).toEqual([
      ['w', 4, 1, 4],
      ['w', 12, 4, 1],
      ['w', 8, 4, 0x14],
      ['w', 16, 1, 5],
      ['w', 4, 1, 4],
      ['w', 12, 4, 1],
      ['w', 8, 4, 0x14],
      ['r', 16, 1, 5],
    ])
  })

  it('is never given an offset that is not a multiple of the length in place', { tags: ['4.1.4.9.2/aligned'] }, () => {
    const fake = new PciFunction({ bars, caps: [WINDOW, COMMON, NOTIFY, { ...ISR, offset: 0x1003 }, DEVICE] })
    const transport = probeFunction(fake)
    transport.readFeatures()
    transport.takeInterrupts()
    transport.maxQueueSize(1)
    transport.takeInterrupts()
    transport.readFeatures()
    let length = 0
    const bad = fake.log.filter(({ kind, offset, value }) => {
      if (kind === 'w' && offset === 0x40 + 12) length = value
      return kind === 'w' && offset === 0x40 + 8 && value % length !== 0
    })
    expect(length).toBe(4)
    expect(bad).toEqual([])
  })

  it('is not used where another instance is mapped', () => {
    const io = { index: 0, kind: 'io', size: 0x1000, mapped: false } as const
    const fake = new PciFunction({ bars: [io, BAR4], caps: [{ ...COMMON, bar: 0 }, ...PLAIN, WINDOW] })
    expect(why(probeFunction(fake))).toEqual(['BAR 0 is not mapped'])
  })

  it('does not reach offsets of 4 GiB and more', () => {
    const large = [{ ...BAR4, size: 2 ** 33, address: 2 ** 33, mapped: false }]
    const high = { ...COMMON, offset: 0xffff_fff0 }
    expect(() => probe({ bars: large, caps: [WINDOW, high, NOTIFY, ISR] })).toThrow(/BAR 4 is not mapped/)
    expect(probe({ bars: [{ ...BAR4, size: 2 ** 33, address: 2 ** 33 }], caps: [high, NOTIFY, ISR] }).ignored).toEqual(
      [],
    )
  })

  it('is what is missing where nothing is mapped and there is none', () => {
    expect(() => probe({ bars })).toThrow(/common configuration.*BAR 4 is not mapped/)
  })
})

describe('pci/shared memory (virtio 1.4 §4.1.4.7)', () => {
  const region = (instance: number, offset: number, length: number, high: number[]): FakeCap => {
    return { type: 8, bar: 2, instance, offset, length, extra: high }
  }
  const options = (...list: FakeCap[]): FakeOptions => ({
    bars: [{ index: 2, size: 2 ** 40, is64: true, address: 2 ** 40 }, BAR4],
    caps: [...PLAIN, ...list],
  })

  it('joins both halves of offset and length', () => {
    const transport = probe(options(region(1, 0x1000, 0x2000, [3, 1]), region(0, 0, 16, [0, 0])))
    expect(transport.ignored).toEqual([])
    expect(transport.sharedMemory).toEqual([
      { id: 1, bar: 2, offset: 3 * 2 ** 32 + 0x1000, length: 2 ** 32 + 0x2000 },
      { id: 0, bar: 2, offset: 0, length: 16 },
    ])
  })

  it.each([
    ['outside its BAR', region(0, 0, 1, [0x100, 0]), /lies outside/],
    ['one byte too long', region(0, 1, 0, [0, 0x100]), /lies outside/],
    ['with an offset of 2^53', region(0, 0, 1, [0x20_0000, 0]), /2\^53/],
    ['with a length of 2^64 - 1', region(0, 1, 0xffff_ffff, [0, 0xffff_ffff]), /2\^53/],
    ['with a sum that would wrap in 64 bits', region(0, 0xffff_f000, 0x2000, [0xffff_ffff, 0]), /2\^53/],
    ['with a sum that would be rounded', region(0, 0xffff_ffff, 2, [0x1f_ffff, 0]), /2\^53/],
    ['that is empty', region(0, 0, 0, [0, 0]), /too few/],
  ])('ignores a region %s', (_, cap, reason) => {
    const transport = probe(options(cap))
    expect(transport.sharedMemory).toEqual([])
    expect(why(transport)).toEqual([expect.stringMatching(reason)])
  })

  it('takes the first of two regions with the same id', () => {
    const transport = probe(options(region(1, 0, 16, [0, 0]), region(1, 64, 16, [0, 0])))
    expect(transport.sharedMemory).toEqual([{ id: 1, bar: 2, offset: 0, length: 16 }])
    expect(why(transport)).toEqual(['shared memory 1 is listed twice'])
  })
})

describe('pci/swiotlb (SWIOTLB RFC 3/3)', () => {
  const region: FakeCap = { type: 10, bar: 2, offset: 0x1000, length: 0x8000 }
  const bar = { index: 2, size: 0x10000, is64: true, prefetchable: true, address: 0x12_0000_0000 }
  const options = (...list: FakeCap[]): FakeOptions => ({ bars: [bar, BAR4], caps: [...PLAIN, ...list] })

  it('is a reserved type, and ignored, unless the extension is on', () => {
    const transport = probe(options(region))
    expect(transport.swiotlb).toBeNull()
    expect(why(transport)).toEqual(['type 10 is reserved'])
  })

  it('is where the BAR lies plus the offset', () => {
    const transport = probe(options(region), true)
    expect(transport.swiotlb).toEqual({ bar: 2, offset: 0x1000, length: 0x8000, address: 0x12_0000_1000 })
    expect(transport.ignored).toEqual([])
  })

  it('does not have to be mapped as registers', () => {
    expect(probe({ ...options(region), bars: [{ ...bar, mapped: false }, BAR4] }, true).swiotlb).not.toBeNull()
  })

  it.each([
    ['a length of 0', { length: 0 }, /too few/],
    ['an offset that is no multiple of 4096', { offset: 0x800 }, 'offset 0x800 is not a multiple of 4096'],
    ['a length that is no multiple of 4096', { length: 0x1800 }, 'length 0x1800 is not a multiple of 4096'],
    ['an end outside its BAR', { offset: 0x9000 }, /lies outside/],
    ['an offset near 4 GiB', { offset: 0xffff_f000 }, /lies outside/],
    ['a BAR that does not exist', { bar: 0 }, 'BAR 0 does not exist'],
  ])('with %s is ignored; the next one is taken', (_, change, reason) => {
    const transport = probe(options({ ...region, ...change }, { ...region, offset: 0 }), true)
    expect(transport.swiotlb).toMatchObject({ offset: 0 })
    expect(why(transport)).toEqual([typeof reason === 'string' ? reason : expect.stringMatching(reason)])
  })

  it.each([
    ['an I/O BAR', { index: 2, size: 0x10000, kind: 'io', address: 0x10000 } as const, 'BAR 2 is I/O, not memory'],
    ['a BAR without an address', { ...bar, address: 0 }, 'BAR 2 is unassigned'],
    ['a BAR beyond 2^53', { ...bar, address: 2 ** 53 }, 'BAR 2 is unreachable'],
  ])('in %s is ignored', (_, other, reason) => {
    const transport = probe({ bars: [other, BAR4], caps: [...PLAIN, region] }, true)
    expect(transport.swiotlb).toBeNull()
    expect(why(transport)).toEqual([reason])
  })

  it.each([
    ['beyond its end', { base: 0x12_0000_0000, length: 0x8000 }],
    ['before its beginning', { base: 0x12_0000_2000, length: 0x8000 }],
  ])('that the BAR covers and the memory behind it does not, %s, is ignored; the next one is taken', (_, memory) => {
    const fake = new PciFunction(options(region, { ...region, offset: 0x2000, length: 0x2000 }))
    const transport = PciTransport.probe(fake, 'net0', { swiotlbRfc: true, swiotlbMemory: memory })
    expect(transport?.swiotlb).toMatchObject({ offset: 0x2000, length: 0x2000 })
    expect(transport?.ignored).toEqual([
      { offset: expect.any(Number), type: 10, why: expect.stringContaining('not all memory') },
    ])
  })

  it('is the first usable one of several, whose values were read once', () => {
    const fake = new PciFunction(options(region, { ...region, offset: 0x2000 }))
    const transport = probeFunction(fake, true)
    expect(transport.swiotlb).toMatchObject({ offset: 0x1000 })
    expect(transport.ignored).toEqual([])
    const at = 0x40 + 16 + 20 + 16 + 16
    expect(fake.log.filter(({ offset }) => offset === at + 8 || offset === at + 12).length).toBe(2)
  })
})
