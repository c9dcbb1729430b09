import { FeatureSet } from '@guestdma/spec'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeAnswer, decodeRequest, encodeAnswer, encodeRequest, type Message } from '../src/protocol/codec.ts'
import { MessageReader } from '../src/protocol/message-reader.ts'
import * as messages from '../src/protocol/messages.ts'
import { IOTLB_UPDATE } from '../src/protocol/payload.ts'

const { FRONT_END_MESSAGES, SET_MEM_TABLE, SET_VRING_KICK } = messages

/** What one sendmsg carries. */
interface Sent {
  readonly bytes: Uint8Array
  readonly descriptors: readonly number[]
}

const REGION = { guest: 0x1_0000_0000, length: 0x10_0000, user: 0x4000_0000_0000, offset: 0x1000 }
const IOTLB = { iova: 0x20_0000, length: 0x2000, user: 0x4000_0001_0000, permission: 3, type: IOTLB_UPDATE }
const ADDRESS = { index: 1, flags: 0, descriptor: 2 ** 46, used: 2 ** 46 + 4096, available: 2 ** 52 - 16, log: 0 }

/** What a front end says while it brings a device with one queue up. */
const DIALOGUE: readonly Sent[] = [
  sent(encodeRequest(messages.SET_OWNER, null, false)),
  sent(encodeRequest(messages.GET_FEATURES, null, false)),
  sent(encodeRequest(messages.SET_FEATURES, FeatureSet.of(0, 31, 32, 63), true)),
  sent(encodeRequest(SET_MEM_TABLE, [REGION, { ...REGION, guest: 0, offset: 0 }], true), 100, 101),
  sent(encodeRequest(messages.SET_VRING_ADDR, ADDRESS, true)),
  sent(encodeRequest(messages.SET_VRING_CALL, 0, true), 102),
  sent(encodeRequest(SET_VRING_KICK, 0, true), 103),
  sent(encodeRequest(messages.SET_VRING_ERR, messages.VRING_NO_DESCRIPTOR, true)),
  sent(encodeRequest(messages.SET_CONFIG, { offset: 32, flags: 0, bytes: Uint8Array.of(1) }, true)),
  sent(encodeRequest(messages.IOTLB_MSG, IOTLB, true)),
  sent(encodeRequest(messages.GET_VRING_BASE, { index: 0, num: 0 }, true)),
]

function sent(bytes: Uint8Array, ...descriptors: number[]): Sent {
  return { bytes, descriptors }
}

/**
 * What receives of these sizes deliver, as Linux does it: a receive goes on into the next send, and ends behind the
 * bytes of one that descriptors came with.
 */
function* received(stream: readonly Sent[], sizes: Iterator<number>): Generator<Sent> {
  const queue = stream.map(({ bytes, descriptors }) => ({ bytes, descriptors }))
  while (queue.length > 0) {
    let room = sizes.next().value as number
    const parts: Uint8Array[] = []
    let descriptors: readonly number[] = []
    while (room > 0 && queue.length > 0 && descriptors.length === 0) {
      const first = queue[0]
      parts.push(first.bytes.subarray(0, room))
      const taken = Math.min(room, first.bytes.length)
      room -= taken
      descriptors = first.descriptors
      if (taken === first.bytes.length) queue.shift()
      else queue[0] = { bytes: first.bytes.subarray(taken), descriptors: [] }
    }
    yield { bytes: Buffer.concat(parts), descriptors }
  }
}

function reader(answers = false): { reader: MessageReader; closed: number[]; take(): Message[] } {
  const closed: number[] = []
  const made = new MessageReader({
    part: 'peer',
    types: FRONT_END_MESSAGES,
    answers,
    close: (descriptor) => closed.push(descriptor),
  })
  const take = (): Message[] => {
    const taken: Message[] = []
    for (let next = made.next(); next !== null; next = made.next()) taken.push(next)
    return taken
  }
  return { reader: made, closed, take }
}

