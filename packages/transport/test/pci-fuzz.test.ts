import type { DeviceAddress, RegisterBus } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import { type PciAccess, PciTransport, TransportError } from '@guestdma/transport'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'

const RUNS = 1500
/** A period, in reads of configuration space, that no property reaches. */
const NEVER = 1_000_000
/** Far more than any probe or operation needs; what exceeds it does not end. */
const ACCESSES = 20_000
const AREAS = { descriptor: 0x1000 as DeviceAddress, driver: 0x2000 as DeviceAddress, device: 0x3000 as DeviceAddress }

interface Access {
  readonly bar: number
  readonly kind: 'r' | 'w'
  readonly offset: number
  readonly size: number
}

interface Capability {
  readonly id: number
  readonly type: number
  readonly bytes: number
  readonly bar: number
  readonly offset: number
  readonly length: number
  readonly extra: number
  /** Where it links to; null: the next one. */
  readonly next: number | null
}

interface Shape {
  readonly caps: readonly Capability[]
  /** Are there usable ones of each type that a device must have? */
  readonly essentials: boolean
  /** The low bits of each BAR. */
  readonly bars: readonly number[]
}

interface Window {
  readonly bar: number
  readonly start: number
  readonly end: number
}

/**
 * A function whose registers answer from a list, over and over. Configuration space is `space` where it is stable, and
 * a BAR holds what it was given last, so that sizing finds something.
 */
class Hostile implements PciAccess {
  readonly accesses: Access[] = []
  readonly config: RegisterBus
  readonly space: Uint8Array
  private readonly answers: readonly number[]
  private readonly mapped: number
  /** Every so many reads of configuration space one is answered from the list. */
  private readonly restless: number
  windowed = 0
  /** Is there a transport already? */
  live = false
  private reads = 0
  private turn = 0
  private count = 0

  constructor(space: Uint8Array, answers: readonly number[], mapped: number, restless: number) {
    this.space = space
    this.answers = answers
    this.mapped = mapped
    this.restless = restless
    this.config = {
      read: (offset, size) => {
        this.check(offset, size, 256)
        this.noteWindow(offset, 'r')
        if (++this.reads % this.restless === 0) return this.answer()
        let value = 0
        for (let i = size - 1; i >= 0; i--) value = value * 256 + this.space[offset + i]
        return value
      },
      write: (offset, size, value) => {
        this.check(offset, size, 256)
        this.noteWindow(offset, 'w')
        const bar = (offset - 0x10) >> 2
        if (offset >= 0x40) for (let i = 0; i < size; i++) this.space[offset + i] = Math.floor(value / 256 ** i)
        if (offset < 0x10 || offset >= 0x28) return
        // Sizes differ from BAR to BAR: 256 bytes to 8 KiB.
        const flags = this.space[offset] & 0xf
        const kept = (value & -(256 << bar)) >>> 0
        for (let i = 0; i < 4; i++) this.space[offset + i] = kept >>> (8 * i)
        this.space[offset] |= flags
      },
    }
  }

  bar(index: number): RegisterBus | null {
    if (((this.mapped >> index) & 1) === 0) return null
    return {
      read: (offset, size) => {
        this.check(offset, size, Number.POSITIVE_INFINITY)
        this.accesses.push({ bar: index, kind: 'r', offset, size })
        return this.answer()
      },
      write: (offset, size) => {
        this.check(offset, size, Number.POSITIVE_INFINITY)
        this.accesses.push({ bar: index, kind: 'w', offset, size })
      },
    }
  }

  private answer(): number {
    return this.answers[this.turn++ % this.answers.length]
  }

  // An access to pci_cfg_data is one to a BAR. A list that leads into the middle of that capability is read like any
  // other, before it is known to be there; so this counts from the end of the probe.
  private noteWindow(offset: number, kind: 'r' | 'w'): void {
    const at = offset - 16
    if (!this.live || at < 0x40 || this.space[at] !== 9 || this.space[at + 3] !== 5) return
    const view = new DataView(this.space.buffer, at)
    this.windowed++
    this.accesses.push({ bar: view.getUint8(4), kind, offset: view.getUint32(8, true), size: view.getUint32(12, true) })
  }

