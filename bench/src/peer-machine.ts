import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DmaScheme } from '@guestdma/dma'
import { type DeviceAddress, Region } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { startStorageDaemon } from '@guestdma/peers'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import {
  DPDK_IOTLB,
  type IotlbProviderOptions,
  iotlbScheme,
  type VhostUserOptions,
  VhostUserTransport,
} from '@guestdma/vhost-user'
import { createMachine, directScheme, type Machine, sharedPoolScheme } from 'guestdma'

export const RAM = 0x8000_0000
const RAM_BYTES = 16 << 20
const POOL_BYTES = 4 << 20
/** Where a device of another process sees a pool: at no address of the guest. */
export const POOL_DEVICE = 0x12_3456_0000
const DEADLINE_MS = 20_000

/** What is known of a device before one connects to it. */
export type PeerDevice = Omit<VhostUserOptions, 'memory' | 'iotlb' | 'wait'>

export const BLK: PeerDevice = { name: 'dev0', deviceId: 2, queues: 1 }
export const MAC: readonly number[] = [0x52, 0x54, 0, 0, 0, 1]
export const NET: PeerDevice = {
  name: 'dev0',
  deviceId: 1,
  queues: 2,
  config: Uint8Array.from([...MAC, 1, 0, 1, 0, 0xdc, 0x05]),
  ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC),
}

/** Memory that a device of another process was lent, and the transport to it. */
export interface Connection {
  readonly memory: SharedMemory
  readonly transport: VhostUserTransport
  close(): void
}

interface Lent {
  readonly bytes: number
  /** The device address. */
  readonly at: number
  /** Whether the device asks for translations. */
  readonly iotlb: boolean
}

/** Connects to the device at a socket and lends it new memory. */
export function connect(path: string, device: PeerDevice, { bytes, at, iotlb }: Lent): Connection {
  const memory = SharedMemory.create('lent', bytes)
  const wait = { pump: () => {}, deadlineMs: DEADLINE_MS }
  const transport = VhostUserTransport.connect(path, { ...device, memory: [{ memory, device: at }], iotlb, wait })
  return {
    memory,
    transport,
    close: () => {
      transport.close()
      memory.close()
    },
  }
}

export type PeerScheme = 'direct' | 'shared-pool' | 'vhost-iotlb'

/** A machine whose only device, `dev0`, is served by another process. */
export interface PeerMachine {
  readonly machine: Machine
  /** Closes the machine and its connection. */
  close(): Promise<void>
}

/** Connects to the device at a socket and drives it over a scheme. With `shared-pool` it is lent the pool alone, else guest RAM. */
export async function peerMachine(
  path: string,
  device: PeerDevice,
  scheme: PeerScheme,
  mode: 'map' | 'pool',
  onDomain: NonNullable<IotlbProviderOptions['onDomain']> = () => {},
): Promise<PeerMachine> {
  const pool = scheme === 'shared-pool'
  const lent = pool ? { bytes: POOL_BYTES, at: POOL_DEVICE } : { bytes: RAM_BYTES, at: RAM }
  const { memory, transport, close } = connect(path, device, { ...lent, iotlb: scheme === 'vhost-iotlb' })
  const schemes: Readonly<Record<PeerScheme, () => DmaScheme>> = {
    direct: directScheme,
    'shared-pool': () => poolScheme(memory),
    'vhost-iotlb': () => iotlbScheme(transport, { domain: DPDK_IOTLB, onDomain }),
  }
  const used = schemes[scheme]()
  const machine = await createMachine({
    memory: [{ base: RAM, length: RAM_BYTES, memory: pool ? new ArrayBuffer(RAM_BYTES) : memory.buffer }],
    schemes: [used],
    deadlineMs: DEADLINE_MS,
    devices: [
      {
        type: device.deviceId === 1 ? 'net' : 'blk',
        name: 'dev0',
        transport,
        dma: used.id,
        mode,
        // It is polled all the time, as the bare ring is.
        interrupts: false,
        // As the bare ring is.
        decline: [VIRTIO_F_RING_PACKED],
        enforcedBy: scheme === 'vhost-iotlb' ? 'peer' : 'construction',
        // Received frames are counted by the driver.
        ...(device.deviceId === 1 ? { observer: { frames: () => {} } } : {}),
      },
    ],
  })
  return {
    machine,
    close: async () => {
      await machine.close()
      close()
    },
  }
}

function poolScheme(memory: SharedMemory): DmaScheme {
  const window = { region: new Region(memory.buffer, 'pool'), offset: 0, length: memory.bytes }
  return sharedPoolScheme({
    memory: () => ({ window, device: POOL_DEVICE as DeviceAddress, home: 'guest-ram' }),
  })
}

/** Serves a disk of 1 MiB by a qemu-storage-daemon for as long as `work` takes, which is given the socket. */
export async function withDisk(work: (path: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-bench-'))
  const image = join(dir, 'disk.raw')
  writeFileSync(image, '')
  truncateSync(image, 1 << 20)
  const { peer, path } = startStorageDaemon(image)
  await work(path)
  await peer.close()
  rmSync(dir, { recursive: true })
}

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]