function readAll(stream: Iterable<Sent>): Message[] {
  const { reader: made, take } = reader()
  const all: Message[] = []
  for (const { bytes, descriptors } of stream) {
    made.push(bytes, descriptors)
    all.push(...take())
  }
  return all
}

const whole = readAll(DIALOGUE)

/** A header by hand. */
function header(request: number, flags: number, size: number, payload = 0): Uint8Array {
  const bytes = new Uint8Array(12 + payload)
  new Uint32Array(bytes.buffer, 0, 3).set([request, flags, size])
  return bytes
}

describe('message-reader/split (vhost-user, "Message Specification")', () => {
  it('a message is what was sent, with its descriptors', () => {
    expect(whole.map(({ request, descriptors }) => [request, descriptors])).toEqual([
      [3, []],
      [1, []],
      [2, []],
      [5, [100, 101]],
      [9, []],
      [13, [102]],
      [12, [103]],
      [14, []],
      [25, []],
      [22, []],
      [11, []],
    ])
    expect(decodeRequest('peer', messages.SET_FEATURES, whole[2]).bits()).toEqual([0, 31, 32, 63])
    expect(decodeRequest('peer', SET_MEM_TABLE, whole[3])).toEqual([REGION, { ...REGION, guest: 0, offset: 0 }])
    expect(decodeRequest('peer', messages.SET_VRING_ADDR, whole[4])).toEqual(ADDRESS)
    expect(decodeRequest('peer', messages.SET_CONFIG, whole[8])).toEqual({
      offset: 32,
      flags: 0,
      bytes: Uint8Array.of(1),
    })
    expect(decodeRequest('peer', messages.IOTLB_MSG, whole[9])).toEqual(IOTLB)
    expect(whole.map(({ needsAnswer }) => needsAnswer)).toEqual([false, false, ...Array(9).fill(true)])
  })

  it('every split gives the same messages with the same descriptors', () => {
    const sizes = fc.infiniteStream(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(1, 12, 4096)))
    fc.assert(
      fc.property(sizes, (stream) => {
        expect(readAll(received(DIALOGUE, stream))).toEqual(whole)
      }),
    )
  })

  it('a split at each byte as well', () => {
    const total = DIALOGUE.reduce((sum, { bytes }) => sum + bytes.length, 0)
    for (let first = 1; first <= total; first++) {
      expect(readAll(received(DIALOGUE, [first, ...Array(32).fill(4096)].values()))).toEqual(whole)
    }
  })
})

