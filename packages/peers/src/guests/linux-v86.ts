import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { type PeerCase, type PeerProgram, SkippedCase } from '../matrix/case.ts'
import { expectIs } from '../work/workloads.ts'

/** Of the repository, and not in the package: each boots Linux in v86 and checks what it did. */
const EXAMPLES = new URL('../../../../examples/', import.meta.url)
const SOURCE = 'linux-source-6.1'
const VERSION = /^Version: (.*)$/m

/** Linux of Debian's source, built for PCs, in the same process as the devices. */
export const linuxV86: PeerProgram = {
  id: 'linux-v86',
  name: 'Linux in v86',
  packages: [SOURCE, 'gcc-i686-linux-gnu', 'make', 'flex', 'bison', 'bc', 'patch', 'seabios', 'cpio', 'e2fsprogs'],
  async version() {
    try {
      return VERSION.exec(execFileSync('dpkg', ['--status', SOURCE], { encoding: 'utf8', stdio: 'pipe' }))?.[1] ?? null
    } catch {
      return null
    }
  },
}

/** What such an example exports, as far as it is used here. */
interface Show {
  readonly name: string
  run(print: (line: string) => void): Promise<Shown>
}

interface Shown {
  readonly checks: readonly { readonly what: string; readonly ok: boolean }[]
  readonly runs: readonly { readonly kernel: string; readonly devices: readonly Device[] }[]
}

/** What becomes of each device, in figures of the case. */
const FIGURES = ['told', 'outside', 'refused', 'secrets', 'accesses', 'bytes'] as const

interface Device extends Readonly<Record<(typeof FIGURES)[number], number>> {
  readonly name: string
}

/** Runs what an example shows; `kernels` are those that it boots. */
function example(folder: string, name: string, kernels: readonly string[]): PeerCase['run'] {
  return async ({ saw, figure }) => {
    const module = new URL(`${folder}/src/shows.ts`, EXAMPLES)
    if (!existsSync(module)) throw new SkippedCase(`there is no example ${folder} here: run this in a clone`)
    const cache =
      process.env.GUESTDMA_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'guestdma')
    const unbuilt = kernels.filter((kernel) => !existsSync(join(cache, 'kernels', kernel)))
    if (unbuilt.length > 0) throw new SkippedCase(`not built yet: node scripts/guest-kernel.mjs ${unbuilt.join(' ')}`)
    const { shows } = (await import(module.href)) as { shows: readonly Show[] }
    const { checks, runs } = await (shows.find((show) => show.name === name) as Show).run(saw)
    for (const { kernel, devices } of runs) {
      for (const device of devices) {
        for (const one of FIGURES) figure(`${kernel} ${device.name} ${one}`, device[one])
      }
    }
    const wrong = checks.filter(({ ok }) => !ok).map(({ what }) => what)
    expectIs('what does not hold', wrong, [])
  }
}

interface Row {
  readonly what: string
  readonly folder?: string
  readonly show: string
  readonly kernels: readonly string[]
  readonly backend?: string
}

const rows: readonly Row[] = [
  { what: 'saved in the middle', folder: 'v86-guest', show: 'saved', kernels: ['i386'], backend: 'direct' },
  { what: '', show: 'works', kernels: ['i386-swiotlb'] },
  { what: 'refused where bit 27 is required', show: 'refused', kernels: ['i386'], backend: 'direct' },
  { what: 'hangs where bit 27 is only offered', show: 'hangs', kernels: ['i386'], backend: 'direct' },
  { what: 'requests that never fit', show: 'requeued', kernels: ['i386-swiotlb-1', 'i386-swiotlb'] },
  { what: 'receive buffers take all', show: 'starved', kernels: ['i386-swiotlb'] },
  { what: 'what is copied for a device to overwrite', show: 'copies', kernels: ['i386-swiotlb-1', 'i386-swiotlb'] },
]

export const linuxV86Cases: readonly PeerCase[] = rows.map(
  ({ what, folder = 'linux-swiotlb-rfc', show, kernels, backend = 'on-device' }) => ({
    peer: 'linux-v86',
    role: 'driver',
    driver: 'blk and net',
    ring: 'split',
    backend,
    transport: 'pci',
    what,
    deadlineMs: 300_000,
    run: example(folder, show, kernels),
  }),
)