  // Not a TransportError, so that the property fails on it.
  private check(offset: number, size: number, end: number): void {
    if (++this.count > ACCESSES) throw new Error('it does not end')
    if (!(offset >= 0 && offset + size <= end && offset % size === 0)) {
      throw new Error(`an access of ${size} bytes at ${offset}`)
    }
  }
}

/** What the bytes themselves name: every place that could be a capability, whether it is in the list or not. */
function windows(space: Uint8Array): Window[] {
  const view = new DataView(space.buffer)
  const found: Window[] = []
  for (let at = 0x40; at <= 0xf0; at += 4) {
    if (space[at] === 9 && space[at + 3] >= 1 && space[at + 3] <= 4) {
      const start = view.getUint32(at + 8, true)
      found.push({ bar: space[at + 4], start, end: start + view.getUint32(at + 12, true) })
    }
    if (space[at] === 0x11) {
      const table = view.getUint32(at + 4, true)
      const start = table - (table % 8)
      found.push({ bar: table % 8, start, end: start + 16 * ((view.getUint16(at + 2, true) & 0x7ff) + 1) })
    }
  }
  return found
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (error instanceof TransportError) return undefined
    throw error
  }
}

function exercise(transport: PciTransport, features: FeatureSet): void {
  attempt(() => transport.useMessages({ address: () => 0xfee0_0000, data: (vector) => vector }))
  attempt(() => transport.writeStatus(0))
  attempt(() => transport.readStatus())
  attempt(() => transport.readFeatures())
  attempt(() => transport.writeFeatures(features))
  for (let index = 0; index < 3; index++) {
    const max = attempt(() => transport.maxQueueSize(index)) ?? 0
    attempt(() => transport.enableQueue(index, 2 ** Math.floor(Math.log2(Math.max(1, max))), AREAS))
    transport.notify(index, 0x8001)
  }
  attempt(() => transport.writeStatus(0x0f))
  for (const offset of [0, 5, 6, 8, 0x100]) {
    attempt(() => transport.readConfig((config) => config.read8(offset)))
    attempt(() => transport.readConfig((config) => config.read16(offset)))
    attempt(() => transport.writeConfig(offset, 4, 1))
  }
  transport.messageArrived(1)
  transport.takeInterrupts()
  attempt(() => transport.resetQueue(0))
  attempt(() => transport.queueResetDone(0))
}

const word = fc.oneof(
  fc.nat(0xffff),
  fc.integer({ min: -(2 ** 31), max: 2 ** 32 - 1 }),
  fc.constantFrom(0, 1, 2, 0xffff),
)
const answers = fc.array(word, { minLength: 1, maxLength: 12 })
const features = fc.constantFrom(FeatureSet.of(32), FeatureSet.of(32, 38))

// A header that passes, and capabilities that are nearly right: random bytes seldom get that far.
const capability: fc.Arbitrary<Capability> = fc.record({
  id: fc.constantFrom(9, 9, 9, 9, 0x11, 1),
  type: fc.constantFrom(1, 2, 3, 4, 5, 8, 9, 10),
  bytes: fc.constantFrom(16, 20, 24, 15, 255),
  bar: fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 255),
  offset: fc.oneof(fc.constantFrom(0, 0x40, 0x80, 0x1000, 0xffff_fff0), fc.nat(0x400)),
  length: fc.oneof(fc.constantFrom(0x38, 0x40, 0x100, 1, 0, 0xffff_ffff), fc.nat(0x200)),
  extra: fc.constantFrom(0, 2, 4, 3, 0x1000, 0xffff_ffff),
  next: fc.oneof({ weight: 14, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.nat(255) }),
})
const shaped: fc.Arbitrary<Shape> = fc.record({
  caps: fc.array(capability, { minLength: 1, maxLength: 8 }),
  essentials: fc.boolean(),
  bars: fc.array(fc.constantFrom(0, 1, 4, 8, 0xc, 6), { minLength: 6, maxLength: 6 }),
})

