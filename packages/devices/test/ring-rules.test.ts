// Rules of the device's half of a ring that both formats have, by `RingWalker` alone: what was taken, given back and
// used, where the used side is written, and how much of a ring without end is looked at.
import { Meter, Region } from '@guestdma/memory'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { type BusWindows, everything, type QueueFaultReason } from '../src/index.ts'
import { NO_CHAIN, RingWalker } from '../src/ring.ts'
import { BASE, type Element, OFFSET, Ram, Ring } from './support/guest.ts'
import { type Guest, type PackedGuest, packedGuest, type SplitGuest, splitGuest } from './support/ring-guests.ts'
import { checkRing } from './support/ring-invariants.ts'

const NEXT = 1
const WRITE = 2
const INDIRECT = 4
const SIZE = 4
const FORMATS = ['split', 'packed'] as const
type Format = (typeof FORMATS)[number]

let ram: Ram
let port: BusWindows
let walker: RingWalker

function start(format: Format, guest: Guest, size = SIZE, features: Partial<Parameters<RingWalker['start']>[0]> = {}) {
  const setup = {
    size,
    areas: guest.areas,
    packed: format === 'packed',
    indirect: false,
    eventIndex: false,
    inOrder: false,
    batchUsed: false,
    ...features,
  }
  const made = new RingWalker(size, port)
  expect(made.start(setup, size)).toBe(true)
  return made
}

const one = (length = 8): Element[] => [{ address: BASE, length }]
const makeGuest = (format: Format, size = SIZE): Guest =>
  format === 'split' ? splitGuest(ram, size) : packedGuest(ram, size)

// Both sides of a split ring, with nothing in flight.
function beginAt({ ring }: SplitGuest, index: number): void {
  walker.restore({ next: index, used: index, published: index })
  ring.index = ring.seen = index
  ram.set16(ring.avail + 2, index)
  ram.set16(ring.used + 2, index)
}

/** Ids of all that is available. */
function takeAll(): number[] {
  walker.update()
  const rows = walker.takeBatch(64)
  return Array.from({ length: rows }, (_, row) => walker.chains.head(row))
}

beforeEach(() => {
  ram = new Ram()
  ram.alloc(4096)
  port = everything(ram.memory)
})

