import {
  accessCounter,
  type BenchReport,
  type BenchResult,
  type ExposureResult,
  type ScaleResult,
  type ThreadResult,
  WIDTHS,
} from '@guestdma/bench'
import { noAmounts } from '../../src/exposure/classes.ts'
import { allCounters, reportOf, row } from '../support/cost-rows.ts'

// Every figure in this file is INVENTED: the shapes are those of real reports, and nothing was measured.

const TIMES: Readonly<Record<string, number>> = {
  direct: 60,
  'virtio-iommu': 225,
  'virtio-iommu-lazy': 221,
  'virtio-iommu-simple': 93,
  'shared-pool': 90,
  'on-device': 101,
  'shared-pages': 146,
}
const SCHEMES = Object.keys(TIMES)

/** Bytes exposed for reading in mode `map`; what is pooled exposes a thousand times less. */
const EXPOSED: Readonly<Record<string, number>> = {
  direct: 4e9,
  'virtio-iommu': 2e4,
  'virtio-iommu-lazy': 3e5,
  'virtio-iommu-simple': 8e3,
  'shared-pool': 0,
  'on-device': 0,
  'shared-pages': 3e4,
}

/** A report of all parts, with every figure invented. */
export function inventedReport(): BenchReport {
  return { ...reportOf(inventedResults()), exposure: exposure(), threads: threads(), scale: scale() }
}

/** Transmit and receive by scheme, mode, size and batch. */
function inventedResults(): BenchResult[] {
  return ['transmit', 'receive'].flatMap((operation) =>
    SCHEMES.flatMap((backend) =>
      ['map', 'pool'].flatMap((mode) =>
        [64, 512, 1514].flatMap((bytes) =>
          [1, 32].map((batch): BenchResult => {
            const pooled = mode === 'pool' ? TIMES.direct : TIMES[backend]
            const median = (pooled + bytes / 20) * (operation === 'receive' ? 1.4 : 1) * (1 + 3 / batch)
            return row({
              operation,
              backend,
              mode,
              bytes,
              batch,
              nsPerOperation: { median, p05: median * 0.95, p95: median * 1.2 },
              counters: countersOf(backend, operation, mode === 'pool' ? 0 : bytes, batch),
            })
          }),
        ),
      ),
    ),
  )
}

function countersOf(backend: string, operation: string, bytes: number, batch: number): Record<string, number> {
  const counters = allCounters()
  const bounced = backend === 'shared-pool' || backend === 'on-device'
  const iommu = bytes > 0 && (backend.startsWith('virtio-iommu') || backend === 'shared-pages')
  const result: Record<string, number> = {
    bytesCopiedToDevice: bounced && operation === 'transmit' ? bytes : 0,
    bytesCopiedFromDevice: bounced && operation === 'receive' ? bytes : 0,
    bytesCleared: 0,
    notified: 1 / batch,
    interrupts: 0,
  }
  if (iommu) {
    const lazy = backend === 'virtio-iommu-lazy'
    const waits = (lazy ? 1 : 2) / batch
    Object.assign(result, { mapRequests: lazy ? 0.6 : 0.5, unmapRequests: 0.5, synchronousCommits: waits })
  }
  if (backend !== 'on-device') return result
  for (const name of Object.keys(counters)) if (/Loads|Stores/.test(name)) result[name] = 0
  const words = bytes / WIDTHS[3]
  const [driver, device] = operation === 'transmit' ? (['Stores', 'Loads'] as const) : (['Loads', 'Stores'] as const)
  result[accessCounter('driver', 'Loads', 4)] = 2
  result[accessCounter('driver', 'Stores', 8)] = 4
  result[accessCounter('device', 'Loads', 8)] = 2
  result[accessCounter('driver', driver, 8)] = words + (driver === 'Stores' ? 4 : 0)
  result[accessCounter('device', device, 8)] = words + 2
  return result
}

function exposure(): ExposureResult[] {
  return ['transmit', 'receive'].flatMap((operation) =>
    SCHEMES.flatMap((backend) =>
      ['map', 'pool'].map((mode): ExposureResult => {
        const bytes = EXPOSED[backend] / (mode === 'pool' ? 1000 : 1)
        const foreign = backend === 'direct' ? EXPOSED.direct : 0
        return {
          driver: 'net',
          operation,
          backend,
          mode,
          ring: 'split',
          bytes: 64,
          setting: { ramBytes: 4e9, perSecond: 1e6, ringFill: 0.5, seconds: 1 },
          readable: { ...noAmounts(), foreign, slack: foreign > 0 ? 0 : bytes, 'own-residue': 777_777 },
          writable: {
            ...noAmounts(),
            foreign,
            stale: foreign > 0 ? 0 : bytes / 2,
            mutable: mode === 'pool' ? 2048 : 0,
          },
          beforeAttach: { readable: foreign, writable: foreign },
          probes: { tried: 10_000, read: foreign > 0 ? 10_000 : 12, written: foreign > 0 ? 10_000 : 7, refused: 100 },
        }
      }),
    ),
  )
}

function threads(): ThreadResult[] {
  const around = (median: number) => ({ median, p05: median * 0.9, p95: median * 1.5 })
  return ['direct', 'shared-pool', 'on-device'].flatMap((backend) =>
    (['split', 'packed'] as const).map((ring) => {
      const oneCore = (ring === 'split' ? 1.1e9 : 1e9) / TIMES[backend]
      return {
        backend,
        ring,
        bytes: 64,
        batch: 32,
        oneCore,
        twoCores: oneCore * 1.6,
        latencyOneCore: around(400),
        latencyTwoCores: around(900),
        handshake: around(180),
        handshakeAsleep: { median: 57_000, p05: 40_000, p95: 80_000 },
      }
    }),
  )
}

function scale(): ScaleResult[] {
  const grown = (
    what: ScaleResult['what'],
    backend: string,
    detail: string,
    sizes: readonly number[],
    power: number,
    unit: ScaleResult['unit'] = 'ns',
  ): ScaleResult[] =>
    sizes.map((size) => {
      const ratio = (size / sizes[0]) ** power
      return { what, backend, detail, size, value: 100 * ratio, unit, ratio }
    })
  return [
    ...grown('live-mappings', 'virtio-iommu', 'hot', [1e2, 1e3, 1e4, 1e5, 1e6], 0.01),
    ...grown('live-mappings', 'virtio-iommu', 'random', [1e2, 1e3, 1e4, 1e5, 1e6], 0.12),
    ...grown('queue-size', 'direct', 'transmit', [16, 256, 4096, 32768], 0.02),
    ...grown('queue-size', 'shared-pool', 'transmit', [16, 256, 4096, 32768], 0.05),
    ...grown('devices', 'default-pool', '', [1, 10, 100, 1000], 0.03),
    ...grown('domains', 'virtio-iommu', '', [1, 10, 100], 0.02),
    ...grown('memory', 'virtio-iommu', '', [1e2, 1e4, 1e6], 0, 'bytes'),
  ]
}
