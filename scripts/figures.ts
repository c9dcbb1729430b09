import { spawn } from 'node:child_process'
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { figuresOf, MEASUREMENTS, type Measured, type Measurement, picturesOf } from '../bench/src/figures.ts'
import { quoteFigures } from './lib/figures.ts'
import { readJson, repository } from './lib/workspace.ts'

const usage = `Puts the figures of bench/results into the texts and the pictures that quote them.

  pnpm figures             writes the texts and docs/pictures
  pnpm figures --check     changes nothing; exit code 1 if one of them differs from the results
  pnpm figures --measure   first measures everything anew, which is best done on an idle machine
  pnpm figures --json      prints the figures as one JSON object instead

A text marks a figure by <!-- figure: name -->, one or more lines by <!-- figures: name -->.`

const TEXTS = ['*.md', 'docs/*.md', 'packages/*/README.md']

async function measure({ file, args, program }: Measurement): Promise<void> {
  const name = program ?? 'bench'
  console.log(`${name} ${args.join(' ')}`)
  const path = join(repository, program ?? 'bench/src/main.ts')
  const output = program === undefined ? '--json' : '--results'
  const child = spawn(process.execPath, [path, ...args, output, join(repository, file)], { stdio: 'inherit' })
  // Ctrl-C reaches bench as well, which then ends by itself.
  const wait = (): void => {}
  process.on('SIGINT', wait)
  const how = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve(signal ?? code))
  })
  process.off('SIGINT', wait)
  if (how !== 0) throw new Error(`${name} ended with ${how}, so no text is changed`)
}

function read<K extends keyof Measured>(name: K): Measured[K] {
  const { file } = MEASUREMENTS[name]
  if (!existsSync(join(repository, file))) throw new Error(`there is no ${file}; run pnpm figures --measure`)
  const report = readJson<Measured[K]>(join(repository, file))
  if (!report.complete) throw new Error(`${file} is partial; run pnpm figures --measure`)
  return report
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      check: { type: 'boolean' },
      measure: { type: 'boolean' },
      json: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  if (values.measure) for (const measurement of Object.values(MEASUREMENTS)) await measure(measurement)
  const measured: Measured = {
    benchmarks: read('benchmarks'),
    heap: read('heap'),
    rings: read('rings'),
    peers: read('peers'),
    guests: read('guests'),
    modelCheck: read('modelCheck'),
    rfc: read('rfc'),
  }
  const figures = figuresOf(measured)
  if (values.json) {
    console.log(JSON.stringify(figures, null, 2))
    return 0
  }
  const used = new Set<string>()
  const pictures = await picturesOf(measured)
  const wanted = new Map([...pictures].map(([name, picture]) => [`docs/pictures/${name}.svg`, picture]))
  for (const file of globSync(TEXTS, { cwd: repository })) {
    const { text, names } = quoteFigures(readFileSync(join(repository, file), 'utf8'), figures, file)
    for (const name of names) used.add(name)
    wanted.set(file, text)
  }
  const unused = Object.keys(figures).filter((name) => !used.has(name))
  if (unused.length > 0) throw new Error(`no text quotes the figures ${unused.join(', ')}`)
  const stale = [...wanted].filter(([file, text]) => {
    const path = join(repository, file)
    return !existsSync(path) || readFileSync(path, 'utf8') !== text
  })
  for (const [file, text] of stale) {
    if (values.check) console.error(`${file} differs from the results in bench/results; run pnpm figures`)
    else writeFileSync(join(repository, file), text)
  }
  return values.check && stale.length > 0 ? 1 : 0
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`figures: ${(error as Error).message}`)
  process.exitCode = 1
}
