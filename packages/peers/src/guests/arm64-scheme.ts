import type { VirtioDevice } from '@guestdma/devices'
import { DEVICE_ID_BLOCK } from '@guestdma/spec'
import { VhostUserServer } from '@guestdma/vhost-user'
import { socketPath } from '../work/workloads.ts'
import { ARM64_MACHINE, ARM64_RAM, treeWithPools } from './arm64-image.ts'
import { type GuestMachine, macOf, startGuest } from './guest-machine.ts'
import type { BootFiles } from './initramfs.ts'
import { type Span, SpanPort, TranslatedPort, type WatchedPort } from './watched-port.ts'

/** How Linux drives the devices of a guest. */
export interface Arm64Scheme {
  readonly backend: string
  /** For the kernel. */
  readonly append: string
  /** What a device can reach, in words. */
  readonly reach: string
  /** Does the driver use the DMA API, as ACCESS_PLATFORM tells it to? */
  readonly platform: boolean
  /** On PCI behind QEMU's virtio-iommu; otherwise on virtio-mmio. */
  readonly translated: boolean
  /** Does each device have a restricted pool, which is all that it reaches? */
  readonly pools: boolean
}

const plain = { append: '', reach: 'all of RAM', platform: true, translated: false, pools: false }

export const arm64Schemes: readonly Arm64Scheme[] = [
  { ...plain, backend: 'direct', platform: false },
  { ...plain, backend: 'swiotlb', append: 'swiotlb=force' },
  { ...plain, backend: 'restricted-dma-pool', reach: 'its pool', pools: true },
  { ...plain, backend: 'virtio-iommu', reach: 'what is mapped', translated: true },
]

const MIB = 1 << 20
/** A pool has to hold more than one of Linux's largest mappings (256 KiB), beside the rings and the receive buffers. */
const POOL = 8 * MIB
/** Beyond what QEMU loads. */
const POOLS = ARM64_RAM.base + 192 * MIB
/** What a guest writes into memory that it then frees. */
const SECRET = 'TOP-SECRET-OF-THE-GUEST-KERNEL'

/** Linux takes it from virtio-mmio, where QEMU says 1024 whatever the device has. */
export const ARM64_QUEUE_SIZE = 1024

/** A device of a guest, and what is between them. */
export interface Served {
  readonly device: VirtioDevice
  readonly port: WatchedPort
  readonly server: VhostUserServer
}

/** Where the pool of a guest's i-th device lies. */
function poolOf(index: number): Span {
  return { base: POOLS + index * POOL, length: POOL }
}

/** Serves the i-th device of a guest. `make` is called with its port. */
export function serve(
  scheme: Arm64Scheme,
  index: number,
  name: string,
  make: (port: WatchedPort) => VirtioDevice,
): Served {
  const port = scheme.translated
    ? new TranslatedPort(name, SECRET)
    : new SpanPort(name, scheme.pools ? poolOf(index) : ARM64_RAM, SECRET)
  const device = make(port)
  return { device, port, server: VhostUserServer.listen({ path: socketPath(), device }) }
}

export interface Arm64GuestOptions {
  readonly files: BootFiles
  /** A folder of this guest's own. */
  readonly dir: string
  /** For `init.sh`: `work=read,copy`. */
  readonly work: string
}

/** Starts a guest that drives these devices by a scheme. */
export function startArm64(
  scheme: Arm64Scheme,
  served: readonly Served[],
  { files, dir, work }: Arm64GuestOptions,
): GuestMachine {
  const pools = served.map((_, i) => poolOf(i))
  return startGuest({
    ...ARM64_MACHINE,
    args: [
      ...['-cpu', 'cortex-a53', '-global', 'virtio-mmio.force-legacy=false'],
      ...(scheme.translated ? ['-device', 'virtio-iommu-pci,addr=2'] : []),
      ...served.flatMap((one, i) => deviceArgs(scheme, one, i)),
      ...(scheme.pools ? ['-dtb', treeWithPools(dir, pools)] : []),
      ...['-kernel', files.kernel, '-initrd', files.initrd],
      ...['-append', `console=ttyAMA0 quiet panic=-1 secret=${SECRET} ${work} ${scheme.append}`],
    ],
  })
}

/** On PCI or in the slot of virtio-mmio with the same number. */
function deviceArgs({ translated, platform }: Arm64Scheme, { device, server }: Served, index: number): string[] {
  const bus = translated ? `addr=${index + 3},disable-legacy=on,vectors=0` : `bus=virtio-mmio-bus.${index}`
  const options = `${bus},iommu_platform=${platform ? 'on' : 'off'}`
  const chardev = ['-chardev', `socket,id=c${index},path=${server.path}`]
  if (device.deviceId === DEVICE_ID_BLOCK) {
    const model = translated ? 'vhost-user-blk-pci' : 'vhost-user-blk'
    return [...chardev, '-device', `${model},chardev=c${index},num-queues=1,config-wce=off,${options}`]
  }
  const model = translated ? 'virtio-net-pci' : 'virtio-net-device'
  return [
    ...chardev,
    ...['-netdev', `vhost-user,id=n${index},chardev=c${index}`],
    ...['-device', `${model},netdev=n${index},mac=${macOf(device)},${options}`],
  ]
}
