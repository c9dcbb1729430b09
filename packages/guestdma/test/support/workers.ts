import { Worker } from 'node:worker_threads'
import { type BusWindow, everything } from '@guestdma/devices'
import { DeviceWorker, type DeviceWorkerOptions, type WorkerPciOptions } from '@guestdma/devices/worker'
import type { DmaScheme, PoolFact } from '@guestdma/dma'
import { type DeviceAddress, GuestMemory, Region } from '@guestdma/memory'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import {
  createMachine,
  type DeviceConfig,
  directScheme,
  type Machine,
  onDeviceScheme,
  type RemoteConfig,
  sharedPagesScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { BASE } from './machines.ts'
import { type Bus, DOORBELL, POOL_BYTES, POOL_DEVICE, reach } from './worker-bus.ts'
import type { WorkerConfig } from './worker-device.ts'

export const WORKER_SCHEMES = [
  'direct',
  'shared-pool',
  'on-device',
  'virtio-iommu',
  'virtio-iommu-lazy',
  'virtio-iommu-byte',
  'shared-pages',
] as const
export type WorkerScheme = (typeof WORKER_SCHEMES)[number]
export const FORMATS = ['split', 'packed'] as const

/** Is guest RAM in the worker, where its port translates? */
export const isTranslated = (scheme: WorkerScheme): boolean =>
  scheme.startsWith('virtio-iommu') || scheme === 'shared-pages'

const RAM_BYTES = 8 << 20

export interface Wanted {
  /** `attack` is a network device. */
  readonly type: 'net' | 'blk' | 'attack'
  readonly scheme: WorkerScheme
  readonly packed?: boolean
  /** Default: mmio. */
  readonly bus?: Bus
  readonly pci?: WorkerPciOptions
  readonly config?: WorkerConfig
  /** For the machine's entry of the device. */
  readonly entry?: Partial<RemoteConfig>
  /** Nobody is told of interrupts. */
  readonly silent?: boolean
  readonly deadlineMs?: number
  /** Default: whether the scheme decides on addresses. */
  readonly translated?: boolean
  /** Devices of the same machine and scheme. */
  readonly others?: readonly DeviceConfig[]
}

/** A machine whose one device, `far`, lives in a worker, and what else a test may want of it. */
export interface Threads {
  readonly machine: Machine
  readonly memory: GuestMemory
  readonly worker: DeviceWorker
  /** The worker that runs now. */
  thread(): Worker
  close(): Promise<void>
}

/** Schemes whose device is given guest RAM. */
const IN_RAM: Readonly<Partial<Record<WorkerScheme, DmaScheme>>> = {
  direct: directScheme(),
  'virtio-iommu': virtioIommuScheme(),
  'virtio-iommu-lazy': virtioIommuScheme({ mode: 'lazy' }),
  'virtio-iommu-byte': virtioIommuScheme({ granule: 1 }),
  'shared-pages': sharedPagesScheme(),
}

/** Memory that one scheme's device is given: all of guest RAM, or a pool that is a buffer of its own. */
function given(scheme: WorkerScheme, memory: GuestMemory): { schemes: DmaScheme[]; windows: readonly BusWindow[] } {
  const inRam = IN_RAM[scheme]
  if (inRam !== undefined) return { schemes: [inRam], windows: everything(memory).windows }
  const window = { region: new Region(new SharedArrayBuffer(POOL_BYTES), 'pool'), offset: 0, length: POOL_BYTES }
  const home = scheme === 'on-device' ? 'device-memory' : 'guest-ram'
  const pool = (): PoolFact => ({ window, device: POOL_DEVICE as DeviceAddress, home })
  const made =
    scheme === 'on-device' ? onDeviceScheme({ memory: pool, bit: 'absent' }) : sharedPoolScheme({ memory: pool })
  return { schemes: [made], windows: [{ base: POOL_DEVICE, ...window }] }
}

export async function threads({
  type,
  scheme,
  packed = false,
  bus = 'mmio',
  pci,
  config = {},
  entry,
  silent = false,
  deadlineMs,
  translated = isTranslated(scheme),
  others = [],
}: Wanted): Promise<Threads> {
  const memory = new GuestMemory([{ base: BASE, length: RAM_BYTES, memory: new SharedArrayBuffer(RAM_BYTES) }])
  const { schemes, windows } = given(scheme, memory)
  let thread: Worker | null = null
  const options: DeviceWorkerOptions = {
    name: 'far',
    type,
    windows,
    translated,
    config: { ...config, offer: [...(config.offer ?? []), ...(packed ? [VIRTIO_F_RING_PACKED] : [])] },
    ...(bus === 'mmio' ? {} : { pci: { doorbell: DOORBELL, swiotlb: scheme === 'on-device', ...pci } }),
    spawn: () => {
      thread = new Worker(new URL('./worker-device.ts', import.meta.url))
      return thread
    },
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  }
  const worker = await DeviceWorker.start(options)
  const transport = reach(worker, bus)
  const { listen, detach, enforcedBy, translations } = worker
  const kind = type === 'blk' ? 'blk' : 'net'
  const device: RemoteConfig = {
    type: kind,
    name: 'far',
    transport,
    ...(silent ? {} : { listen }),
    detach,
    enforcedBy,
    translations,
    ...entry,
  }
  const machine = await createMachine({ memory, schemes, devices: [device, ...others] }).catch(
    async (error: unknown) => {
      await worker.close()
      throw error
    },
  )
  const close = async (): Promise<void> => {
    await machine.close().finally(() => worker.close())
  }
  return { machine, memory, worker, thread: () => thread as Worker, close }
}
