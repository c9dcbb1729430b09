// What a mapping costs when very many are live: the backend's bookkeeping alone, and with a virtio-iommu behind it. A
// program of its own, run on the built packages by `bench iova`. Prints a line of
// JSON for each figure.
import { endWithParent, turn } from '@guestdma/bench/program'
import { everything, IommuDevice, MmioRegisters } from '@guestdma/devices'
import { DMA_OK, DmaMappings, type DmaStatus, TO_DEVICE } from '@guestdma/dma'
import { IommuBackend, type IommuDomain, VirtioIommu } from '@guestdma/iommu'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { MmioTransport } from '@guestdma/transport'

const BASE = 0x1_0000_0000
const RAM = 256 << 20
// A granule that is small enough that each of a million rows has one of its own in that much memory.
const PAGE = 256
const BATCH = 32
const ROUNDS = 9
const BATCHES = 4096

/** One figure: nanoseconds for one map and one unmap, commits included, batches of 32. */
export interface IovaFigure {
  /** `table`: only what a caller's own row costs to touch, without any backend; that is in the others as well. */
  readonly domain: 'table' | 'none' | 'virtio-iommu'
  readonly victim: 'hot' | 'random'
  readonly live: number
  readonly ns: number
}

/** An IOMMU that does nothing at all, at once. */
class NoDomain implements IommuDomain {
  readonly name = 'none'
  readonly granule = PAGE
  readonly leastLength = PAGE
  readonly identity = false
  readonly broken = false
  readonly inputStart = 0
  readonly inputEnd: number = 2 ** 48 - 1
  readonly reserved: readonly never[] = []
  readonly request: Float64Array = new Float64Array(3)
  map(): void {}
  unmap(): void {}
  commit(): DmaStatus {
    return DMA_OK
  }
  dispose(): void {}
}

async function domainOf(
  kind: IovaFigure['domain'],
  memory: GuestMemory,
  ram: SpanAllocator,
  most: number,
): Promise<IommuDomain> {
  if (kind === 'none') return new NoDomain()
  const device = new IommuDevice({ name: 'iommu', port: everything(memory), granule: PAGE, maxMappings: 2 * most })
  device.addEndpoint(1, { name: 'dev0', downstream: everything(memory) })
  const transport = MmioTransport.probe(new MmioRegisters(device, { notify: 'inline' }), 'iommu')
  if (transport === null) throw new Error('no device')
  const wait = { pump: (): void => void device.poll(Infinity) }
  const iommu = await VirtioIommu.start({ transport, memory, ram, wait })
  return iommu.attach(1, 'dev0')
}

/** Fills a backend with `live` mappings, and takes one and another away and puts it back. */
async function measure(kind: 'none' | 'virtio-iommu', live: number): Promise<IovaFigure[]> {
  const memory = new GuestMemory([{ base: BASE, length: RAM, memory: new ArrayBuffer(RAM) }])
  const ram = new SpanAllocator(guestAddress(BASE), RAM / 2)
  const domain = await domainOf(kind, memory, ram, live)
  const backend = new IommuBackend({ name: 'iommu', memory, ram, domain })
  const m = new DmaMappings(live + BATCH)
  if (m.rows > RAM / PAGE) throw new Error(`${m.rows} rows need as many pages, and there are ${RAM / PAGE}`)
  for (let row = 0; row < m.rows; row++) {
    m.guest[row] = BASE + row * PAGE
    m.length[row] = PAGE
    m.direction[row] = TO_DEVICE
  }
  for (let row = 0; row < live; row++) {
    if (backend.map(m, row) !== DMA_OK) throw new Error(`mapping ${row} of ${live} found no room`)
    if (row % 64 === 63) commit(backend.commitMaps())
  }
  commit(backend.commitMaps())
  if (backend.counters.mapRequests < live) throw new Error('rows share mappings, so there are fewer than is said')
  const own = Uint32Array.from({ length: BATCH }, (_, i) => live + i)
  const hot = time(() => {
    for (let i = 0; i < BATCH; i++) backend.map(m, own[i])
    commit(backend.commitMaps())
    for (let i = 0; i < BATCH; i++) backend.unmap(m, own[i], 0)
    commit(backend.commitUnmaps())
  })
  const victims = randomVictims(live)
  let at = 0
  const next = (): number => {
    at = at + BATCH === victims.length ? 0 : at + BATCH
    return at
  }
  const random = time(() => {
    const first = next()
    for (let i = 0; i < BATCH; i++) backend.unmap(m, victims[first + i], 0)
    commit(backend.commitUnmaps())
    for (let i = 0; i < BATCH; i++) backend.map(m, victims[first + i])
    commit(backend.commitMaps())
  })
  backend.dispose()
  const figures: IovaFigure[] = [
    { domain: kind, victim: 'hot', live, ns: hot },
    { domain: kind, victim: 'random', live, ns: random },
  ]
  if (kind !== 'none') return figures
  const touch = (rows: Uint32Array, first: number): void => {
    for (let i = 0; i < BATCH; i++) {
      const row = rows[first + i]
      m.device[row] = m.guest[row] + m.length[row]
      m.deviceLength[row] = m.token[row] = m.direction[row]
    }
  }
  return [
    { domain: 'table', victim: 'hot', live, ns: time(() => touch(own, 0)) },
    { domain: 'table', victim: 'random', live, ns: time(() => touch(victims, next())) },
    ...figures,
  ]
}

// Batches of rows that differ within a batch, by a generator of one's own: the same ones in every run.
function randomVictims(live: number): Uint32Array {
  const victims = new Uint32Array(BATCH * BATCHES)
  let state = 1
  for (let first = 0; first < victims.length; first += BATCH) {
    const batch = new Set<number>()
    while (batch.size < BATCH) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      batch.add(Math.floor((state / 2 ** 32) * live))
    }
    victims.set([...batch], first)
  }
  return victims
}

// The fastest of some rounds: a machine is only ever slowed down.
function time(batch: () => void): number {
  for (let i = 0; i < 3000; i++) batch()
  let best = Infinity
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now()
    for (let i = 0; i < 1000; i++) batch()
    best = Math.min(best, ((performance.now() - start) * 1e6) / 1000 / BATCH)
  }
  return best
}

function commit(status: DmaStatus): void {
  if (status !== DMA_OK) throw new Error(`a commit failed with status ${status}`)
}

endWithParent()
for (const kind of ['none', 'virtio-iommu'] as const) {
  for (const live of [1e3, 1e6]) {
    for (const figure of await measure(kind, live)) process.stdout.write(`${JSON.stringify(figure)}\n`)
    await turn()
  }
}
