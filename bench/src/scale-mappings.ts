import { BounceBackend, BouncePool } from '@guestdma/bounce'
import { everything, IommuDevice, MmioRegisters } from '@guestdma/devices'
import { DMA_OK, type DmaBackend, DmaMappings, type DmaStatus, TO_DEVICE } from '@guestdma/dma'
import { IommuBackend, type IommuBackendCounters, type IommuDomain, VirtioIommu } from '@guestdma/iommu'
import { type DeviceAddress, GuestMemory, guestAddress, Region, SpanAllocator } from '@guestdma/memory'
import { MmioTransport } from '@guestdma/transport'
import { bytesInUse, fastest, type Grown } from './scale-measure.ts'

const BASE = 0x1_0000_0000
const RAM = 0x8000_0000
const RAM_BYTES = 16 << 20
// Small enough that a million rows, each on a page of its own, fit in little memory.
const PAGE = 256
const SLOT = 2048
const BATCH = 32
const BATCHES = 4096
const LIVE = [1e2, 1e3, 1e4, 1e5, 1e6]
// A million slots of a pool would take 2 GiB.
const MOST_SLOTS = 1e5

/** An IOMMU that does nothing, at once. */
export class IdleDomain implements IommuDomain {
  readonly name = 'idle'
  readonly granule: number
  readonly leastLength: number
  readonly gaps: boolean
  readonly identity = false
  readonly broken = false
  readonly inputStart = 0
  readonly inputEnd: number = 2 ** 48 - 1
  readonly reserved: readonly never[] = []
  readonly request: Float64Array = new Float64Array(3)

  constructor(granule: number, gaps: boolean) {
    this.granule = this.leastLength = granule
    this.gaps = gaps
  }

  map(): void {}
  unmap(): void {}
  commit(): DmaStatus {
    return DMA_OK
  }
  dispose(): void {}
}

/**
 * Nanoseconds for one map and one unmap in batches of 32, commits included, and bytes of memory, with more and more
 * mappings live. `hot`: always the same rows. `random`: rows of any age. `near`: rows of any age out of a hundred
 * neighbours, so that tables are as large and caches as warm. Nobody else has mapped the page of a row, so that an IOMMU
 * has to be asked for each.
 *
 * @param backend `none` is what it costs to touch the rows of the caller's own table; that is in the others as well
 */
export async function* mappings(backend: string): AsyncGenerator<Grown> {
  for (const live of LIVE) if (backend !== 'shared-pool' || live <= MOST_SLOTS) yield* measure(backend, live)
}

async function* measure(kind: string, live: number): AsyncGenerator<Grown> {
  const figure = { what: 'live-mappings', size: live, unit: 'ns' } as const
  const rows = live + BATCH
  const memory = new GuestMemory([
    { base: BASE, length: rows * PAGE, memory: new ArrayBuffer(rows * PAGE) },
    { base: RAM, length: RAM_BYTES, memory: new ArrayBuffer(RAM_BYTES) },
  ])
  const m = new DmaMappings(rows)
  for (let row = 0; row < rows; row++) {
    m.guest[row] = BASE + row * PAGE
    m.length[row] = PAGE
    m.direction[row] = TO_DEVICE
  }
  const hot = Uint32Array.from({ length: BATCH }, (_, i) => live + i)
  const random = randomRows(live)
  const near = randomRows(LIVE[0])
  let at = 0
  const next = (): number => {
    at = at + BATCH === random.length ? 0 : at + BATCH
    return at
  }
  if (kind === 'none') {
    yield { ...figure, detail: 'hot', value: fastest(BATCH, () => touch(m, hot, 0)) }
    yield { ...figure, detail: 'near', value: fastest(BATCH, () => touch(m, near, next())) }
    yield { ...figure, detail: 'random', value: fastest(BATCH, () => touch(m, random, next())) }
    return
  }
  const pool = kind === 'shared-pool' ? new Region(new ArrayBuffer(rows * 2 * SLOT), 'pool') : null
  const before = bytesInUse()
  const backend = pool === null ? await behindIommu(kind, memory, 2 * rows) : overPool(memory, pool)
  for (let row = 0; row < live; row++) {
    must(backend.map(m, row), `map of row ${row}`)
    if (row % 64 === 63) must(backend.commitMaps(), 'commitMaps')
  }
  must(backend.commitMaps(), 'commitMaps')
  yield { what: 'memory', detail: 'each mapping', size: live, value: (bytesInUse() - before) / live, unit: 'bytes' }

  const timed = (detail: string, batch: () => void): Grown => {
    if (backend instanceof IommuBackend) asksForEach(backend.counters, batch)
    return { ...figure, detail, value: fastest(BATCH, batch) }
  }
  yield timed('hot', () => {
    mapAll(backend, m, hot, 0)
    unmapAll(backend, m, hot, 0)
  })
  for (const [detail, rows] of [
    ['near', near],
    ['random', random],
  ] as const) {
    yield timed(detail, () => {
      const first = next()
      unmapAll(backend, m, rows, first)
      mapAll(backend, m, rows, first)
    })
  }
  if (backend.counters.exhausted > 0) throw new Error('mappings found no room')
  backend.dispose()
}

