import type { VirtioDevice } from '@guestdma/devices'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { CaseProgress } from '../matrix/case.ts'
import { expectIs, socketPath, until } from '../work/workloads.ts'
import { ARM64_MACHINE, ARM64_RAM, treeWithPools } from './arm64-image.ts'
import { type GuestMachine, startGuest } from './guest-machine.ts'
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

const ENDED_MS = 60_000

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
  /** QEMU's arguments for the device at a socket: on `bus`, with `options` that begin with a comma. */
  readonly deviceArgs: (
    path: string,
    index: number,
    on: { readonly suffix: string; readonly options: string },
  ) => string[]
}

/** Starts a guest that reaches these devices by a scheme. */
export function startArm64(
  scheme: Arm64Scheme,
  served: readonly Served[],
  { files, dir, work, deviceArgs }: Arm64GuestOptions,
): GuestMachine {
  const platform = scheme.platform ? ',iommu_platform=on' : ''
  const devices = served.flatMap(({ server }, i) => {
    const pci = `,addr=${i + 3},disable-legacy=on,vectors=0`
    const on = scheme.translated
      ? { suffix: '-pci', options: pci + platform }
      : { suffix: '', options: `,bus=virtio-mmio-bus.${i}${platform}` }
    return deviceArgs(server.path, i, on)
  })
  const pools = scheme.pools
    ? [
        '-dtb',
        treeWithPools(
          dir,
          served.map((_, i) => poolOf(i)),
        ),
      ]
    : []
  const append = `console=ttyAMA0 quiet panic=-1 secret=${SECRET} ${work} ${scheme.append}`
  return startGuest({
    ...ARM64_MACHINE,
    args: [
      ...['-cpu', 'cortex-a53', '-global', 'virtio-mmio.force-legacy=false'],
      ...(scheme.translated ? ['-device', 'virtio-iommu-pci,addr=2'] : []),
      ...devices,
      ...pools,
      ...['-kernel', files.kernel, '-initrd', files.initrd, '-append', append],
    ],
  })
}

/** What a guest printed as a result, or an empty text. */
export function resultOf(guest: GuestMachine, name: string): string {
  return new RegExp(`^RESULT ${name} (\\S.*?)\\s*$`, 'm').exec(guest.serial())?.[1] ?? ''
}

/**
 * Waits for results, one after the other, and looks after each of them at what the devices could read. Returns the most
 * bytes of the secret that were found at once.
 */
export async function watchResults(
  guest: GuestMachine,
  served: readonly Served[],
  names: readonly string[],
  { saw }: CaseProgress,
): Promise<number> {
  let most = 0
  for (const name of names) {
    await guest.printed(new RegExp(`^RESULT ${name} [^\\n]*\\n`, 'm'), ENDED_MS)
    most = Math.max(
      most,
      sum(served, ({ port }) => port.secretInReach()),
    )
    saw(`the guest printed ${name} ${resultOf(guest, name)}`)
  }
  return most
}

/** Waits until the guest switched itself off. */
export async function ended(guest: GuestMachine): Promise<void> {
  const lacking = (): string => `the guest to switch itself off; it printed: ${guest.serial().slice(-600)}`
  await until(lacking, () => guest.peer.ended, undefined, ENDED_MS)
}

/** No access went outside of what the scheme promises, none was refused, and there was something to look at. */
export function expectConfined(served: readonly Served[]): void {
  for (const { device, port, server } of served) {
    expectIs(`accesses outside by ${device.name}`, port.outside, 0)
    const faults = [...port.faults.last(), ...device.faults.last(), ...server.faults.last().map(String)]
    expectIs(`faults of ${device.name}`, faults, [])
    expectIs(`that ${device.name} accessed anything`, port.granted >= 100, true)
  }
}

/** Records what there is to compare between the schemes. */
export function recordFigures(
  { figure }: CaseProgress,
  scheme: Arm64Scheme,
  served: readonly Served[],
  { guest, negotiated, secretInReach }: { guest: GuestMachine; negotiated: string; secretInReach: number },
): void {
  figure('negotiated', negotiated)
  figure('reach', scheme.reach)
  figure(
    'accesses',
    sum(served, ({ port }) => port.granted),
  )
  figure(
    'outside',
    sum(served, ({ port }) => port.outside),
  )
  figure(
    'faults',
    sum(served, ({ port, device }) => port.faults.count + device.faults.count),
  )
  figure('bytesCopied', Number(resultOf(guest, 'copied')))
  figure(
    'iommuMessages',
    sum(served, ({ port }) => port.messages),
  )
  figure('secretInReach', secretInReach)
  figure(
    'secretHandedOver',
    sum(served, ({ port }) => port.handedOver),
  )
}

function sum(served: readonly Served[], value: (one: Served) => number): number {
  return served.reduce((total, one) => total + value(one), 0)
}
