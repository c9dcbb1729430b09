import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { GuestDmaError } from '@guestdma/memory'
import { FileBlockStore } from '@guestdma/node'
import { CopyOnWriteStore } from './copy-on-write-store.ts'
import { type Exposure, expose } from './exposure.ts'
import { checkImage } from './ext4.ts'
import { DemoUsageError, HELP, readOptions } from './options.ts'
import { readPcap, writePcap } from './pcap.ts'
import { Progress } from './progress.ts'
import { showRefusals } from './refusals.ts'
import {
  chosenLine,
  chosenTitle,
  exposureSection,
  introduction,
  refusalSection,
  sound,
  trafficSection,
} from './report.ts'
import { runScheme, type SchemeResult } from './run-scheme.ts'
import { SCHEMES } from './schemes.ts'

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args)
  if (options.help) {
    process.stdout.write(HELP)
    return 0
  }
  const capture = readPcap(
    new Uint8Array(await reading(options.pcap, () => readFile(options.pcap))),
    basename(options.pcap),
  )
  const image = await reading(options.disk, () => hashFile(options.disk))
  checkImage(image.length, basename(options.disk))
  const out = options.out ?? (await mkdtemp(join(tmpdir(), 'guestdma-demo-')))
  await mkdir(out, { recursive: true })

  const progress = new Progress()
  const print = (text: string): void => void process.stdout.write(text)
  const results: SchemeResult[] = []
  print(introduction(basename(options.pcap), capture, basename(options.disk), image.length))
  print(chosenTitle(options.schemes))
  for (const id of options.schemes) {
    // Without --write the file is opened for reading only, so that nothing can go wrong with it.
    const store = await reading(options.disk, () => FileBlockStore.open(options.disk, { readOnly: !options.write }))
    // A write through an earlier scheme changed the file; what counts is what it holds now.
    const { sha256 } = options.write ? await hashFile(options.disk) : image
    try {
      const { result, received } = await runScheme(id, SCHEMES[id], {
        capture,
        captureName: basename(options.pcap),
        store: options.write ? store : new CopyOnWriteStore(store),
        diskName: basename(options.disk),
        sha256,
        transport: options.transport,
        progress,
      })
      progress.clear()
      const frames = received.map((data, i) => ({ ...capture.frames[i], data }))
      await writeFile(join(out, `${id}.pcap`), writePcap({ ...capture, frames }))
      results.push(result)
      print(chosenLine(options.schemes, result))
    } finally {
      progress.clear()
      await store.close()
    }
  }
  print(trafficSection(results))
  print(`Frames as they arrived: ${join(out, '*.pcap')}\n`)

  const exposures: Exposure[] = []
  try {
    for (const id of options.schemes) {
      progress.show(`${id}: reaching further`)
      exposures.push(await expose(id, SCHEMES[id], options.transport))
    }
  } finally {
    progress.clear()
  }
  print(exposureSection(exposures))
  const refusals = await showRefusals()
  print(refusalSection(refusals))

  if (options.json !== undefined) {
    const { json, pcap, disk, transport } = options
    const everything = { schema: 'guestdma-demo-2', pcap, disk, transport, results, exposures, refusals }
    await reading(json, () => writeFile(json, `${JSON.stringify(everything, null, 2)}\n`))
  }
  return results.every(sound) ? 0 : 1
}

async function hashFile(path: string): Promise<{ length: number; sha256: string }> {
  const hash = createHash('sha256')
  let length = 0
  for await (const chunk of createReadStream(path)) {
    hash.update(chunk)
    length += chunk.length
  }
  return { length, sha256: hash.digest('hex') }
}

async function reading<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (syscall === undefined) throw error
    throw new DemoUsageError(
      'DEMO_FILE',
      path,
      code === 'ENOENT' ? 'there is no such file' : `cannot be used (${code})`,
      { path, code },
    )
  }
}

// Whoever reads may stop reading: `| head` is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const known = error instanceof GuestDmaError ? `${error.message} (${error.code})` : `${(error as Error).message}`
  // What is wrong with the command line names the demo by itself.
  const named = known.startsWith('demo: ') ? known : `demo: ${known}`
  process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `${named}\n`)
  process.exitCode = 1
}
