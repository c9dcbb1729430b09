// `pnpm demo` runs this with --max-semi-space-size=1: each frame leaves small objects behind, which are collected early, so
// that large captures need little memory.
import { createHash } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import {
  checkDirectory,
  checkOutputs,
  EXIT_USAGE,
  listenForStop,
  Progress,
  UsageError,
  writeJson,
} from '@guestdma/bench/program'
import { GuestDmaError } from '@guestdma/memory'
import { FileBlockStore } from '@guestdma/node'
import { framesOf, peekCapture, scanCapture } from './capture.ts'
import { CopyOnWriteStore } from './copy-on-write-store.ts'
import { DemoInputError } from './errors.ts'
import { type Exposure, expose } from './exposure.ts'
import { checkImage, checkWhole, readSuperblock } from './ext4.ts'
import { type DemoOptions, HELP, readOptions } from './options.ts'
import { type Refusal, showRefusals } from './refusals.ts'
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

const progress = new Progress()

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args)
  if (options.help) {
    process.stdout.write(HELP)
    return 0
  }
  const { schemes, transport, pcap, disk, json, out, write } = options
  checkDestinations(options)
  const captureName = basename(pcap)
  const diskName = basename(disk)
  // What the headers tell is refused before anything large is read.
  const header = await reading(pcap, () => peekCapture(pcap, captureName))
  const diskBytes = await reading(disk, () => peekImage(disk, diskName))

  const stop = listenForStop()
  const { signal } = stop
  const print = (text: string): void => void process.stdout.write(text)
  const results: SchemeResult[] = []
  const exposures: Exposure[] = []
  let refusals: readonly Refusal[] = []
  const save = (complete: boolean): void => {
    const everything = { schema: 'guestdma-demo-3', complete, pcap, disk, transport, results, exposures, refusals }
    writeJson(json, everything)
  }
  try {
    const hashes = 1 + (write ? schemes.length : 0)
    // The capture's bytes are not known before it was read once; its file is a little larger.
    const scanned = await reading(pcap, async () => {
      await using file = await open(pcap)
      return (await file.stat()).size
    })
    const total = hashes * diskBytes + scanned + schemes.length * (scanned + diskBytes)
    let before = 0
    const show = (what: string, bytes: number): void => {
      signal.throwIfAborted()
      progress.show(what, (before + bytes) / total)
    }
    const capture = await reading(pcap, () =>
      scanCapture(
        captureName,
        header,
        () => framesOf(pcap, captureName),
        (bytes) => show(`reading ${captureName}`, bytes),
      ),
    )
    before += scanned
    const hash = async (): Promise<string> => {
      const sha256 = await reading(disk, () => hashFile(disk, (bytes) => show(`reading ${diskName}`, bytes)))
      before += diskBytes
      return sha256
    }
    const untouched = await hash()
    progress.clear()
    print(introduction(capture, diskName, diskBytes))
    print(chosenTitle(schemes))
    for (const id of schemes) {
      // Without --write the file is opened for reading only, so that nothing can go wrong with it.
      const store = await reading(disk, () => FileBlockStore.open(disk, { readOnly: !write }))
      try {
        const result = await runScheme(id, SCHEMES[id], {
          capture,
          store: write ? store : new CopyOnWriteStore(store),
          diskName,
          // A write through an earlier scheme changed the file; what counts is what it holds now.
          sha256: write ? await hash() : untouched,
          transport,
          out: out === undefined ? undefined : join(out, `${id}.pcap`),
          signal,
          onProgress: show,
        })
        before += scanned + diskBytes
        results.push(result)
        save(false)
        progress.clear()
        print(chosenLine(schemes, result))
      } finally {
        await store.close()
      }
    }
    progress.clear()
    print(trafficSection(results))
    if (out !== undefined) print(`Frames as they arrived: ${join(out, '*.pcap')}\n`)
    for (const id of schemes) {
      show(`${id}: reaching further`, 0)
      exposures.push(await expose(id, SCHEMES[id], transport))
      save(false)
    }
    progress.clear()
    print(exposureSection(exposures))
    refusals = await showRefusals()
    print(refusalSection(refusals))
    save(true)
    return results.every(sound) ? 0 : 1
  } catch (error) {
    progress.clear()
    if (stop.exitCode === undefined) throw error
    save(false)
    // With all schemes done, their table was printed before.
    if (results.length > 0 && results.length < schemes.length) print(trafficSection(results))
    print(`Stopped: these results are PARTIAL, ${results.length} of ${schemes.length} schemes.\n`)
    return stop.exitCode
  }
}

function checkDestinations({ schemes, pcap, disk, json, out }: DemoOptions): void {
  const inputs = [
    { option: '--pcap', path: pcap },
    { option: '--disk', path: disk },
  ]
  if (out !== undefined) checkDirectory('--out', out, (path) => void mkdirSync(path, { recursive: true }))
  const frames = out === undefined ? [] : schemes.map((id) => ({ option: '--out', path: join(out, `${id}.pcap`) }))
  checkOutputs([{ option: '--json', path: json }, ...frames], inputs)
}

/** Refuses an image by its length and its superblock, and gives its length back. */
async function peekImage(path: string, name: string): Promise<number> {
  await using file = await open(path)
  const { size } = await file.stat()
  checkImage(size, name)
  const read = async (offset: number, length: number): Promise<Uint8Array> => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset)
    return buffer.subarray(0, bytesRead)
  }
  checkWhole(await readSuperblock(read, name), size, name)
  return size
}

async function hashFile(path: string, onBytes: (bytes: number) => void): Promise<string> {
  const hash = createHash('sha256')
  let length = 0
  const buffer = Buffer.alloc(256 << 10)
  await using file = await open(path)
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, length)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    length += bytesRead
    onBytes(length)
  }
  return hash.digest('hex')
}

async function reading<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException
    if (syscall === undefined) throw error
    throw new UsageError('DEMO_FILE', path, code === 'ENOENT' ? 'there is no such file' : `cannot be used (${code})`, {
      path,
      code,
    })
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
  progress.clear()
  const known = error instanceof GuestDmaError ? `${error.message} (${error.code})` : `${(error as Error).message}`
  // What is wrong with the command line names the demo by itself.
  const named = known.startsWith('demo: ') ? known : `demo: ${known}`
  process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `${named}\n`)
  process.exitCode = error instanceof UsageError || error instanceof DemoInputError ? EXIT_USAGE : 1
}