describe.each(FORMATS)('the device half of a %s ring', (format) => {
  test('in order, rows that are marked used together leave out what was written whole, and nothing else', () => {
    const guest = makeGuest(format)
    walker = start(format, guest, SIZE, { inOrder: true, batchUsed: true })
    const writable = (length: number): Element[] => [{ address: BASE, length, w: true }]
    const ids = guest.offer([writable(8), writable(8), writable(8), writable(8)])
    expect(takeAll()).toEqual(ids)
    // The second was not filled, so that its own length has to be told; the third is whole.
    walker.pushRows(0, 4, Int32Array.of(8, 3, 8, 5))
    walker.flush()
    const told = [0, 2].map((position) => {
      if (format === 'split') return (guest as SplitGuest).ring.usedAt(position)
      const at = (guest as PackedGuest).ring.at(position)
      return { id: ram.u16(at + 12), length: ram.u32(at + 8) }
    })
    expect(told).toEqual([
      { id: ids[1], length: 3 },
      { id: ids[3], length: 5 },
    ])
  })

  test('keeps no more of chains that wait for more than what one chain may have', () => {
    const size = 1024
    const guest = makeGuest(format, size)
    walker = start(format, guest, size, { indirect: true })
    // Chains that share one table.
    const elements = Array.from({ length: size }, () => ({ address: BASE, length: 1, w: true }))
    if (format === 'split') {
      const { ring } = guest as SplitGuest
      const table = ring.table(elements)
      for (let id = 0; id < size; id++) ring.describe(id, table, 16 * size, INDIRECT, 0)
      ring.offer(...Array.from({ length: size }, (_, id) => id))
    } else {
      const { ring } = guest as PackedGuest
      ring.offerTable(0, ...elements)
      for (let id = 1; id < size; id++) ring.describe(id, ram.u32(ring.at(0)), 16 * size, id, INDIRECT)
    }
    walker.update()
    let rows = walker.takeBatch(1)
    while (walker.takeMore() !== NO_CHAIN) rows++
    expect([walker.broken, rows < 200]).toEqual(['segments', true])
  })

  test('agrees with lists of chains, and keeps what holds between two calls (model)', () => {
    const step = fc.tuple(fc.nat({ max: 6 }), fc.nat({ max: 7 }))
    const setup = fc.record({
      size: fc.constantFrom(1, 2, 4, 8),
      eventIndex: fc.boolean(),
      // Of a split ring, whose indices wrap there.
      begin: fc.constantFrom(0, 65_530),
    })
    const steps = fc.array(step, { maxLength: 120, size: 'max' })
    const property = fc.property(setup, steps, ({ size, eventIndex, begin }, all) => {
      ram = new Ram()
      ram.alloc(4096)
      port = everything(ram.memory)
      const guest = makeGuest(format, size)
      walker = start(format, guest, size, { eventIndex })
      if (format === 'split') beginAt(guest as SplitGuest, begin)
      let free = size
      const lengths = new Map<number, number>()
      let offered: number[] = []
      const taken: number[] = []
      const used: number[] = []
      const flushed: number[] = []
      const push = (id: number): void => {
        walker.push(id, 0, true)
        used.push(id)
      }
      for (const [kind, n] of all) {
        if (kind === 0) {
          const length = Math.min(free, 1 + (n % 3))
          if (length === 0) continue
          const [id] = guest.offer([Array.from({ length }, () => one()[0])])
          lengths.set(id, length)
          free -= length
          offered.push(id)
        } else if (kind === 1) walker.update()
        else if (kind === 2) {
          const rows = walker.takeBatch(1 + n)
          const ids = Array.from({ length: rows }, (_, row) => walker.chains.head(row))
          expect(ids).toEqual(offered.splice(0, rows))
          const back = n % (rows + 1)
          walker.untake(back)
          offered = [...ids.slice(rows - back), ...offered]
          taken.push(...ids.slice(0, rows - back))
        } else if (kind === 3 && taken.length > 0) push(taken.splice(n % taken.length, 1)[0])
        else if (kind === 4) for (const id of taken.splice(0)) push(id)
        else if (kind === 5) {
          expect(guest.reap()).toEqual([])
          walker.flushAndRearm()
          flushed.push(...used.splice(0))
        } else if (kind === 6 && taken.length === 0) {
          const position = walker.save()
          // A packed ring publishes what it is about to forget.
          if (format === 'packed') flushed.push(...used.splice(0))
          walker.stop()
          walker = start(format, guest, size, { eventIndex })
          walker.restore(position)
          if (used.length > 0) walker.flush()
          flushed.push(...used.splice(0))
        }
        checkRing(walker)
        expect(walker.broken).toBeNull()
        const reaped = guest.reap()
        expect(reaped).toEqual(flushed.splice(0))
        for (const id of reaped) {
          free += lengths.get(id) ?? 0
          lengths.delete(id)
        }
      }
    })
    fc.assert(property, { numRuns: 150 })
  })

  test('writes and reports nothing but the used side, round after round, one element behind another', () => {
    const guest = makeGuest(format)
    walker = start(format, guest)
    // A split ring's indices wrap at 65,536.
    const rounds = format === 'split' ? 22_000 : 400
    for (let round = 0; round < rounds; round++) {
      const ids = guest.offer([one(), one(), one()])
      ram.writes.length = 0
      expect(takeAll()).toEqual(ids)
      if (round % 2 === 0) walker.pushRows(0, 3, new Int32Array(3))
      else for (const id of ids) walker.push(id, 0, true)
      walker.flush()
      const wrong = ram.writes.filter(
        ([from, length]) => !guest.writable.some(([at, bytes]) => from >= at && from + length <= at + bytes),
      )
      expect([guest.reap(), wrong]).toEqual([ids, []])
      checkRing(walker)
    }
    // What is behind the ring is as it was.
    const [, , , , used] = guest.areas
    const end = used + (format === 'split' ? 6 + 8 * SIZE : 4)
    expect(ram.get(end, 4096).every((byte) => byte === 0)).toBe(true)
  })

  test('gives back what it fetched and did not take, wherever in the ring that lies', () => {
    for (let before = 0; before < 4 * SIZE; before++) {
      const guest = makeGuest(format)
      walker = start(format, guest)
      // The last of these stand at the wrap of a split ring's indices.
      if (format === 'split' && before >= 2 * SIZE) beginAt(guest as SplitGuest, 65_530 - 2 * SIZE)
      for (let n = 0; n < before; n++) {
        guest.offer([one()])
        const [id] = takeAll()
        walker.push(id, 0, true)
        walker.flush()
        guest.reap()
      }
      const ids = guest.offer([one(), one(), one()])
      expect(takeAll()).toEqual(ids)
      walker.untake(2)
      walker.push(ids[0], 0, true)
      walker.flush()
      const position = walker.save()
      expect(position.next).toBe(position.next & 0xffff)
      checkRing(walker)
      walker = start(format, guest)
      walker.restore(position)
      expect(takeAll(), `after ${before} chains`).toEqual(ids.slice(1))
      checkRing(walker)
    }
  })

  test('tells a position of 16 bits, however often the ring went round', () => {
    const guest = makeGuest(format)
    walker = start(format, guest)
    const rounds = format === 'split' ? 65_540 : 400
    for (let n = 0; n < rounds; n++) {
      const ids = guest.offer([one()])
      walker.update()
      walker.take()
      if (n % 2 === 0) walker.push(ids[0], 0, true)
      else walker.pushRows(0, 1, new Int32Array(1))
      walker.flush()
      guest.reap()
      if (n > 65_530 || n % 100 === 0) {
        const { next, used, published } = walker.save()
        const position =
          format === 'split' ? (n + 1) & 0xffff : ((n + 1) % SIZE) | (Math.floor((n + 1) / SIZE) % 2 === 0 ? 0x8000 : 0)
        expect([next, used, published]).toEqual([position, position, position])
      }
    }
  })

  test('executes good chains before one that breaks a rule, and nothing behind it', () => {
    const guest = makeGuest(format, 8)
    walker = start(format, guest, 8)
    const ids = guest.offer([
      one(),
      [
        { address: BASE, length: 1, w: true },
        { address: BASE, length: 1 },
      ],
      one(),
    ])
    expect(takeAll()).toEqual([ids[0]])
    walker.push(ids[0], 0, true)
    expect([walker.take(), walker.broken]).toEqual([NO_CHAIN, 'order'])
    walker.flush()
    expect(guest.reap()).toEqual([ids[0]])
    expect([walker.update(), walker.take()]).toEqual([0, NO_CHAIN])
  })

  test('takes nothing of a ring that is paused, or was stopped', () => {
    const guest = makeGuest(format)
    walker = start(format, guest)
    guest.offer([one(), one()])
    walker.update()
    walker.pause()
    expect([walker.ready, walker.update(), walker.take()]).toEqual([0, 0, NO_CHAIN])
    walker = start(format, guest)
    walker.stop()
    expect([walker.ready, walker.take(), walker.flush()]).toEqual([0, NO_CHAIN, false])
    if (format === 'packed') expect(walker.update()).toBe(0)
  })

  test('asks its port for what it will do: a list of a page that may be read alone is refused where it is to be written', () => {
    const guest = makeGuest(format)
    const page = ram.alloc(4096, 4096)
    const [region] = ram.memory.regions
    const length = page - BASE
    port.setWindows([
      { base: BASE, length, region, offset: OFFSET },
      { base: page, length: 4096, region, offset: OFFSET + length, access: 1 },
    ])
    walker = start(format, guest)
    const readable = { address: page, length: 8 }
    const [id] = guest.offer([[readable, readable]])
    expect(takeAll()).toEqual([id])
    guest.offer([[readable, { ...readable, w: true }]])
    expect([takeAll(), walker.broken]).toEqual([[], 'buffer-unreachable'])
  })

  test('resolves each buffer in its own region, whatever lay in its place in the table before', () => {
    const guest = makeGuest(format)
    const [region] = ram.memory.regions
    const other = new Region(new ArrayBuffer(4096), 'another')
    const there = BASE + 0x100_0000
    port.setWindows([
      { base: BASE, length: ram.memory.ranges[0].length, region, offset: OFFSET },
      { base: there, length: 4096, region: other },
    ])
    walker = start(format, guest)
    const kinds = [
      { address: BASE + 64, regions: region, offset: OFFSET + 64 },
      { address: there + 128, regions: other, offset: 128 },
    ]
    // Every order of three behind every other one.
    for (let round = 0; round < 128; round++) {
      const order = round % 2 === 0 ? round >> 4 : round >> 1
      const list = [0, 1, 2].map((bit) => kinds[(order >> bit) & 1])
      const ids = guest.offer(list.map(({ address }) => [{ address, length: 8 }]))
      expect(takeAll()).toEqual(ids)
      const { chains } = walker
      const found = list.map((_, row) => [chains.regions[chains.first(row)].name, chains.offset(chains.first(row))])
      expect(found).toEqual(list.map(({ regions, offset }) => [regions.name, offset]))
      for (const id of ids) walker.push(id, 0, true)
      walker.flush()
      guest.reap()
    }
  })

  test('chains of many loads keep their descriptors and their numbers, however many are taken together', () => {
    const size = 256
    const guest = makeGuest(format, size)
    walker = start(format, guest, size, { inOrder: true })
    // Each has a first length of its own.
    const lengthsOf = (n: number): number[] => [1 + (n % 97), ...(n % 5 === 0 ? [2, 3] : n % 2 === 0 ? [0, 4] : [])]
    let offered = 0
    let taken = 0
    const due: { id: number; position: number }[] = []
    const look = (first: number, rows: number): void => {
      const { chains } = walker
      for (let row = first; row < first + rows; row++, taken++) {
        // An empty element is no segment, and what comes behind it stands elsewhere.
        const lengths = Array.from({ length: chains.end(row) - chains.first(row) }, (_, i) =>
          chains.length(chains.first(row) + i),
        )
        expect(lengths).toEqual(lengthsOf(taken).filter((length) => length > 0))
        expect(chains.position(row)).toBe(taken & 0xffff)
        due.push({ id: chains.head(row), position: chains.position(row) })
      }
      checkRing(walker)
    }
    const offer = (count: number): void => {
      const chains = Array.from({ length: count }, () => {
        return lengthsOf(offered++).map((length) => ({ address: BASE, length }))
      })
      guest.offer(chains)
      walker.update()
    }
    for (let round = 0; round < 60; round++) {
      offer(110)
      // The 64 of one load, and behind them one of the next: the rest of it stays.
      for (const wanted of [63 - (round % 3), 1, 0, 40]) {
        const rows = walker.takeBatch(wanted)
        look(0, rows)
        for (let more = 0; more < 2 + (round % 3) && wanted === 63 - (round % 3); more++) look(walker.takeMore(), 1)
      }
      while (taken < offered) look(0, walker.takeBatch(64))
      // Completed from the last to the first, they are used from the first to the last.
      const ids = due.map(({ id }) => id)
      for (const { id, position } of due.splice(0).toReversed()) walker.complete(id, position, 0, true)
      walker.flush()
      expect(guest.reap()).toEqual(ids)
    }
  })

  test('in order, completions of any order are used in that of their chains, also of those that were given back', () => {
    const guest = makeGuest(format, 8)
    walker = start(format, guest, 8, { inOrder: true })
    for (let round = 0; round < 40; round++) {
      const ids = guest.offer([one(), [...one(), ...one()], one()])
      expect(takeAll()).toEqual(ids)
      walker.untake(2)
      const { chains } = walker
      const rows = [{ id: ids[0], position: chains.position(0) }]
      expect(takeAll()).toEqual(ids.slice(1))
      for (const row of [0, 1]) rows.push({ id: chains.head(row), position: chains.position(row) })
      const order = round % 2 === 0 ? [2, 1, 0] : [1, 2, 0]
      for (const row of order) {
        expect(guest.reap()).toEqual([])
        walker.complete(rows[row].id, rows[row].position, 0, true)
        walker.flush()
        checkRing(walker)
      }
      expect(guest.reap()).toEqual(ids)
    }
  })

  describe('looks at no more than the queue has', () => {
    const MANY = 64
    const TABLE_ENTRIES = 1000
    const cases: readonly (readonly [string, QueueFaultReason, (guest: SplitGuest | PackedGuest) => void])[] = [
      [
        'a list without an end',
        'chain-length',
        ({ ring }) => {
          for (let entry = 0; entry < MANY; entry++) {
            if (ring instanceof Ring) ring.describe(entry, BASE, 1, NEXT, (entry + 1) % MANY)
            else ring.describe(entry, BASE, 1, 0, NEXT)
          }
          if (ring instanceof Ring) ring.offer(0)
        },
      ],
      [
        'a table without an end',
        'chain-length',
        ({ ring }) => {
          const table = ram.alloc(16 * TABLE_ENTRIES)
          if (ring instanceof Ring) {
            for (let i = 0; i < TABLE_ENTRIES; i++) ring.describe(i, BASE, 1, NEXT, (i + 1) % TABLE_ENTRIES, table)
            ring.describe(0, table, 16 * TABLE_ENTRIES, INDIRECT, 0)
            ring.offer(0)
          } else ring.describe(0, table, 16 * TABLE_ENTRIES, 0, INDIRECT)
        },
      ],
      [
        'a table that is its own entry',
        format === 'split' ? 'indirect-nested' : 'chain-length',
        ({ ring }) => {
          const table = ram.alloc(16 * TABLE_ENTRIES)
          if (ring instanceof Ring) {
            ring.describe(0, table, 16 * TABLE_ENTRIES, INDIRECT, 0, table)
            ring.describe(0, table, 16 * TABLE_ENTRIES, INDIRECT, 0)
            ring.offer(0)
          } else ring.describe(0, table, 16 * TABLE_ENTRIES, 0, INDIRECT)
        },
      ],
    ]
    test.each(cases)('%s', (_, reason, act) => {
      const guest = format === 'split' ? splitGuest(ram, MANY) : packedGuest(ram, MANY)
      walker = start(format, guest, MANY, { indirect: true })
      act(guest)
      const [region] = ram.memory.regions
      region.meter = new Meter()
      walker.update()
      expect([walker.take(), walker.broken]).toEqual([NO_CHAIN, reason])
      // Four words for each descriptor, of the ring and of a table.
      expect(region.meter.snapshot().loads[4]).toBeLessThanOrEqual(4 * (2 * MANY + 2))
    })
  })
})