function build({ caps, essentials, bars }: Shape): Uint8Array {
  const space = new Uint8Array(256)
  const view = new DataView(space.buffer)
  space.set([0xf4, 0x1a, 0x41, 0x10, 7, 0, 0x10, 0])
  for (const [i, flags] of bars.entries())
    view.setUint32(0x10 + 4 * i, (0x8000_0000 + i * 0x10_0000 + flags) >>> 0, true)
  space[0x34] = 0x40
  const list = [...caps]
  if (essentials) {
    const plain = { id: 9, bytes: 20, bar: 0, length: 0x40, extra: 4, next: null }
    list.splice(1, 0, ...[1, 2, 3].map((type) => ({ ...plain, type, offset: 0x40 * (type - 1) })))
  }
  for (const [i, cap] of list.slice(0, 8).entries()) {
    const at = 0x40 + 24 * i
    space.set([cap.id, cap.next ?? (i + 1 < list.length ? at + 24 : 0), cap.bytes, cap.type, cap.bar], at)
    view.setUint32(at + 8, cap.offset, true)
    view.setUint32(at + 12, cap.length, true)
    view.setUint32(at + 16, cap.extra, true)
    if (cap.id === 0x11) space.set([cap.length & 0xff, 0, cap.bar & 7, cap.offset & 0xff, 0, 0], at + 2)
  }
  return space
}

describe('pci/hostile: a function that answers anything', () => {
  it('is a transport, no device or a TransportError: random configuration spaces and registers', () => {
    let transports = 0
    const space = fc.uint8Array({ minLength: 256, maxLength: 256 })
    fc.assert(
      fc.property(
        space,
        answers,
        fc.nat(63),
        fc.constantFrom(7, NEVER),
        features,
        (bytes, list, mapped, restless, agreed) => {
          bytes.set([0xf4, 0x1a, 0x41, 0x10])
          bytes[6] |= 0x10
          bytes[0x0e] = 0
          const hostile = new Hostile(bytes, list, mapped, restless)
          const transport = attempt(() => PciTransport.probe(hostile, 'x', { swiotlbRfc: true }))
          if (transport) exercise(transport, agreed)
          transports += transport ? 1 : 0
        },
      ),
      { numRuns: RUNS },
    )
    expect(transports).toBeLessThan(RUNS)
  })

  it('is accessed only inside the windows that its capabilities name', {
    tags: ['4.1.4.1/map-needed', '4.1.4.9.2/inside'],
  }, () => {
    let transports = 0
    let accesses = 0
    let windowed = 0
    fc.assert(
      fc.property(shaped, answers, fc.nat(63), features, (shape, list, mapped, agreed) => {
        const bytes = build(shape)
        const hostile = new Hostile(bytes, list, mapped, NEVER)
        const before = Uint8Array.from(bytes)
        const transport = attempt(() => PciTransport.probe(hostile, 'x', { swiotlbRfc: true }))
        expect(hostile.accesses).toEqual([])
        // Sizing put everything back, as far as those registers hold what is written.
        expect(bytes.subarray(0x28)).toEqual(before.subarray(0x28))
        if (!transport) return
        transports++
        hostile.live = true
        exercise(transport, agreed)
        const named = windows(before)
        const outside = hostile.accesses.filter(({ bar, offset, size }) => {
          return !named.some((window) => window.bar === bar && offset >= window.start && offset + size <= window.end)
        })
        expect(outside).toEqual([])
        accesses += hostile.accesses.length
        windowed += hostile.windowed
      }),
      { numRuns: RUNS },
    )
    // Otherwise the property says nothing.
    expect(transports).toBeGreaterThan(RUNS / 20)
    expect(accesses).toBeGreaterThan(RUNS)
    expect(windowed).toBeGreaterThan(RUNS / 20)
  })

  it('is accessed in aligned fields, and not for ever, where its configuration space changes between reads', () => {
    let transports = 0
    fc.assert(
      fc.property(shaped, answers, fc.integer({ min: 7, max: 120 }), features, (shape, list, restless, agreed) => {
        const hostile = new Hostile(build(shape), list, 63, restless)
        const transport = attempt(() => PciTransport.probe(hostile, 'x'))
        if (transport) exercise(transport, agreed)
        transports += transport ? 1 : 0
      }),
      { numRuns: RUNS },
    )
    expect(transports).toBeGreaterThan(RUNS / 50)
  })
})
