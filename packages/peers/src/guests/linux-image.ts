import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type PeerProgram, SkippedCase } from '../matrix/case.ts'

/** Where apt-get puts what it downloads. */
const ARCHIVES = '/var/cache/apt/archives'
const KERNEL = /^linux-image-([\d.]+-\d+)-cloud-amd64_(.+)_amd64\.deb$/
/** In the order in which they are loaded; what is part of the kernel is in no package. */
const MODULES = ['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk']

/** Linux of Debian, as a package that was downloaded and not installed: it is to run in QEMU alone. */
export const linux: PeerProgram = {
  id: 'linux',
  name: 'Linux',
  packages: ['--download-only', 'linux-image-cloud-amd64'],
  version: async () => newest()?.version ?? null,
}

/** What QEMU boots. */
export interface BootFiles {
  readonly kernel: string
  readonly initrd: string
}

/**
 * Unpacks the kernel into `dir`, and makes an initramfs of busybox, the modules of virtio and `script`, which is what
 * runs.
 *
 * @throws SkippedCase where a program for it is missing
 */
export function bootFiles(dir: string, script: string): BootFiles {
  const deb = newest()
  if (deb === null) throw new SkippedCase('there is no kernel: apt-get install --download-only linux-image-cloud-amd64')
  const root = join(dir, 'root')
  for (const folder of ['bin', 'lib', 'dev', 'proc', 'sys', 'mnt']) mkdirSync(join(root, folder), { recursive: true })
  const modules = MODULES.map((name) => `*/${name}.ko`)
  shell(
    dir,
    `dpkg-deb --fsys-tarfile "$1" | tar -x --wildcards './boot/vmlinuz*' ${modules.map((one) => `'${one}'`).join(' ')}`,
    deb.path,
  )
  shell(dir, 'mv boot/vmlinuz* kernel && find lib -name "*.ko" -exec mv {} root/lib/ ";"')
  try {
    copyFileSync('/bin/busybox', join(root, 'bin/busybox'))
  } catch {
    throw new SkippedCase('busybox is not installed: apt-get install busybox-static')
  }
  const init = [
    '#!/bin/busybox sh',
    '/bin/busybox --install -s /bin',
    'export PATH=/bin',
    'mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev',
    ...MODULES.map((name) => `insmod /lib/${name}.ko`),
    script,
    'sync',
    'poweroff -f',
  ]
  writeFileSync(join(root, 'init'), `${init.join('\n')}\n`, { mode: 0o755 })
  shell(dir, 'cd root && find . | cpio -o -H newc --quiet > ../initrd')
  return { kernel: join(dir, 'kernel'), initrd: join(dir, 'initrd') }
}

function newest(): { readonly path: string; readonly version: string } | null {
  try {
    const found = readdirSync(ARCHIVES).filter((name) => KERNEL.test(name))
    const name = found.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1)
    return name === undefined ? null : { path: join(ARCHIVES, name), version: KERNEL.exec(name)?.[2] ?? 'unknown' }
  } catch {
    return null
  }
}

function shell(cwd: string, line: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync('/bin/sh', ['-ec', line, 'sh', ...args], { cwd, encoding: 'utf8' })
  if (status === 127) throw new SkippedCase(`a program is missing (apt-get install cpio dpkg tar): ${stderr.trim()}`)
  if (status !== 0) throw new Error(`'${line}' failed: ${stderr.trim()}`)
}
