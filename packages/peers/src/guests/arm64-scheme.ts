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
export function poolOf(index: number): Span {
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
export function startArm64(scheme: Arm64Scheme, served: readonly Served[], options: Arm64GuestOptions): GuestMachine {
  const devices = served.map(({ device, server }): Arm64Device => {
    if (device.deviceId === DEVICE_ID_BLOCK) return servedBlk(server.path, device.queues[0].maxSize)
    return (slot) => [
      ...['-chardev', `socket,id=c${slot.index},path=${server.path}`],
      ...['-netdev', `vhost-user,id=n${slot.index},chardev=c${slot.index}`],
      ...['-device', `virtio-net-${slot.suffix},netdev=n${slot.index},mac=${macOf(device)},${slot.options}`],
    ]
  })
  return bootArm64(scheme, devices, options)
}

/** Where a device of a guest is. */
interface Arm64Slot {
  readonly index: number
  /** Of the name of a model in QEMU. */
  readonly suffix: 'pci' | 'device'
  /** Of the model: its place, and whether its driver uses the DMA API. */
  readonly options: string
}

/** QEMU's arguments for a device. */
export type Arm64Device = (slot: Arm64Slot) => string[]

/** A disk that is served at a path, by a device with queues of this size: a driver goes by what the front end says. */
export function servedBlk(path: string, queueSize: number): Arm64Device {
  return ({ index, suffix, options }) => [
    ...['-chardev', `socket,id=c${index},path=${path}`],
    '-device',
    `vhost-user-blk${suffix === 'pci' ? '-pci' : ''},chardev=c${index},num-queues=1,queue-size=${queueSize},config-wce=off,${options}`,
  ]
}

/** A guest whose i-th device is on PCI, or in the i-th slot of virtio-mmio. */
export function bootArm64(
  { append, platform, pools, translated }: Arm64Scheme,
  devices: readonly Arm64Device[],
  { files, dir, work }: Arm64GuestOptions,
): GuestMachine {
  const slots = devices.map((_, index): Arm64Slot => {
    const place = translated ? `addr=${index + 3},disable-legacy=on,vectors=0` : `bus=virtio-mmio-bus.${index}`
    const options = `${place},iommu_platform=${platform ? 'on' : 'off'}`
    return { index, suffix: translated ? 'pci' : 'device', options }
  })
  return startGuest({
    ...ARM64_MACHINE,
    args: [
      ...['-cpu', 'cortex-a53', '-global', 'virtio-mmio.force-legacy=false'],
      ...(translated ? ['-device', 'virtio-iommu-pci,addr=2'] : []),
      ...slots.flatMap((slot) => devices[slot.index](slot)),
      ...(pools
        ? [
            '-dtb',
            treeWithPools(
              dir,
              slots.map(({ index }) => poolOf(index)),
            ),
          ]
        : []),
      ...['-kernel', files.kernel, '-initrd', files.initrd],
      ...['-append', `console=ttyAMA0 quiet panic=-1 secret=${SECRET} ${work} ${append}`],
    ],
  })
}
