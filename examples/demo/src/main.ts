import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { GuestDmaError } from '@guestdma/memory'
import { FileBlockStore } from '@guestdma/node'
import { CopyOnWriteStore } from './copy-on-write-store.ts'
import { checkImage } from './ext4.ts'
import { DemoUsageError, HELP, readOptions } from './options.ts'
import { readPcap, writePcap } from './pcap.ts'
import { Progress } from './progress.ts'
import { runScheme, type SchemeResult } from './run-scheme.ts'
import { SCHEMES } from './schemes.ts'
import { formatTable } from './table.ts'

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
  const results: SchemeResult[] = []
  for (const id of options.schemes) {
    // Without --write the file is opened for reading only, so that nothing can go wrong with it.
    const store = await reading(options.disk, () => FileBlockStore.open(options.disk, { readOnly: !options.write }))
    // A write through an earlier scheme changed the file; what counts is what it holds now.
    const { sha256 } = options.write ? await hashFile(options.disk) : image
    try {
      const { result, received } = await runScheme(SCHEMES[id](), {
        capture,
        captureName: basename(options.pcap),
        store: options.write ? store : new CopyOnWriteStore(store),
        diskName: basename(options.disk),
        sha256,
        progress,
      })
      progress.clear()
      const frames = received.map((data, i) => ({ ...capture.frames[i], data }))
      await writeFile(join(out, `${id}.pcap`), writePcap({ ...capture, frames }))
      results.push(result)
      describe(result)
    } finally {
      progress.clear()
      await store.close()
    }
  }
  process.stdout.write(`${summary(results)}\nframes as they arrived: ${join(out, '*.pcap')}\n`)
  if (options.json !== undefined) {
    const { json } = options
    await reading(json, () =>
      writeFile(
        json,
        `${JSON.stringify({ schema: 'guestdma-demo-1', pcap: options.pcap, disk: options.disk, results }, null, 2)}\n`,
      ),
    )
  }
  return results.every(sound) ? 0 : 1
}

function describe({ scheme, chosen, blk }: SchemeResult): void {
  const lines = chosen.map(({ device, scheme: id, why }) => `  ${device.padEnd(6)} ${id}: ${why}`)
  const { superblock, written } = blk
  lines.push(
    `  disk0  '${blk.id}' holds ext4 '${printable(superblock.label)}', UUID ${superblock.uuid}, SHA-256 ${blk.sha256.slice(0, 16)}…`,
    `  disk0  ${written.bytes} bytes written at sector ${written.sector}, flushed, read back: ${written.identical ? 'identical' : 'DIFFERENT'}`,
  )
  process.stdout.write(`${scheme}\n${lines.join('\n')}\n\n`)
}

function summary(results: readonly SchemeResult[]): string {
  return formatTable(
    [
      { title: 'scheme' },
      { title: 'frames' },
      { title: 'blocks' },
      { title: 'identical' },
      { title: 'ns/packet' },
      { title: 'copied B/packet', decimals: 1 },
      { title: 'cleared B/packet', decimals: 1 },
      { title: 'faults' },
      { title: 'why' },
    ],
    results.map((result) => [
      result.scheme,
      result.net.framesIn,
      result.blk.blocks,
      sound(result) ? 'yes' : 'NO',
      result.net.nsPerPacket,
      result.net.bytesCopiedPerPacket,
      result.net.bytesClearedPerPacket,
      result.faults,
      result.chosen[0]?.why ?? '',
    ]),
  )
}

function sound({ net, blk }: SchemeResult): boolean {
  return net.identical && blk.identical && blk.written.identical
}

function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '\ufffd')
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
  process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `demo: ${known}\n`)
  process.exitCode = 1
}
