import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { type PeerProgram, SkippedCase } from '../matrix/case.ts'
import { type BootFiles, makeInitramfs, shell } from './initramfs.ts'

/** Where apt-get puts what it downloads. */
const ARCHIVES = '/var/cache/apt/archives'
const KERNEL = /^linux-image-([\d.]+-\d+)-cloud-amd64_(.+)_amd64\.deb$/
/** In the order in which they are loaded; what is part of the kernel is in no package. */
const MODULES = [
  ...['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk'],
  ...['failover', 'net_failover', 'virtio_net'],
]

/** Linux of Debian, as a package that was downloaded and not installed: it is to run in QEMU alone. */
export const linux: PeerProgram = {
  id: 'linux',
  name: 'Linux',
  packages: ['--download-only', 'linux-image-cloud-amd64'],
  version: async () => newest()?.version ?? null,
}

/**
 * Unpacks the kernel into `dir`, and makes an initramfs of busybox and the modules of virtio.
 *
 * @throws SkippedCase where a program for it is missing
 */
export function bootFiles(dir: string): BootFiles {
  const deb = newest()
  if (deb === null) throw new SkippedCase('there is no kernel: apt-get install --download-only linux-image-cloud-amd64')
  const wanted = ['./boot/vmlinuz*', ...MODULES.map((name) => `*/${name}.ko`)].map((one) => `'${one}'`).join(' ')
  shell(dir, `dpkg-deb --fsys-tarfile "$1" | tar -x --wildcards ${wanted}`, deb.path)
  shell(dir, 'mv boot/vmlinuz* kernel && find lib -name "*.ko" -exec mv {} . ";"')
  const modules = MODULES.map((name) => join(dir, `${name}.ko`))
  return { kernel: join(dir, 'kernel'), initrd: makeInitramfs(dir, ['/bin/busybox'], modules) }
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