async function behindIommu(kind: string, memory: GuestMemory, most: number): Promise<IommuBackend> {
  const ram = new SpanAllocator(guestAddress(RAM), RAM_BYTES)
  const domain = kind === 'idle-iommu' ? new IdleDomain(PAGE, false) : await virtioDomain(memory, ram, most)
  return new IommuBackend({ name: kind, memory, ram, domain })
}

async function virtioDomain(memory: GuestMemory, ram: SpanAllocator, most: number): Promise<IommuDomain> {
  const device = new IommuDevice({ name: 'iommu', port: everything(memory), granule: PAGE, maxMappings: most })
  device.addEndpoint(1, { name: 'dev0', downstream: everything(memory) })
  const transport = MmioTransport.probe(new MmioRegisters(device, { notify: 'inline' }), 'iommu')
  if (transport === null) throw new Error('no device')
  const wait = { pump: (): void => void device.poll(Infinity) }
  const iommu = await VirtioIommu.start({ transport, memory, ram, wait })
  return iommu.attach(1, 'dev0')
}

/** A backend over the shared pool that a region is. */
export function overPool(memory: GuestMemory, region: Region): BounceBackend {
  const window = { region, offset: 0, length: region.u8.length }
  const fact = { window, device: 0 as DeviceAddress, home: 'guest-ram' } as const
  return new BounceBackend({ name: 'shared-pool', memory, pool: new BouncePool({ name: 'pool', pool: fact }) })
}

/** Maps 32 rows, whose numbers begin at `first` of `rows`. */
export function mapAll(backend: DmaBackend, m: DmaMappings, rows: Uint32Array, first: number): void {
  for (let i = 0; i < BATCH; i++) backend.map(m, rows[first + i])
  must(backend.commitMaps(), 'commitMaps')
}

/** Takes them back. */
export function unmapAll(backend: DmaBackend, m: DmaMappings, rows: Uint32Array, first: number): void {
  for (let i = 0; i < BATCH; i++) backend.unmap(m, rows[first + i], 0)
  must(backend.commitUnmaps(), 'commitUnmaps')
}

function touch(m: DmaMappings, rows: Uint32Array, first: number): void {
  for (let i = 0; i < BATCH; i++) {
    const row = rows[first + i]
    m.device[row] = m.guest[row] + m.length[row]
    m.deviceLength[row] = m.token[row] = m.direction[row]
  }
}

/** Runs a batch of 32 rows, and throws where they did not need as many requests: they would look cheap. */
export function asksForEach(counters: IommuBackendCounters, batch: () => void): void {
  const { mapRequests, unmapRequests, stillExposed } = counters
  batch()
  if (counters.mapRequests - mapRequests !== BATCH || counters.stillExposed !== stillExposed)
    throw new Error(`a batch of ${BATCH} rows made ${counters.mapRequests - mapRequests} requests`)
  // Removals of neighbours merge into one request.
  if (counters.unmapRequests === unmapRequests) throw new Error('a batch was taken back without a request')
}

// Batches of rows that differ within a batch, by a generator of one's own: the same ones in every run.
function randomRows(live: number): Uint32Array {
  const rows = new Uint32Array(BATCH * BATCHES)
  let state = 1
  for (let first = 0; first < rows.length; first += BATCH) {
    const batch = new Set<number>()
    while (batch.size < BATCH) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      batch.add(Math.floor((state / 2 ** 32) * live))
    }
    rows.set([...batch], first)
  }
  return rows
}

function must(status: DmaStatus, what: string): void {
  if (status !== DMA_OK) throw new Error(`${what} answered ${status}`)
}