describe('message-reader/bad: what is no message is refused, and every descriptor of it closed', () => {
  it.each<[string, Uint8Array, readonly number[], string]>([
    ['version 0', header(1, 0, 0), [], 'VHOST_VERSION'],
    ['version 2', header(1, 2, 0), [], 'VHOST_VERSION'],
    ['an answer where a request is due', header(1, 5, 0), [], 'VHOST_FLAGS'],
    ['an unknown flag', header(1, 0x11, 0), [], 'VHOST_FLAGS'],
    ['an unknown request', header(99, 1, 0), [7], 'VHOST_REQUEST'],
    ['a payload where none belongs', header(1, 1, 8, 8), [7], 'VHOST_SIZE'],
    ['a payload that is too short', header(2, 1, 4, 4), [], 'VHOST_SIZE'],
    ['a payload of 4 GiB', header(5, 1, 0xffff_ffff), [7, 8], 'VHOST_SIZE'],
    ['a descriptor where none belongs', header(3, 1, 0), [7], 'VHOST_DESCRIPTORS'],
    ['no descriptor where one belongs', encodeRequest(SET_MEM_TABLE, [REGION], false), [], 'VHOST_DESCRIPTORS'],
    ['two doorbells', encodeRequest(SET_VRING_KICK, 0, false), [7, 8], 'VHOST_DESCRIPTORS'],
    [
      'nine descriptors before a header is complete',
      header(5, 1, 40).subarray(0, 4),
      Array(9)
        .fill(0)
        .map((_, i) => i + 7),
      'VHOST_DESCRIPTORS',
    ],
  ])('%s', (_, bytes, descriptors, code) => {
    const { reader: made, closed, take } = reader()
    made.push(encodeRequest(SET_VRING_KICK, 0, false), [6])
    expect(() => made.push(bytes, descriptors)).toThrow(expect.objectContaining({ code }))
    expect(closed).toEqual([6, ...descriptors])
    expect(take()).toEqual([])
    // Whatever comes after it is refused as well.
    expect(() => made.push(header(3, 1, 0), [9])).toThrow(expect.objectContaining({ code }))
    expect(closed).toEqual([6, ...descriptors, 9])
  })

  it('a request where an answer is due', () => {
    const { reader: made } = reader(true)
    expect(() => made.push(header(1, 1, 8), [])).toThrow(expect.objectContaining({ code: 'VHOST_FLAGS' }))
  })

  it('descriptors that somebody took are not closed', () => {
    const { reader: made, closed, take } = reader()
    made.push(encodeRequest(SET_VRING_KICK, 0, false), [6])
    expect(take()[0].descriptors).toEqual([6])
    expect(() => made.push(header(99, 1, 0), [7])).toThrow()
    expect(closed).toEqual([7])
  })

  it('an end in the middle of a message is told apart from one between messages', () => {
    const { reader: made, closed } = reader()
    expect(() => made.end()).toThrow(expect.objectContaining({ code: 'VHOST_CLOSED' }))
    const { reader: cut } = reader()
    cut.push(header(5, 1, 40), [])
    expect(() => cut.end()).toThrow(expect.objectContaining({ code: 'VHOST_TRUNCATED', details: { bytes: 12 } }))
    expect(closed).toEqual([])
  })

  it('any bytes at all give messages or a typed error, and descriptors are never lost', () => {
    const chunk = fc.record({
      bytes: fc.oneof(fc.uint8Array({ maxLength: 64 }), fc.constantFrom(...DIALOGUE.map(({ bytes }) => bytes))),
      count: fc.integer({ min: 0, max: 3 }),
    })
    fc.assert(
      fc.property(fc.array(chunk), (chunks) => {
        const { reader: made, closed, take } = reader()
        let next = 0
        const owned: number[] = []
        try {
          for (const { bytes, count } of chunks) {
            made.push(
              bytes,
              Array.from({ length: count }, () => next++),
            )
            owned.push(...take().flatMap(({ descriptors }) => descriptors))
          }
        } catch (error) {
          expect((error as { code: string }).code).toMatch(/^VHOST_/)
        }
        made.dispose()
        expect([...owned, ...closed].sort((a, b) => a - b)).toEqual(Array.from({ length: next }, (_, i) => i))
      }),
    )
  })
})

describe('codec: lengths inside of a payload', () => {
  const taken = (bytes: Uint8Array, answers: boolean, descriptors: number[] = []): Message => {
    const { reader: made } = reader(answers)
    made.push(bytes, descriptors)
    return made.next() as Message
  }

  it('a table whose count does not fit its size is refused', () => {
    const bytes = encodeRequest(SET_MEM_TABLE, [REGION], false)
    bytes[12] = 2
    expect(() => decodeRequest('peer', SET_MEM_TABLE, taken(bytes, false, [1]))).toThrow(
      expect.objectContaining({ code: 'VHOST_SIZE' }),
    )
  })

  it('an answer to another request than the one that was sent is refused', () => {
    const bytes = encodeAnswer(messages.GET_STATUS, 3)
    expect(() => decodeAnswer('peer', messages.GET_QUEUE_NUM, taken(bytes, true))).toThrow(
      expect.objectContaining({ code: 'VHOST_REQUEST' }),
    )
    expect(decodeAnswer('peer', messages.GET_STATUS, taken(bytes, true))).toBe(3)
  })

  it('a number of 64 bits beyond 2^53 stays beyond it', () => {
    const bytes = encodeAnswer(messages.GET_STATUS, 0)
    bytes.fill(0xff, 12)
    expect(decodeAnswer('peer', messages.GET_STATUS, taken(bytes, true))).toBe(2 ** 64)
  })
})
