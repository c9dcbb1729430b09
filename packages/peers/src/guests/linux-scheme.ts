import { BusWindows } from '@guestdma/devices'
import { IotlbPort } from '@guestdma/vhost-user'
import { type GuestMachine, startGuest } from './guest-machine.ts'
import type { BootFiles } from './initramfs.ts'

/** How Linux drives the devices of a PC. */
export interface LinuxScheme {
  readonly backend: string
  /** For the kernel. */
  readonly append: string
  /** Of the i-th device. */
  readonly options: (index: number) => string
  /** Of a machine with so many devices. */
  readonly machine: (devices: number) => readonly string[]
  /** The front end translates addresses. */
  readonly translated: boolean
}

export const direct: LinuxScheme = {
  backend: 'direct',
  append: '',
  options: () => '',
  machine: () => [],
  translated: false,
}

export const linuxSchemes: readonly LinuxScheme[] = [
  direct,
  { ...direct, backend: 'swiotlb', append: 'swiotlb=force', options: () => ',iommu_platform=on' },
  {
    backend: 'intel-iommu',
    append: 'intel_iommu=on iommu.passthrough=0 iommu.strict=1',
    options: (index) => `,iommu_platform=on,ats=on,bus=port${index}`,
    machine: (devices) => [
      ...['-device', 'intel-iommu,device-iotlb=on'],
      ...Array.from({ length: devices }, (_, i) => `pcie-root-port,id=port${i},chassis=${i},slot=${i}`).flatMap(
        (port) => ['-device', port],
      ),
    ],
    translated: true,
  },
]

/** For a served device of such a guest. */
export function portOf({ translated }: LinuxScheme, name: string): BusWindows | IotlbPort {
  return translated ? new IotlbPort(name) : new BusWindows(name)
}

export interface LinuxGuestOptions {
  readonly files: BootFiles
  /** QEMU's arguments for each device, given its options. */
  readonly devices: readonly ((options: string) => readonly string[])[]
  /** For `init.sh`: `work=read,copy`. */
  readonly words: string
  /** For QEMU, beside all that. */
  readonly args?: readonly string[]
}

/** Starts a guest that drives its devices by a scheme. */
export function startLinux(
  { append, options, machine }: LinuxScheme,
  { files, devices, words, args = [] }: LinuxGuestOptions,
): GuestMachine {
  return startGuest({
    memory: '256M',
    args: [
      ...machine(devices.length),
      ...devices.flatMap((device, i) => device(options(i))),
      ...['-kernel', files.kernel, '-initrd', files.initrd],
      ...['-append', `console=ttyS0 quiet panic=-1 ${words} ${append}`],
      ...args,
    ],
  })
}
