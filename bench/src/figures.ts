import type { BenchReport, BenchResult, Quantiles, ScaleResult, ThreadResult } from '@guestdma/bench'
import type { GuestSpeed } from '@guestdma/peers'
import type { FigureReport, HeapReport, RfcReport } from './files.ts'
import type { ModelCheckFigure } from './model-check.ts'
import { modelCheckFigures, modelFigures } from './model-figures.ts'
import type { PeerFigure } from './peers.ts'

/** A run of `bench`, or of another program, whose results texts quote. */
export interface Measurement {
  /** Relative to the repository. */
  readonly file: string
  readonly args: readonly string[]
  /** Relative to the repository; it writes the file that `--results` names. Default: `bench`, and `--json`. */
  readonly program?: string
}

/** Every run that texts quote. */
export const MEASUREMENTS = {
  smallPackets: { file: 'bench/results/small-packets.json', args: ['--only', 'net 64 32 warm', '--repeat', '3'] },
  heap: { file: 'bench/results/heap.json', args: ['--heap', '--only', 'net map 64 32'] },
  scale: { file: 'bench/results/scale.json', args: ['--scale'] },
  peers: { file: 'bench/results/peers.json', args: ['--peers'] },
  guests: { file: 'bench/results/guests.json', args: ['--guests'] },
  threads: { file: 'bench/results/threads.json', args: ['--threads'] },
  modelCheck: { file: 'bench/results/model-check.json', args: ['--model-check'] },
  rfc: {
    file: 'bench/results/rfc.json',
    program: 'examples/linux-swiotlb-rfc/src/main.ts',
    args: ['--show', 'copies'],
  },
} as const satisfies Record<string, Measurement>

/** The files that {@link MEASUREMENTS} wrote. */
export interface Measured {
  readonly smallPackets: BenchReport
  readonly heap: HeapReport
  readonly scale: FigureReport<ScaleResult>
  readonly peers: FigureReport<PeerFigure>
  readonly guests: FigureReport<GuestSpeed>
  readonly threads: FigureReport<ThreadResult>
  readonly modelCheck: FigureReport<ModelCheckFigure>
  readonly rfc: RfcReport
}

/** The figures that texts quote, by the name that stands in their markers. Throws where a result is missing. */
export function figuresOf({
  smallPackets,
  heap,
  scale,
  peers,
  guests,
  threads,
  modelCheck,
  rfc,
}: Measured): Readonly<Record<string, string>> {
  const packet = (operation: string, backend: string, mode = 'map'): BenchResult => {
    const found = smallPackets.results.find(
      (result) => result.operation === operation && result.backend === backend && result.mode === mode,
    )
    return found ?? missing(`${operation} ${backend} ${mode}`, MEASUREMENTS.smallPackets)
  }
  const perBatch = (backend: string, counter: string): string => {
    const { counters, batch } = packet('transmit', backend)
    return whole((counters[counter] ?? 0) * batch)
  }
  const grown = (what: ScaleResult['what'], backend: string, detail: string, size: number): number => {
    const found = scale.figures.find((figure) => {
      return figure.what === what && figure.backend === backend && figure.detail === detail && figure.size === size
    })
    return found?.value ?? missing(`${what} ${backend} ${detail} ${size}`, MEASUREMENTS.scale)
  }
  const mapping = (backend: string, detail: string, live: number): number =>
    grown('live-mappings', backend, detail, live)
  if (heap.figures.length === 0) missing('any case', MEASUREMENTS.heap)
  const guest = (kernel: string): RfcReport['results'][number] =>
    rfc.results.find((result) => result.kernel === kernel) ?? missing(kernel, MEASUREMENTS.rfc)
  const [first, all] = [guest('i386-swiotlb-1'), guest('i386-swiotlb')]
  const allocated = heap.figures.map(({ bytesPerOperation }) => bytesPerOperation)
  const copied = packet('receive', 'shared-pool').counters
  const cleared = packet('receive', 'shared-pool-on-lend').counters
  return {
    'small-packets-command': command(MEASUREMENTS.smallPackets),
    'small-packets-machine': machine(smallPackets),
    'small-packets': smallPacketTable(smallPackets, packet),
    'maps-per-batch': perBatch('virtio-iommu', 'mapRequests'),
    'unmaps-per-batch': perBatch('virtio-iommu', 'unmapRequests'),
    'byte-maps-per-batch': perBatch('virtio-iommu-byte', 'mapRequests'),
    'receive-copied': whole(copied.bytesCopiedFromDevice),
    'receive-cleared': whole(copied.bytesCleared),
    'receive-cleared-on-lend': whole(cleared.bytesCleared),
    'heap-command': command(MEASUREMENTS.heap),
    'heap-zero': whole(allocated.filter((bytes) => bytes.toFixed(3) === '0.000').length),
    'heap-cases': whole(allocated.length),
    'heap-most': Math.max(...allocated).toFixed(3),
    'scale-command': command(MEASUREMENTS.scale),
    'scale-hot-few': whole(mapping('idle-iommu', 'hot', 1e2)),
    'scale-hot-many': whole(mapping('idle-iommu', 'hot', 1e6)),
    'scale-virtio-hot-few': whole(mapping('virtio-iommu', 'hot', 1e2)),
    'scale-virtio-hot-many': whole(mapping('virtio-iommu', 'hot', 1e6)),
    'scale-virtio-near-few': whole(mapping('virtio-iommu', 'near', 1e2)),
    'scale-virtio-near-many': whole(mapping('virtio-iommu', 'near', 1e6)),
    'scale-virtio-random-many': whole(mapping('virtio-iommu', 'random', 1e6)),
    'scale-touch-ratio': whole(mapping('none', 'random', 1e6) / mapping('none', 'random', 1e2)),
    'scale-bytes': whole(grown('memory', 'virtio-iommu', 'each mapping', 1e6)),
    'scale-turn-few': whole(grown('devices', 'shared-pool', 'transmit', 1)),
    'scale-turn-many': whole(grown('devices', 'shared-pool', 'transmit', 1000)),
    'scale-burst-many': whole(grown('devices', 'shared-pool', 'burst', 1000)),
    ...modelFigures(smallPackets),
    'model-check-command': command(MEASUREMENTS.modelCheck),
    'model-check-machine': machine(modelCheck),
    ...modelCheckFigures(modelCheck),
    'peers-command': command(MEASUREMENTS.peers),
    'peers-machine': machine(peers),
    'peers-speed': peersTable(peers),
    'guests-command': command(MEASUREMENTS.guests),
    'guests-machine': machine(guests),
    'guests-speed': guestsTable(guests),
    'threads-command': command(MEASUREMENTS.threads),
    'threads-speed': threadsTable(threads),
    'threads-handshake': whole(handshakeOf(threads, 'handshake').median),
    'threads-handshake-asleep': whole(handshakeOf(threads, 'handshakeAsleep').median),
    'rfc-command': command(MEASUREMENTS.rfc),
    'rfc-secrets': whole(first.secrets),
    'rfc-secrets-cleared': whole(all.secrets),
    'rfc-accesses': millions(first.accesses),
    'rfc-bytes': millions(first.bytes),
    'rfc-accesses-wide': millions(all.accesses),
    'rfc-bytes-wide': millions(all.bytes),
  }
}

