import { existsSync } from 'node:fs'
import { type PeerCase, type PeerProgram, SkippedCase } from '../matrix/case.ts'
import { expectIs } from '../work/workloads.ts'
import { madeVersion } from './made.ts'

/** Of the repository, and not in the package: each boots Linux in v86 and checks what it did. */
const EXAMPLES = new URL('../../../../examples/', import.meta.url)
const KERNELS = ['i386', 'i386-swiotlb', 'i386-swiotlb-1']

/** Linux of Debian's source for PCs, in the same process as the devices: plain, and with the guest half of the RFC. */
export const linuxV86: PeerProgram = {
  id: 'linux-v86',
  name: 'Linux in v86',
  packages: ['seabios', 'cpio', 'e2fsprogs', 'linux-source-6.1', 'gcc-i686-linux-gnu', 'flex', 'bison', 'bc'],
  command: `node scripts/guest-kernel.mjs ${KERNELS.join(' ')} && node scripts/guest-programs.mjs i386`,
  version: async () => madeVersion(KERNELS, 'i386'),
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

/** Runs what an example shows. */
function example(folder: string, name: string): PeerCase['run'] {
  return async ({ saw, figure }) => {
    const module = new URL(`${folder}/src/shows.ts`, EXAMPLES)
    if (!existsSync(module)) throw new SkippedCase(`there is no example ${folder} here: run this in a clone`)
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
  readonly backend?: string
}

const rows: readonly Row[] = [
  { what: 'saved in the middle', folder: 'v86-guest', show: 'saved', backend: 'direct' },
  { what: '', show: 'works' },
  { what: 'saved in the middle', show: 'saved' },
  { what: 'refused where bit 27 is required', show: 'refused', backend: 'direct' },
  { what: 'hangs where bit 27 is only offered', show: 'hangs', backend: 'direct' },
  { what: 'requests that never fit', show: 'requeued' },
  { what: 'receive buffers take all', show: 'starved' },
  { what: 'what is copied for a device to overwrite', show: 'copies' },
]

export const linuxV86Cases: readonly PeerCase[] = rows.map(
  ({ what, folder = 'linux-swiotlb-rfc', show, backend = 'on-device' }) => ({
    peer: 'linux-v86',
    role: 'driver',
    driver: 'blk and net',
    ring: 'split',
    backend,
    transport: 'pci',
    what,
    deadlineMs: 300_000,
    run: example(folder, show),
  }),
)
