import { eachFrame, type NetLink } from '@guestdma/devices'
import { type BlkDriver, FrameBatch } from '@guestdma/drivers'
import { VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import {
  type BlkConfig,
  directScheme,
  type Machine,
  type MachineConfig,
  onDeviceScheme,
  pooledIommuScheme,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { expect } from 'vitest'
import { HeldStore, MAC, machine, outcome, pattern, settled, TRANSPORTS, type TransportName } from './machines.ts'

type Scheme = NonNullable<MachineConfig['schemes']>[number]

const SCHEMES: readonly [name: string, make: () => Scheme, needs?: readonly number[]][] = [
  ['direct', directScheme],
  ['shared-pool', () => sharedPoolScheme({ size: 2 << 20 })],
  ['on-device', () => onDeviceScheme({ size: 2 << 20 }), [VIRTIO_F_SWIOTLB]],
  ['virtio-iommu', virtioIommuScheme],
  ['virtio-iommu-lazy', () => virtioIommuScheme({ mode: 'lazy' })],
  ['virtio-iommu-simple', () => pooledIommuScheme()],
  ['shared-pages', () => sharedPagesScheme()],
]
const RINGS: readonly [name: string, offer: readonly number[]][] = [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
  ['packed, in order', [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER]],
]
/** Both transports, the schemes, and both formats of a ring. */
export const CASES: readonly (Wanted & { readonly name: string })[] = TRANSPORTS.flatMap((transport) =>
  SCHEMES.flatMap(([scheme, make, needs = []]) =>
    RINGS.map(([ring, offer]) => ({
      name: `${transport}, ${scheme}, ${ring}`,
      transport,
      make,
      offer: [...offer, ...needs],
    })),
  ),
)

/** A link that takes nothing while it is closed. */
export class Gate implements NetLink {
  readonly frames: Uint8Array[] = []
  closed = false
  private readonly keep = eachFrame((frame) => this.frames.push(frame.slice()))

  transmit(...[frames]: Parameters<NetLink['transmit']>): number {
    return this.closed ? 0 : this.keep(frames)
  }
}

export interface Wanted {
  readonly transport: TransportName
  readonly make: () => Scheme
  readonly offer: readonly number[]
}

/** A network device whose link is a {@link Gate}, what its driver was told, and no fault in the end. */
export async function withNet(
  { transport, make, offer }: Wanted,
  body: (net: { machine: Machine; link: Gate; sent: number[]; received: Uint8Array[] }) => Promise<void>,
): Promise<void> {
  const scheme = make()
  const link = new Gate()
  const sent: number[] = []
  const received: Uint8Array[] = []
  const one = await machine(
    [
      {
        type: 'net',
        name: 'net0',
        queueSize: 16,
        dma: scheme.id,
        device: { mac: MAC, link, offer, accessPlatform: 'offered', queueSize: 16 },
        observer: {
          sent: (tokens, count) => void sent.push(...tokens.subarray(0, count)),
          frames: (batch) => {
            for (let i = 0; i < batch.count; i++) received.push(batch.copy(i))
          },
        },
      },
    ],
    { transport, schemes: [scheme] },
  )
  one.pump()
  await body({ machine: one, link, sent, received })
  expect(one.netModel('net0').faults.last()).toEqual([])
  await one.close()
}

/** Hands eight frames in buffers of the driver's over; returns how many it took. */
export function sendEight(one: Machine, seed: number): number {
  const net = one.net('net0')
  const batch = new FrameBatch(8)
  batch.count = 8
  for (let i = 0; i < 8; i++) {
    batch.buffer[i] = net.acquire()
    batch.length[i] = 60 + i
    batch.token[i] = 100 * seed + i
    net.bufferRegion.u8.set(pattern(60 + i, seed), net.bufferOffset(batch.buffer[i]))
  }
  const taken = net.send(batch)
  for (let i = taken; i < 8; i++) net.release(batch.buffer[i])
  return taken
}

export const tokensOf = (seed: number): number[] => Array.from({ length: 8 }, (_, i) => 100 * seed + i)

interface HeldDisk {
  readonly machine: Machine
  readonly store: HeldStore
}

/** A machine with one disk, `disk0`, whose store answers when it is told to. */
export async function heldDisk(
  { dma = 'auto', ...device }: Partial<BlkConfig['device'] & Pick<BlkConfig, 'dma'>> = {},
  config: Partial<MachineConfig> = {},
): Promise<HeldDisk> {
  const store = new HeldStore(pattern(64 << 10))
  const disk = { type: 'blk', name: 'disk0', dma, device: { store, ...device } } as const
  return { machine: await machine([disk], config), store }
}

/** The disk serves a read of its first sector. */
export async function expectServed({ machine: one, store }: HeldDisk): Promise<void> {
  const read = one.blk('disk0').readBytes(0, 512)
  await settled()
  one.pump()
  store.release()
  one.pump()
  expect(await read).toEqual(pattern(512))
}

/** A disk that does not complete a read is broken once `ask` has waited for it in vain; its own reset brings it back. */
export async function expectBroken(ask: (disk: BlkDriver) => Promise<void>, error: object): Promise<void> {
  const held = await heldDisk({}, { deadlineMs: 20 })
  const { machine: one, store } = held
  const disk = one.blk('disk0')
  const read = outcome(disk.readBytes(0, 512))
  await settled()
  one.pump()
  await expect(one.run(ask(disk))).rejects.toMatchObject(error)
  await settled()
  expect([read(), disk.broken?.code]).toEqual(['DRIVER_DEVICE_BROKEN', 'DRIVER_DEVICE_BROKEN'])
  store.release()
  await one.reset('disk0')
  await expectServed(held)
  await one.close()
}

/** A {@link heldDisk} over a scheme, and no fault in the end. */
export async function withDisk(
  { transport, make, offer }: Wanted,
  body: (disk: HeldDisk) => Promise<void>,
): Promise<void> {
  const scheme = make()
  const disk = await heldDisk({ dma: scheme.id, offer, accessPlatform: 'offered' }, { transport, schemes: [scheme] })
  await body(disk)
  expect(disk.machine.blkModel('disk0').faults.last()).toEqual([])
  await disk.machine.close()
}
