import { DMA_OK, DmaMappings, TO_DEVICE } from '@guestdma/dma'
import { DOMAIN_READ, IommuBackend, type IommuDomain } from '@guestdma/iommu'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { describe, expect, it } from 'vitest'
import { asksForEach } from '../src/scale-mappings.ts'
import { SCALE } from '../src/scale-report.ts'

const BASE = 0x1_0000_0000
const PAGE = 4096

/** A backend over pages of 4 KiB, and 32 rows that lie `stride` bytes apart. */
function rowsOf(stride: number): { backend: IommuBackend; m: DmaMappings } {
  const memory = new GuestMemory([{ base: BASE, length: 1 << 20, memory: new ArrayBuffer(1 << 20) }])
  const domain: IommuDomain = {
    name: 'idle',
    granule: PAGE,
    leastLength: PAGE,
    identity: false,
    inputStart: 0,
    inputEnd: 2 ** 32 - 1,
    reserved: [],
    broken: false,
    request: new Float64Array(3),
    map: (access) => expect(access).toBe(DOMAIN_READ),
    unmap: () => {},
    commit: () => DMA_OK,
    dispose: () => {},
  }
  const ram = new SpanAllocator(guestAddress(BASE), 1 << 20)
  const m = new DmaMappings(32)
  for (let row = 0; row < 32; row++) {
    m.guest[row] = BASE + row * stride
    m.length[row] = 64
    m.direction[row] = TO_DEVICE
  }
  return { backend: new IommuBackend({ name: 'iommu', memory, ram, domain }), m }
}

function batchOf({ backend, m }: ReturnType<typeof rowsOf>): () => void {
  return () => {
    for (let row = 0; row < 32; row++) backend.map(m, row)
    backend.commitMaps()
    for (let row = 0; row < 32; row++) backend.unmap(m, row, 0)
    backend.commitUnmaps()
  }
}

describe('what is measured as something grows', () => {
  it('rows on pages of their own need a request each', () => {
    const rows = rowsOf(PAGE)
    asksForEach(rows.backend.counters, batchOf(rows))
    expect(rows.backend.counters.mapRequests).toBe(32)
  })

  it('rows that share pages are refused, since they need fewer requests than it seems', () => {
    const rows = rowsOf(PAGE / 2)
    expect(() => asksForEach(rows.backend.counters, batchOf(rows))).toThrow('a batch of 32 rows made 16 requests')
  })

  it('rows that are never taken back are refused', () => {
    const { backend, m } = rowsOf(PAGE)
    const mapOnly = (): void => {
      for (let row = 0; row < 32; row++) backend.map(m, row)
      backend.commitMaps()
    }
    expect(() => asksForEach(backend.counters, mapOnly)).toThrow('without a request')
  })

  it('the report has a line for each kind of work, with the ratio of the largest size', () => {
    const figure = { what: 'devices', backend: 'direct', detail: 'transmit', unit: 'ns' } as const
    const text = SCALE.format([
      { ...figure, size: 1, value: 50, ratio: 1 },
      { ...figure, size: 1000, value: 75, ratio: 1.5 },
    ])
    expect(text).toMatch(/^backend +work +1 +1,000 +×$/m)
    expect(text).toMatch(/^direct +transmit \(ns\) +50 +75 +1\.50$/m)
  })
})
