import { Worker } from 'node:worker_threads'
import type { Parameters } from '@guestdma/bench'
import { DirectBackend, type DmaBackend, DmaMappings, TO_DEVICE } from '@guestdma/dma'
import { DOMAIN_READ, IommuBackend, REQUEST_GUEST, REQUEST_IOVA, REQUEST_LENGTH } from '@guestdma/iommu'
import { clear, copy, GuestMemory, guestAddress, Region, SpanAllocator } from '@guestdma/memory'
import { EventFd, waitReadable } from '@guestdma/node'
import type { IotlbDomain } from '@guestdma/vhost-user'
import { median, NET, type PeerScheme, peerMachine, RAM } from './peer-machine.ts'
import { IdleDomain, mapAll, overPool, unmapAll } from './scale-mappings.ts'
import { fastest } from './scale-measure.ts'

const BATCH = 32
const STRIDE = 2048
const PAGE = 4096
const SINGLES = 300

/** Nanoseconds for one byte, where `bytes` are copied at once between warm buffers of two memories. */
export function copyPrice(bytes: number): number {
  const [to, from] = buffers(bytes)
  return fastest(BATCH * bytes, () => {
    for (let i = 0; i < BATCH; i++) copy(to, at(i, bytes), from, at(i, bytes), bytes)
  })
}

/** Nanoseconds for one byte, where `bytes` are cleared at once. */
export function clearPrice(bytes: number): number {
  const [region] = buffers(bytes)
  return fastest(BATCH * bytes, () => {
    for (let i = 0; i < BATCH; i++) clear(region, at(i, bytes), bytes)
  })
}

const at = (i: number, bytes: number): number => (bytes < STRIDE ? i * STRIDE : 0)

function buffers(bytes: number): Region[] {
  return ['to', 'from'].map((name) => new Region(new ArrayBuffer(Math.max(bytes, BATCH * STRIDE)), name))
}

/** Nanoseconds until a thread that waits for an eventfd goes on: half of what it takes to wake it and to be woken back. */
export async function wakePrice(): Promise<number> {
  const [asked, answered] = [EventFd.create(), EventFd.create()]
  const worker = new Worker(new URL('./model-echo.js', import.meta.url), {
    workerData: { asked: asked.fd, answered: answered.fd },
  })
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  const price = typical(() => {
    asked.signal()
    while (answered.take() === 0) waitReadable([answered.fd], 1000)
  })
  await worker.terminate()
  asked.close()
  answered.close()
  return price / 2
}

/** What an IOTLB request costs, and the wait for its answer: messages about one page, and about 33, to an idle peer. */
export function iotlbPrices(path: string): Promise<Pick<Parameters, 'iommuRequest' | 'iommuWait'>> {
  return withDomain(path, (domain) => {
    const many = BATCH + 1
    const requests = (count: number): number => {
      const each = (does: () => void): void => {
        for (let i = 0; i < count; i++) {
          // From the end on: the driver's own mappings begin at the start. A page of room between two.
          domain.request[REQUEST_IOVA] = domain.inputEnd + 1 - 2 * (i + 1) * PAGE
          domain.request[REQUEST_GUEST] = RAM + i * PAGE
          domain.request[REQUEST_LENGTH] = PAGE
          does()
        }
        if (domain.commit() !== 0) throw new Error('the back end refused a request')
      }
      return typical(() => {
        each(() => domain.map(DOMAIN_READ))
        each(() => domain.unmap())
      })
    }
    const [one, all] = [requests(1) / 2, requests(many) / 2]
    const iommuRequest = Math.max(0, (all - one) / (many - 1))
    return { iommuRequest, iommuWait: one - iommuRequest }
  })
}

async function withDomain<T>(path: string, ask: (domain: IotlbDomain) => T): Promise<T> {
  const domains: IotlbDomain[] = []
  const { close } = await peerMachine(path, NET, 'vhost-iotlb', 'map', (domain) => domains.push(domain))
  const answer = ask(domains[0])
  await close()
  return answer
}

const known = new Map<string, number>()

/**
 * Nanoseconds that our own code takes for one map and one unmap, batches of 32 and two buffers in a page: with an IOMMU
 * that does nothing, and with copies of 8 bytes.
 */
export function bookkeeping(scheme: PeerScheme): number {
  const price = known.get(scheme) ?? measureCode(scheme)
  known.set(scheme, price)
  return price
}

function measureCode(scheme: PeerScheme): number {
  const length = 1 << 20
  const memory = new GuestMemory([{ base: RAM, length, memory: new ArrayBuffer(length) }])
  const ram = new SpanAllocator(guestAddress(RAM), length)
  const m = new DmaMappings(BATCH)
  const rows = Uint32Array.from({ length: BATCH }, (_, i) => i)
  for (const row of rows) {
    m.guest[row] = RAM + row * STRIDE
    m.length[row] = 8
    m.direction[row] = TO_DEVICE
  }
  const domain = new IdleDomain(PAGE, true)
  const backend: DmaBackend =
    scheme === 'direct'
      ? new DirectBackend({ memory, ram })
      : scheme === 'shared-pool'
        ? overPool(memory, new Region(new ArrayBuffer(length), 'pool'))
        : new IommuBackend({ name: scheme, memory, ram, domain })
  return fastest(BATCH, () => {
    mapAll(backend, m, rows, 0)
    unmapAll(backend, m, rows, 0)
  })
}

/** Nanoseconds that a call takes at the median. */
function typical(call: () => void): number {
  const taken: number[] = []
  for (let i = 0; i < 2 * SINGLES; i++) {
    const before = performance.now()
    call()
    if (i >= SINGLES) taken.push((performance.now() - before) * 1e6)
  }
  return median(taken)
}