describe('what is in flight counts for the available index (virtio 1.4 §2.7.6.1)', () => {
  const cases: readonly (readonly [string, number, number])[] = [
    ['more than the queue holds, with what is in flight', 0, 9],
    ['the same, through the wrap', 65_534, 7],
    ['an index that goes back behind what was taken', 0, 2],
    ['the same, through the wrap', 65_534, 65_535],
  ]
  test.each(cases)('%s: from %i', (_, from, index) => {
    const guest = splitGuest(ram, 8)
    walker = start('split', guest, 8)
    walker.restore({ next: from, used: from, published: from })
    guest.ring.index = from
    guest.offer([one(), one(), one(), one()])
    expect(takeAll()).toHaveLength(4)
    ram.set16(guest.ring.avail + 2, index)
    expect([walker.update(), walker.broken, walker.brokenValue]).toEqual([0, 'available-index', index])
  })
})

describe('a packed ring', () => {
  test('reads a table in its order, whatever its flags say beside WRITE (virtio 1.4 §2.8.7)', () => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest, SIZE, { indirect: true })
    for (const flags of [NEXT, INDIRECT, 0xfffd]) {
      guest.ring.offerTable(0, { address: BASE, length: 3 }, { address: BASE + 64, length: 5 })
      const table = ram.u32(guest.ring.at(guest.ring.next - 1))
      for (const entry of [0, 1]) ram.set16(table + 16 * entry + 14, flags)
      expect(takeAll()).toEqual([0])
      expect([walker.chains.readable(0), walker.chains.end(0) - walker.chains.first(0)]).toEqual([8, 2])
      walker.push(0, 0, true)
      walker.flush()
      guest.reap()
    }
  })

  test('leaves a chain alone whose first descriptor has the marks of another lap, and looks at no others (virtio 1.4 §2.8.1)', () => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest)
    guest.ring.describe(1, BASE, 8, 1, 0)
    for (const marks of [0, 0x8000, 0x8080]) {
      ram.set16(guest.ring.at(0) + 14, marks)
      expect([walker.update(), walker.take()]).toEqual([0, NO_CHAIN])
    }
    // The marks of a list's other descriptors are not looked at: its first one spoke for all.
    guest.ring.describe(1, BASE, 8, 3, 0)
    ram.set16(guest.ring.at(1) + 14, 0)
    guest.ring.describe(0, BASE, 8, 3, NEXT)
    expect(takeAll()).toEqual([3])
    expect(walker.chains.end(0)).toBe(2)
  })

  test('is read and written: a port that lets nobody write refuses it', () => {
    const guest = packedGuest(ram, SIZE)
    // The descriptors alone, so that the event suppression structures are within reach.
    port.setWindows([
      { base: BASE, length: guest.ring.avail - BASE, region: ram.memory.regions[0], offset: OFFSET, access: 1 },
      {
        base: guest.ring.avail,
        length: 4096,
        region: ram.memory.regions[0],
        offset: guest.ring.avail - BASE + OFFSET,
      },
    ])
    walker = new RingWalker(SIZE, port)
    const features = { packed: true, indirect: false, eventIndex: false, inOrder: false, batchUsed: false }
    expect(walker.start({ size: SIZE, areas: guest.areas, ...features }, SIZE)).toBe(false)
    expect(walker.broken).toBe('ring-unreachable')
  })

  test('says WRITE where something was written, and only there (virtio 1.4 §2.8.4)', () => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest)
    for (const written of [0, 5, 0, 1]) {
      const at = guest.ring.at(guest.ring.next)
      guest.offer([[{ address: BASE, length: 8, w: true }]])
      walker.push(takeAll()[0], written, false)
      walker.flush()
      expect([ram.u32(at + 8), ram.u16(at + 14) & WRITE]).toEqual([written, written > 0 ? WRITE : 0])
      guest.reap()
    }
  })

  test('notifies exactly where the event is one of the descriptors that were passed, of two laps (virtio 1.4 §2.8.10)', () => {
    for (let from = 0; from < 2 * SIZE; from++) {
      for (let event = 0; event < 2 * SIZE; event++) {
        for (let count = 1; count <= SIZE; count++) {
          const guest = packedGuest(ram, SIZE)
          walker = start('packed', guest, SIZE, { eventIndex: true })
          for (let n = 0; n < from; n++) {
            guest.offer([one()])
            walker.push(takeAll()[0], 0, true)
            walker.flush()
            guest.reap()
          }
          guest.ring.event(2, event)
          guest.offer(Array.from({ length: count }, () => one()))
          for (const id of takeAll()) walker.push(id, 0, true)
          const passed = Array.from({ length: count }, (_, i) => guest.ring.place(from + i))
          expect(walker.flush(), `from ${from}, ${count}, event ${event}`).toBe(
            passed.includes(guest.ring.place(event)),
          )
        }
      }
    }
  })

  test.each([
    ['an event beyond the ring', SIZE, 2, true],
    ['an event far beyond it', 0x7fff, 2, true],
    ['an event that was not agreed on', 3, 2, false],
    ['flags that are reserved', 3, 3, true],
  ])('%s is answered by a notification (virtio 1.4 §2.8.14)', (_, event, flags, eventIndex) => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest, SIZE, { eventIndex })
    for (let n = 0; n < 4 * SIZE; n++) {
      ram.set16(guest.ring.avail, n % 2 === 0 ? event : event | 0x8000)
      ram.set16(guest.ring.avail + 2, flags)
      guest.offer([one()])
      walker.push(takeAll()[0], 0, true)
      expect(walker.flush()).toBe(true)
      guest.reap()
    }
  })

  test('after a restore it notifies once in any case, since nothing says what the driver was told', () => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest)
    guest.ring.event(1)
    walker.restore(walker.save())
    for (const wanted of [true, false, false]) {
      guest.offer([one()])
      walker.push(takeAll()[0], 0, true)
      expect(walker.flush()).toBe(wanted)
      guest.reap()
    }
  })

  test('an id is free again once it was used, and not before', () => {
    const guest = packedGuest(ram, SIZE)
    walker = start('packed', guest)
    for (let lap = 0; lap < 9; lap++) {
      guest.ring.offer(2, ...one(), ...one())
      expect(takeAll()).toEqual([2])
      walker.push(2, 0, true)
      walker.flush()
      expect(guest.reap()).toEqual([2])
    }
    guest.ring.offer(2, ...one())
    expect(takeAll()).toEqual([2])
    guest.ring.offer(2, ...one())
    expect([takeAll(), walker.broken, walker.brokenValue]).toEqual([[], 'head', 2])
  })
})
