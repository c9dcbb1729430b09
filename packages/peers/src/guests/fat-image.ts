import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SkippedCase } from '../matrix/case.ts'

const SECTORS = 65_536

/** A disk of 32 MiB that is one FAT file system without partitions, by `mtools`. */
export class FatImage {
  readonly bytes: Uint8Array<ArrayBuffer>

  /** @throws SkippedCase where `mtools` is missing */
  constructor(files: Readonly<Record<string, string | Uint8Array>>) {
    this.bytes = inFolder((dir) => {
      mtools(dir, 'mformat', '-C', '-T', String(SECTORS), '::')
      for (const [name, content] of Object.entries(files)) {
        writeFileSync(join(dir, name), content)
        mtools(dir, 'mcopy', name, '::')
      }
      return new Uint8Array(readFileSync(join(dir, 'disk')))
    })
  }

  /** A file as it is on the disk now. */
  file(name: string): Uint8Array {
    return inFolder((dir) => {
      writeFileSync(join(dir, 'disk'), this.bytes)
      mtools(dir, 'mcopy', `::${name}`, 'found')
      return new Uint8Array(readFileSync(join(dir, 'found')))
    })
  }
}

function mtools(cwd: string, program: 'mformat' | 'mcopy', ...args: readonly string[]): void {
  const { status, error, stderr } = spawnSync(program, ['-i', 'disk', ...args], { cwd, encoding: 'utf8' })
  if (error !== undefined) throw new SkippedCase(`${program} cannot be run: apt-get install mtools`)
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${stderr.trim()}`)
}

function inFolder<T>(work: (dir: string) => T): T {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-fat-'))
  try {
    return work(dir)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}
