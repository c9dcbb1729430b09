import type { DmaScheme } from '@guestdma/dma'
import { type DeviceAddress, Region } from '@guestdma/memory'
import type { SharedMemory } from '@guestdma/node'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import type { VhostUserTransport } from '@guestdma/vhost-user'
import { createMachine, type Machine, sharedPoolScheme } from 'guestdma'

export const RAM = 0x8000_0000
export const RAM_BYTES: number = 16 << 20
export const POOL_BYTES: number = 4 << 20
/** Where a device of another process sees a pool: at no address of the guest. */
export const POOL_DEVICE = 0x12_3456_0000
export const WAIT: { readonly pump: () => void; readonly deadlineMs: number } = { pump: () => {}, deadlineMs: 20_000 }

export const BLK = { name: 'dev0', deviceId: 2, queues: 1 } as const
export const MAC: readonly number[] = [0x52, 0x54, 0, 0, 0, 1]
export const NET: {
  readonly name: string
  readonly deviceId: number
  readonly queues: number
  readonly config: Uint8Array
  readonly ownFeatures: FeatureSet
} = {
  name: 'dev0',
  deviceId: 1,
  queues: 2,
  config: Uint8Array.from([...MAC, 1, 0, 1, 0, 0xdc, 0x05]),
  ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC),
}

/** The shared pool that `memory` is. */
export function poolScheme(memory: SharedMemory): DmaScheme {
  const window = { region: new Region(memory.buffer, 'pool'), offset: 0, length: memory.bytes }
  return sharedPoolScheme({
    memory: () => ({ window, device: POOL_DEVICE as DeviceAddress, home: 'guest-ram' }),
  })
}

interface PeerSetting {
  readonly transport: VhostUserTransport
  /** Guest RAM, where the device is given it. */
  readonly memory: ArrayBuffer | null
  readonly scheme: DmaScheme
  readonly mode: 'map' | 'pool'
}

/** A machine whose only device, `dev0`, is served by another process. */
export function peerMachine({ transport, memory, scheme, mode }: PeerSetting): Promise<Machine> {
  return createMachine({
    memory: [{ base: RAM, length: RAM_BYTES, memory: memory ?? new ArrayBuffer(RAM_BYTES) }],
    schemes: [scheme],
    deadlineMs: WAIT.deadlineMs,
    devices: [
      {
        type: transport.deviceId === 1 ? 'net' : 'blk',
        name: 'dev0',
        transport,
        dma: scheme.id,
        mode,
        // It is polled all the time, as the bare ring is.
        interrupts: false,
        // As the bare ring is.
        decline: [VIRTIO_F_RING_PACKED],
        enforcedBy: scheme.id === 'vhost-iotlb' ? 'peer' : 'construction',
        // Received frames are counted by the driver.
        ...(transport.deviceId === 1 ? { observer: { frames: () => {} } } : {}),
      },
    ],
  })
}

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]
