import { type BenchReport, markdownTable, renderPictures } from '@guestdma/bench'
import type { GuestSpeed } from '@guestdma/peers'
import type { FigureReport, HeapReport, RfcReport } from './files.ts'
import { findingFigures } from './findings.ts'
import { growthFigures } from './growth-figures.ts'
import type { ModelCheckFigure } from './model-check.ts'
import { modelCheckFigures, modelFigures } from './model-figures.ts'
import { millions, whole } from './numbers.ts'
import type { PeerFigure } from './peers.ts'
import type { RingFigure } from './rings.ts'
import { RING_WORK } from './rings-report.ts'

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
  benchmarks: { file: 'bench/results/benchmarks.json', args: [] },
  heap: { file: 'bench/results/heap.json', args: ['heap'] },
  rings: { file: 'bench/results/rings.json', args: ['rings'] },
  peers: { file: 'bench/results/peers.json', args: ['peers'] },
  guests: { file: 'bench/results/guests.json', args: ['guests'] },
  modelCheck: { file: 'bench/results/model-check.json', args: ['model-check'] },
  rfc: {
    file: 'bench/results/rfc.json',
    program: 'examples/linux-swiotlb-rfc/src/main.ts',
    args: ['--show', 'copies'],
  },
} as const satisfies Record<string, Measurement>

/** The files that {@link MEASUREMENTS} wrote. */
export interface Measured {
  readonly benchmarks: BenchReport
  readonly heap: HeapReport
  readonly rings: FigureReport<RingFigure>
  readonly peers: FigureReport<PeerFigure>
  readonly guests: FigureReport<GuestSpeed>
  readonly modelCheck: FigureReport<ModelCheckFigure>
  readonly rfc: RfcReport
}

/** The figures that texts quote, by the name that stands in their markers. Throws where a result is missing. */
export function figuresOf(measured: Measured): Readonly<Record<string, string>> {
  const { benchmarks, heap, rings, peers, guests, modelCheck, rfc } = measured
  if (heap.figures.length === 0) missing('any case', MEASUREMENTS.heap)
  const guest = (kernel: string): RfcReport['results'][number] =>
    rfc.results.find((result) => result.kernel === kernel) ?? missing(kernel, MEASUREMENTS.rfc)
  const [first, all] = [guest('i386-swiotlb-1'), guest('i386-swiotlb')]
  const allocated = heap.figures.map(({ bytesPerOperation }) => bytesPerOperation)
  return {
    'bench-command': command(MEASUREMENTS.benchmarks),
    'bench-machine': machine(benchmarks),
    ...findingFigures(benchmarks),
    ...growthFigures(benchmarks),
    ...modelFigures(benchmarks),
    'heap-command': command(MEASUREMENTS.heap),
    'heap-zero': whole(allocated.filter((bytes) => bytes.toFixed(3) === '0.000').length),
    'heap-cases': whole(allocated.length),
    'heap-most': Math.max(...allocated).toFixed(3),
    'model-check-command': command(MEASUREMENTS.modelCheck),
    'model-check-machine': machine(modelCheck),
    ...modelCheckFigures(modelCheck),
    'rings-command': command(MEASUREMENTS.rings),
    'ring-features': ringTable(rings),
    'peers-command': command(MEASUREMENTS.peers),
    'peers-machine': machine(peers),
    'peers-speed': peersTable(peers),
    'guests-command': command(MEASUREMENTS.guests),
    'guests-machine': machine(guests),
    'guests-speed': guestsTable(guests),
    'rfc-command': command(MEASUREMENTS.rfc),
    'rfc-secrets': whole(first.secrets),
    'rfc-secrets-cleared': whole(all.secrets),
    'rfc-accesses': millions(first.accesses),
    'rfc-bytes': millions(first.bytes),
    'rfc-accesses-wide': millions(all.accesses),
    'rfc-bytes-wide': millions(all.bytes),
  }
}

/** Pictures that texts show, of those that a report has. */
const PICTURES = ['headline', 'cost-by-size', 'crossover']

/** The pictures that texts show, by name, as SVG. Throws where there is no data for one. */
export async function picturesOf({ benchmarks }: Measured): Promise<ReadonlyMap<string, string>> {
  const all = await renderPictures(benchmarks)
  return new Map(
    PICTURES.map((name) => [name, all.get(name) ?? missing(`the picture ${name}`, MEASUREMENTS.benchmarks)]),
  )
}

function peersTable({ figures }: FigureReport<PeerFigure>): string {
  return markdownTable(
    ['peer', 'work', 'backend', 'bare ring, per second', 'driver, per second', 'ratio'],
    figures.map(({ peer, work, backend, bare, driver, ratio }) => [
      peer,
      work,
      backend,
      whole(bare),
      whole(driver),
      ratio.toFixed(2),
    ]),
  )
}

function ringTable({ figures }: FigureReport<RingFigure>): string {
  return markdownTable(
    ['feature and work', 'ring', 'with, ns', 'without, ns', 'ratio'],
    figures.map((one) => [
      RING_WORK[one.feature],
      one.ring,
      whole(one.with),
      whole(one.without),
      (one.with / one.without).toFixed(2),
    ]),
  )
}

function guestsTable({ figures }: FigureReport<GuestSpeed>): string {
  return markdownTable(
    ['scheme', 'reads of', 'ratio', 'single rounds'],
    figures.map(({ scheme, work, ratio, least, most }) => [
      scheme,
      work,
      ratio.toFixed(2),
      `${least.toFixed(2)} to ${most.toFixed(2)}`,
    ]),
  )
}

function command({ args, program }: Measurement): string {
  const words = args.map((arg) => (arg.includes(' ') ? `"${arg}"` : arg))
  const start = program === undefined ? 'bench' : `exec node ${program}`
  return `\`${['npx -y pnpm@12.21.0', start, ...words].join(' ')}\``
}

function machine({ environment: { cpu, node } }: Pick<BenchReport, 'environment'>): string {
  return `${cpu} with Node ${node}`
}

function missing(what: string, { file }: Measurement): never {
  throw new Error(`${file} has no result for ${what}; measure it anew: pnpm figures --measure`)
}
