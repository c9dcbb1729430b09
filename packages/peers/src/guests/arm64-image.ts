import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { PeerProgram } from '../matrix/case.ts'
import { type BootFiles, makeInitramfs, shell } from './initramfs.ts'
import { made, madeVersion } from './made.ts'
import type { Span } from './watched-port.ts'

/** Linux of Debian's source for arm64, with what no kernel of Debian's has: restricted DMA pools. */
export const linuxArm64: PeerProgram = {
  id: 'linux-arm64',
  name: 'Linux for arm64',
  packages: [
    'qemu-system-arm',
    'device-tree-compiler',
    'linux-source-6.1',
    'gcc-aarch64-linux-gnu',
    'flex',
    'bison',
    'bc',
  ],
  command: 'node scripts/guest-kernel.mjs arm64 && node scripts/guest-programs.mjs arm64',
  version: async () => madeVersion(['arm64'], 'arm64'),
}

/** QEMU's virt machine. */
export const ARM64_MACHINE = { command: 'qemu-system-aarch64', machine: 'virt,gic-version=2', memory: '256M' } as const
/** The guest's memory. */
export const ARM64_RAM: Span = { base: 0x4000_0000, length: 256 << 20 }

// Where the virt machine has its registers of virtio-mmio.
const MMIO_BASE = 0x0a00_0000
const MMIO_STRIDE = 0x200

/**
 * The kernel, and an initramfs in `dir`.
 *
 * @throws SkippedCase where a program for it is missing
 */
export function arm64Files(dir: string): BootFiles {
  const programs = ['busybox', 'e2fsck.static', 'disk-read'].map((name) => join(made('guest-programs', 'arm64'), name))
  return { kernel: made('guest-kernel', 'arm64'), initrd: makeInitramfs(dir, programs) }
}

/**
 * A devicetree of the machine in which each device of virtio-mmio has a restricted DMA pool: the i-th slot the i-th.
 * Linux then allocates its rings there, and bounces all data through it.
 *
 * @param dir for files
 * @param pools whole pages of the guest's memory, without overlaps
 * @returns its path
 * @throws SkippedCase where dtc is missing
 */
export function treeWithPools(dir: string, pools: readonly Span[]): string {
  const { command, machine, memory } = ARM64_MACHINE
  const dump = ['-machine', `${machine},dumpdtb=${join(dir, 'machine.dtb')}`, '-m', memory, '-display', 'none']
  const { status, stderr } = spawnSync(command, dump, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} wrote no devicetree: ${stderr}`)
  const cells = ({ base, length }: Span): string => `<0 ${base} 0 ${length}>`
  const lines = [
    '/dts-v1/;',
    '/plugin/;',
    '&{/} { reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;',
    ...pools.map((pool, i) => {
      const name = `pool${i}: restricted-dma-pool@${pool.base.toString(16)}`
      return `${name} { compatible = "restricted-dma-pool"; reg = ${cells(pool)}; };`
    }),
    '}; };',
    ...pools.map((_, i) => {
      const unit = (MMIO_BASE + MMIO_STRIDE * i).toString(16)
      return `&{/virtio_mmio@${unit}} { memory-region = <&pool${i}>; };`
    }),
  ]
  writeFileSync(join(dir, 'pools.dts'), `${lines.join('\n')}\n`)
  shell(dir, 'dtc -q -O dtb -o pools.dtbo pools.dts && fdtoverlay -i machine.dtb -o pools.dtb pools.dtbo')
  return join(dir, 'pools.dtb')
}
