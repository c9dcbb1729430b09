import { BIDIRECTIONAL, DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { ACCESS_READ, ACCESS_WRITE } from '@guestdma/memory'
import { reaches, readBus, writeBus } from '../doubles/bus-access.ts'
import { DIRT } from '../doubles/test-machine.ts'
import { fillPattern, firstDifference, pattern, type SchemeRig, type SchemeSuite } from './rig.ts'

/** Where the lent buffers of these tests lie: in the middle of the arena, not at the start of a granule. */
const at = (rig: SchemeRig): number => (rig.arena.length >>> 1) + 136

/** More cycles than this are not spent on waiting for a deferred revocation. */
const MAX_STALE_CYCLES = 65_536
/** So many are tried where a backend sets no bound. */
const SOME_CYCLES = 1024

/** Each trait is tried, and what is found must be what is declared: neither more nor less. */
export function describeTraits({ test, check }: SchemeSuite): void {
  test('streaming: in place, copied, or mixed', (rig) => {
    const { granule } = rig.backend.limits
    let { streaming } = rig.backend.traits
    if (streaming === 'mixed') {
      const whole = rig.lend(0, granule, BIDIRECTIONAL)
      rig.arena[0] ^= 0xff
      check('a whole granule is lent in place', readBus(rig.port, whole.device[0], 1)?.[0], rig.arena[0])
      rig.takeBack(whole, 0)
      streaming = 'copied'
    }
    const m = rig.lend(at(rig), 64, BIDIRECTIONAL)
    const before = readBus(rig.port, m.device[0], m.deviceLength[0])
    rig.arena[at(rig)] ^= 0xff
    const seen = firstDifference(readBus(rig.port, m.device[0], m.deviceLength[0]), before as Uint8Array) !== -1
    check('a store of the CPU is seen by the device without a sync', seen ? 'in-place' : 'copied', streaming)
    const was = rig.arena.slice()
    writeBus(rig.port, m.device[0], pattern(64, 1))
    const arrived = firstDifference(rig.arena, was) !== -1
    check('a store of the device is seen by the CPU without a sync', arrived ? 'in-place' : 'copied', streaming)
    rig.takeBack(m, 0)
  })

  test('readOnly: whether the device can change what was lent for reading (ring/immutability)', (rig) => {
    fillPattern(rig.arena, 8)
    const before = rig.arena.slice()
    const m = rig.lend(4096, 100, TO_DEVICE)
    rig.deviceWrites(m, pattern(100, 9))
    rig.takeBack(m, 100)
    const same = firstDifference(rig.arena, before) === -1
    check('what was lent for reading stays as it was', same ? 'enforced' : 'not-enforced', rig.backend.traits.readOnly)
  })

  test('payload: plain or transformed', (rig) => {
    fillPattern(rig.arena, 2)
    const m = rig.lend(at(rig), 256, TO_DEVICE)
    const onBus = readBus(rig.port, m.device[0], 256)
    const plain = firstDifference(onBus, rig.arena.slice(at(rig), at(rig) + 256)) === -1
    check('what is on the bus', plain ? 'plain' : 'transformed', rig.backend.traits.payload)
    rig.takeBack(m, 0)
  })

  test('home: where the lent bytes are', (rig) => {
    const m = rig.lend(at(rig), 256, TO_DEVICE)
    rig.port.request[0] = m.device[0]
    rig.port.resolve(1, ACCESS_READ)
    const { region, offset } = rig.port
    const inRam = rig.machine.memory.ranges.some(
      (range) =>
        range.region.source === region.source && offset >= range.offset && offset < range.offset + range.length,
    )
    check('the memory that the device reads', inRam ? 'guest-ram' : 'device-memory', rig.backend.traits.home)
    rig.takeBack(m, 0)
  })

  test('reach: what the device can touch around lent bytes', (rig) => {
    const { reach } = rig.backend.traits
    const { granule } = rig.backend.limits
    // A virtio-iommu cannot map a single byte (virtio 1.4 §5.13.6.5), so that reach is tried with two.
    for (const length of [reach === 'byte' ? 2 : 1, 64]) {
      const { device, outside, changed } = probe(rig, length)
      const first = Math.floor(device / granule) * granule
      const last = Math.ceil((device + length) / granule) * granule - 1
      const beyond = outside.filter((address) => address < first || address > last).length
      const near = first < device || last > device + length - 1
      const guest = changed.filter((i) => i < at(rig) || i >= at(rig) + length).length
      // `all` comes first: what reaches everything reaches whole granules as well.
      const found = guest > 0 && beyond > 0 ? 'all' : beyond > 0 ? 'pool' : outside.length > 0 ? 'granule' : 'byte'
      const declared = reach === 'granule' && !near ? 'byte' : reach
      check(`what was reached around ${length} lent bytes`, found, declared)
      if (found === 'granule')
        check('bytes of the granule that are out of reach', last - first + 1 - length - outside.length, 0)
    }
  })

  test('reach: guest memory that was never lent', (rig) => {
    const m = rig.lend(at(rig), 64, BIDIRECTIONAL)
    const before = rig.arena.slice()
    const far = [0x1_0000, 0x4_0000, 0x7_0000].flatMap((distance) => [m.device[0] + distance, m.device[0] - distance])
    // The guest's own addresses are the first thing that a wrong driver, or a malicious device, would try.
    far.push(rig.machine.arenaBase, rig.machine.arenaBase + at(rig) + 4096)
    for (const address of far) if (address >= 0) writeBus(rig.port, address, new Uint8Array([0x42]))
    before.copyWithin(at(rig), at(rig), at(rig))
    const touched = firstDifference(rig.arena, before) !== -1
    check('a byte that was never lent was overwritten', touched, rig.backend.traits.reach === 'all')
  })

  test('revocation: whether, and when, the device loses what was taken back [commit-revokes]', (rig) => {
    const { revocation, streaming } = rig.backend.traits
    const { staleEntries, staleNs, granule } = rig.backend.limits
    // Where some granules are copied, those are looked at that are not.
    const [where, length] = streaming === 'mixed' ? [0, granule] : [at(rig), 64]
    const m = rig.lend(where, length, BIDIRECTIONAL)
    const device = m.device[0]
    rig.takeBack(m, 0)
    const atOnce = stillReaches(rig, device, where)
    if (!atOnce && keptByNeighbour(rig)) {
      const kept = 'deferred'
      check('it can still be reached through a neighbour in its granule, so the backend is', kept, revocation)
      check('limits on that', [staleEntries, staleNs], [Infinity, Infinity])
      return
    }
    if (!atOnce) {
      check('it is lost when commitUnmaps returns', 'strict', revocation)
      check('stale entries that a strict backend may leave', [staleEntries, staleNs], [0, 0])
      return
    }
    check(
      'it can still be reached after commitUnmaps, so the backend is not',
      revocation === 'strict' ? 'strict' : 'not strict',
      'not strict',
    )
    const cycles = staleEntries < MAX_STALE_CYCLES ? staleEntries : SOME_CYCLES
    const elsewhere = where === 0 ? rig.arena.length >>> 1 : 0
    for (let i = 0; i <= cycles; i++) rig.takeBack(rig.lend(elsewhere + 64 * (i % 64), 64, BIDIRECTIONAL), 0)
    const lost = !stillReaches(rig, device, where)
    check(`it is lost after ${cycles} further unmaps`, lost ? 'deferred' : 'none', revocation)
  })

  test('enforcedBy: nothing, or something', (rig) => {
    const { enforcedBy, reach, revocation } = rig.backend.traits
    const unconfined = reach === 'all' && revocation === 'none'
    check('what a device without any limit is confined by', enforcedBy === 'nothing', unconfined)
  })

  test('residue: what a device finds of earlier mappings, and what it has delivered when it overstates what it wrote (ring/used)', async (rig) => {
    const other = await rig.another()
    // The others first: afterwards a backend's own bytes lie in every slot.
    const others = left(other, rig) || residue(other, rig) || residueOfWrites(other, rig)
    // What the device wrote first: what it was lent is found by more of them.
    const writes = residueOfWrites(rig, rig)
    const own = residue(rig, rig)
    check(
      'bytes of earlier mappings are found',
      others ? 'other-devices' : own ? 'own' : writes ? 'own-writes' : 'none',
      rig.backend.traits.residue,
    )
  })

  test('residue: what was allocated and freed does not arrive either, unless declared', (rig) => {
    const { backend } = rig
    const regions = Array.from({ length: 4 }, () => backend.alloc(2048, 8, TO_DEVICE, 'payload'))
    for (const { region, offset, length } of regions) region.u8.fill(SECRET, offset, offset + length)
    for (const region of regions) backend.free(region)
    const arrived = countDelivered(rig, SECRET)
    check('bytes of freed memory arrive', keepsTheGuests(rig) ? arrived : 0, 0)
  })

  test('residue: what guest RAM held before the scheme was set up does not arrive, unless declared', (rig) => {
    const arrived = countDelivered(rig, DIRT)
    check('old bytes of guest RAM arrive', keepsTheGuests(rig) ? arrived : 0, 0)
  })

  test('reach: a pool holds nothing of what guest RAM held before', (rig) => {
    const m = rig.lend(at(rig), 64, TO_DEVICE)
    const { reach } = rig.backend.traits
    let old = 0
    for (const address of around(m.device[0], 64, 8192)) {
      if (reaches(rig.port, address, ACCESS_READ) && readBus(rig.port, address, 1)?.[0] === DIRT) old++
    }
    const mayBe = reach === 'all' || reach === 'granule'
    check('old bytes of guest RAM that the device can read', mayBe ? 0 : old, 0)
    rig.takeBack(m, 0)
  })
}

const SECRET = 0x5e
const MINE = 0x3c
const ROWS = 64

// The addresses around a lent span, nearest last on each side, up to `radius` bytes away.
function around(device: number, length: number, radius: number): number[] {
  const addresses: number[] = []
  for (let i = 1; i <= radius; i++) addresses.push(device - i, device + length - 1 + i)
  return addresses.filter((address) => address >= 0)
}

/** Lends, lets the device write every address around it, and says which it could, and which guest bytes changed. */
function probe(rig: SchemeRig, length: number): { device: number; outside: number[]; changed: number[] } {
  fillPattern(rig.arena, 3)
  const before = rig.arena.slice()
  const m = rig.lend(at(rig), length, BIDIRECTIONAL)
  const device = m.device[0]
  const radius = Math.min(65_536, Math.max(4096, 2 * rig.backend.limits.granule))
  const outside = around(device, length, radius).filter(
    (address) => reaches(rig.port, address, ACCESS_WRITE) || reaches(rig.port, address, ACCESS_READ),
  )
  for (const address of outside) {
    const was = readBus(rig.port, address, 1)?.[0] ?? 0
    writeBus(rig.port, address, new Uint8Array([was ^ 0xff]))
  }
  const changed: number[] = []
  for (let i = 0; i < before.length; i++) if (rig.arena[i] !== before[i]) changed.push(i)
  rig.takeBack(m, 0)
  return { device, outside, changed }
}

/** Does the device reach a buffer that was taken back through one beside it that was not? */
function keptByNeighbour(rig: SchemeRig): boolean {
  const first = rig.lend(at(rig), 64, BIDIRECTIONAL)
  const second = rig.lend(at(rig) + 64, 64, BIDIRECTIONAL)
  rig.takeBack(first, 0)
  const last = at(rig) + 63
  rig.arena[last] = 0x11
  writeBus(rig.port, second.device[0] - 1, new Uint8Array([0x42]))
  const reached = rig.arena[last] !== 0x11
  rig.takeBack(second, 0)
  return reached
}

/** Does the device still reach the guest's bytes at `at`, to read them or to write them? */
function stillReaches(rig: SchemeRig, device: number, where: number): boolean {
  fillPattern(rig.arena, 4)
  const before = rig.arena.slice()
  const read = readBus(rig.port, device, 64)
  if (read !== null && firstDifference(read, before.subarray(where, where + 64)) === -1) return true
  writeBus(rig.port, device, new Uint8Array(64).fill(0x42))
  return firstDifference(rig.arena, before) !== -1
}

/** Can the device of `rig` read what `writer` lent before and took back? */
function left(writer: SchemeRig, rig: SchemeRig): boolean {
  const m = new DmaMappings(ROWS)
  const length = Math.min(1024, rig.longest)
  const rows = mapAll(writer, m, length, TO_DEVICE, SECRET)
  giveBack(writer, m, rows, 0)
  // What the guest itself holds is a question of reach.
  writer.arena.fill(MINE, 0, ROWS * 1032)
  for (let row = 0; row < rows; row++) {
    const bytes = readBus(rig.port, m.device[row], length)
    if (bytes?.includes(SECRET)) return true
  }
  return false
}

/**
 * Does a mapping of `rig` deliver what `writer` lent before, when its device wrote nothing and says that it wrote all?
 */
function residue(writer: SchemeRig, rig: SchemeRig): boolean {
  const m = new DmaMappings(ROWS)
  const length = Math.min(1024, rig.longest)
  const rows = mapAll(writer, m, length, TO_DEVICE, SECRET)
  giveBack(writer, m, rows, 0)
  return countDelivered(rig, SECRET) > 0
}

/** The same for what the device of `writer` wrote into earlier mappings. */
function residueOfWrites(writer: SchemeRig, rig: SchemeRig): boolean {
  const m = new DmaMappings(ROWS)
  const length = Math.min(1024, rig.longest)
  const rows = mapAll(writer, m, length, FROM_DEVICE, MINE)
  for (let row = 0; row < rows; row++) writeBus(writer.port, m.device[row], new Uint8Array(length).fill(SECRET))
  giveBack(writer, m, rows, 0)
  return countDelivered(rig, SECRET) > 0
}

/** Does the backend claim that no bytes of the guest's are delivered? */
function keepsTheGuests({ backend }: SchemeRig): boolean {
  return backend.traits.residue === 'none' || backend.traits.residue === 'own-writes'
}

/**
 * Maps as many receive buffers as there are to be had, claims that all of them were filled, and counts the bytes of one
 * value.
 */
function countDelivered(rig: SchemeRig, value: number): number {
  const m = new DmaMappings(ROWS)
  const length = Math.min(1024, rig.longest)
  const rows = mapAll(rig, m, length, FROM_DEVICE, MINE)
  giveBack(rig, m, rows, length)
  let count = 0
  for (let i = 0; i < rows * 1032; i++) if (rig.arena[i] === value) count++
  return count
}

function mapAll(rig: SchemeRig, m: DmaMappings, length: number, direction: 1 | 2, value: number): number {
  rig.arena.fill(value, 0, ROWS * 1032)
  let rows = 0
  while (rows < ROWS && rig.map(m, rows, 1032 * rows, length, direction) === 0) rows++
  rig.backend.commitMaps()
  return rows
}

function giveBack(rig: SchemeRig, m: DmaMappings, rows: number, written: number): void {
  for (let row = 0; row < rows; row++) rig.backend.unmap(m, row, written)
  rig.backend.commitUnmaps()
}
