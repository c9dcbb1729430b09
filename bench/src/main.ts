import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type BenchReport, type BenchResult, runBench, type Subject, variantsOf } from '@guestdma/bench'
import { formatIova, measureIova } from './iova-report.ts'
import { NONE, SCHEMES } from './machines.ts'
import { drawReport } from './picture.ts'
import { SCENARIOS } from './scenarios.ts'
import { formatReport } from './table.ts'

const HELP = `Measures what each DMA scheme costs, in one process per scheme, on the built packages.

usage: bench [--scheme ID…] [--only WORDS] [--quick] [--heap] [--repeat N] [--json FILE] [--svg FILE]
       bench --iova [--json FILE]

  --scheme ID   only this scheme; may be given several times (${[NONE, ...Object.keys(SCHEMES)].join(', ')})
  --only WORDS  only what matches all words, such as "net transmit map 64 32 warm"
  --quick       a tenth of the time for each figure, and only the corners: 64 and 1,514 bytes, 4 KiB
  --heap        only the heap bytes per packet, at four guest bases and with five classes of backends loaded
  --iova        only what map and unmap cost behind an IOMMU with a thousand and with a million live mappings
  --repeat N    N processes for each figure, of which the fastest counts (a machine is only ever slowed down)
  --json FILE   also write the report as JSON
  --svg FILE    also draw what small packets cost
  --help        this text
`

/** Guest bases at which numbers stop being small integers in one engine or another. */
const HEAP_BASES = [0x1_0000, 0x5000_0000, 0x8000_0000, 0x1_0000_0000]

async function main(): Promise<void> {
  const { values } = parseArgs({
    args: process.argv.slice(2).filter((arg) => arg !== '--'),
    options: {
      scheme: { type: 'string', multiple: true },
      only: { type: 'string' },
      quick: { type: 'boolean' },
      heap: { type: 'boolean' },
      iova: { type: 'boolean' },
      json: { type: 'string' },
      svg: { type: 'string' },
      repeat: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return
  }
  if (values.iova) {
    const figures = await measureIova()
    process.stdout.write(formatIova(figures))
    if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(figures, null, 2)}\n`)
    return
  }
  const known = [NONE, ...Object.keys(SCHEMES)]
  const schemes = values.scheme?.flatMap((list) => list.split(',')) ?? known
  for (const id of schemes)
    if (!known.includes(id)) throw new Error(`unknown scheme '${id}'; known: ${known.join(', ')}`)
  const words = values.only?.split(/\s+/).filter((word) => word !== '') ?? []
  const subjects = SCENARIOS.flatMap((scenario) => schemes.flatMap((id) => variantsOf(scenario, id)))
    .filter((subject) => words.every((word) => Object.values(subject).some((value) => String(value) === word)))
    .filter((subject) => subject.backend !== NONE || (subject.mode === 'map' && subject.buffers === 'warm'))
    .filter((subject) => !values.quick || (![256, 512].includes(subject.bytes) && subject.buffers === 'warm'))
  if (subjects.length === 0) throw new Error(`nothing matches --only "${values.only}"`)

  const repeat = Number(values.repeat ?? 1)
  if (!Number.isInteger(repeat) || repeat < 1)
    throw new Error(`--repeat ${values.repeat}: must be a whole number from 1 on`)
  const effort = values.quick ? { milliseconds: 60, warmup: 120 } : { milliseconds: 600, warmup: 400 }
  const common = {
    worker: new URL('../dist/worker.js', import.meta.url),
    execArgv: ['--conditions=guestdma-built'],
    effort,
    onResult: progress,
  }
  if (values.heap) {
    const picked = subjects.filter(
      ({ bytes, batch, buffers, backend }) => bytes === 64 && batch === 32 && buffers === 'warm' && backend !== NONE,
    )
    for (const base of HEAP_BASES) await heap(base, picked, common)
    return
  }
  const report = await runBench({ ...common, subjects, repeat })
  clear()
  process.stdout.write(formatReport(report))
  if (values.svg !== undefined) await writeFile(values.svg, drawReport(report))
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`)
}

async function heap(
  base: number,
  subjects: readonly Subject[],
  common: Omit<Parameters<typeof runBench>[0], 'subjects'>,
): Promise<void> {
  const { results }: BenchReport = await runBench({ ...common, subjects, base, crowded: true })
  clear()
  for (const { operation, backend, mode, bytesAllocatedPerOperation: bytes } of results) {
    process.stdout.write(
      `base 0x${base.toString(16).padEnd(9)} net ${operation.padEnd(9)} ${backend.padEnd(12)} ${mode.padEnd(5)} ${bytes.toFixed(3)} B/packet\n`,
    )
  }
}

function progress({ driver, operation, backend, mode }: BenchResult, done: number, total: number): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${done}/${total} ${driver} ${operation} ${backend} ${mode}`)
}

function clear(): void {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
}

// Whoever reads may stop reading: `| head` is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

try {
  await main()
} catch (error) {
  clear()
  process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `bench: ${(error as Error).message}\n`)
  process.exitCode = 1
}