const KINDS = [
  ['transmit', 'map'],
  ['transmit', 'pool'],
  ['receive', 'map'],
  ['receive', 'pool'],
] as const

function smallPacketTable(
  { results }: BenchReport,
  packet: (operation: string, backend: string, mode: string) => BenchResult,
): string {
  const backends = [...new Set(results.map(({ backend }) => backend))].filter((backend) => backend !== 'none')
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [
    row(['ns per 64-byte frame, batches of 32', ...KINDS.map((kind) => kind.join(', '))]),
    '|---|---|---|---|---|',
    ...backends.map((backend) =>
      row([
        `\`${backend}\`${backend === 'on-device' ? ' (over PCI, metered)' : ''}`,
        ...KINDS.map(([operation, mode]) => whole(packet(operation, backend, mode).nsPerOperation.median)),
      ]),
    ),
  ].join('\n')
}

function peersTable({ figures }: FigureReport<PeerFigure>): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [
    row(['peer', 'work', 'backend', 'bare ring, per second', 'driver, per second', 'ratio']),
    '|---|---|---|---|---|---|',
    ...figures.map(({ peer, work, backend, bare, driver, ratio }) =>
      row([peer, work, backend, whole(bare), whole(driver), ratio.toFixed(2)]),
    ),
  ].join('\n')
}

function guestsTable({ figures }: FigureReport<GuestSpeed>): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [
    row(['scheme', 'reads of', 'ratio', 'single rounds']),
    '|---|---|---|---|',
    ...figures.map(({ scheme, work, ratio, least, most }) =>
      row([scheme, work, ratio.toFixed(2), `${least.toFixed(2)} to ${most.toFixed(2)}`]),
    ),
  ].join('\n')
}

function threadsTable({ figures }: FigureReport<ThreadResult>): string {
  const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [
    row(['scheme', 'ring', 'one core', 'two cores', 'ns of one, one core', 'ns of one, two cores']),
    '|---|---|---|---|---|---|',
    ...figures.map(({ backend, ring, oneCore, twoCores, latencyOneCore, latencyTwoCores }) =>
      row([
        `\`${backend}\``,
        ring,
        millions(oneCore),
        millions(twoCores),
        whole(latencyOneCore.median),
        whole(latencyTwoCores.median),
      ]),
    ),
  ].join('\n')
}

/** The processes of all schemes measure the same, and where their threads run differs: the one in the middle. */
function handshakeOf({ figures }: FigureReport<ThreadResult>, kind: 'handshake' | 'handshakeAsleep'): Quantiles {
  const all = figures.map((figure) => figure[kind]).sort((a, b) => a.median - b.median)
  return all[all.length >> 1] ?? missing(kind, MEASUREMENTS.threads)
}

function command({ args, program }: Measurement): string {
  const words = args.map((arg) => (arg.includes(' ') ? `"${arg}"` : arg))
  const start = program === undefined ? 'bench' : `exec node ${program}`
  return `\`npx -y pnpm@12.21.0 ${start} ${words.join(' ')}\``
}

function machine({ environment: { cpu, node } }: Pick<BenchReport, 'environment'>): string {
  return `${cpu} with Node ${node}`
}

function millions(value: number): string {
  return (value / 1e6).toFixed(1)
}

function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

function missing(what: string, { file }: Measurement): never {
  throw new Error(`${file} has no result for ${what}; measure it anew: pnpm figures --measure`)
}
