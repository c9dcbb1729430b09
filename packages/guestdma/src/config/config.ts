import type { BlkDeviceOptions, NetDeviceOptions, TranslationCopy, VirtioDevice } from '@guestdma/devices'
import type { DmaChoice, DmaScheme } from '@guestdma/dma'
import type { BufferMode, NetObserver } from '@guestdma/drivers'
import type { BusPort, GuestAddress, GuestMemory, GuestRange } from '@guestdma/memory'
import type { VirtioTransport } from '@guestdma/transport'
import type { DriverKind } from './driver-kinds.ts'
import type { MachineEvents } from './events.ts'

interface CommonConfig {
  /** Names the device in events and errors; unique in the machine. */
  readonly name: string
  /** Which scheme's platform the device stands on: what it can reach. Default: the first of `schemes`. */
  readonly platform?: string
  /** What the driver may choose. Default `auto`. */
  readonly dma?: DmaChoice
  /** `map` (default): lend each buffer for one transfer. `pool`: use memory that the device always sees. */
  readonly mode?: BufferMode
  /** Feature bits that the driver does not accept, although it understands them. */
  readonly decline?: readonly number[]
  /** Queue entries that the driver asks for. */
  readonly queueSize?: number
  /**
   * Ask for interrupts. Without them only whoever calls `pump` by the clock notices completions. Default true; for a
   * device that lives elsewhere, whether it has `listen` or `messages`.
   */
  readonly interrupts?: boolean
  /** See `WaitingOptions.requestDeadlineMs`: how long the device may take. Default: no limit. */
  readonly requestDeadlineMs?: number
}

/** A device whose model runs in this machine. */
interface ModelConfig extends CommonConfig {
  /** How the driver reaches the device. Default: the machine's. */
  readonly transport?: 'mmio' | 'pci'
  /** Makes the device model, where it is not one of ours. */
  make?(port: BusPort): VirtioDevice
}

/** A network device and its driver. */
export interface NetConfig extends ModelConfig {
  readonly type: 'net'
  /** The model's options: `mac`, `mtu`, `link`, … */
  readonly device: Omit<NetDeviceOptions, 'name' | 'port'>
  readonly observer?: Pick<NetObserver, 'frames' | 'sent'>
}

/** A block device and its driver. */
export interface BlkConfig extends ModelConfig {
  readonly type: 'blk'
  /** The model's options: `store`, `id`, `readOnly`, … */
  readonly device: Omit<BlkDeviceOptions, 'name' | 'port'>
}

/** A device of a kind of one's own, and its driver. */
export interface OwnKindConfig extends ModelConfig {
  readonly type: DriverKind
  make(port: BusPort): VirtioDevice
}

/** A device that lives elsewhere: in another process, or in hardware. Only its driver is here. */
export interface RemoteConfig extends CommonConfig {
  readonly type: 'net' | 'blk' | DriverKind
  /** Of a network device. */
  readonly observer?: Pick<NetObserver, 'frames' | 'sent'>
  /** How the driver reaches the device. */
  readonly transport: VirtioTransport
  /**
   * What holds the device to what it may reach, which this machine cannot: `peer` (default), the other side or its
   * IOMMU; `construction`, since it was given this memory and no other. With {@link translations} it is `trusted-code`:
   * a port of this library in another thread.
   */
  readonly enforcedBy?: 'peer' | 'construction' | 'trusted-code'
  /**
   * Of a device in a worker that stands behind an IOMMU of this machine, or is lent single pages:
   * `DeviceWorker.translations`.
   */
  readonly translations?: TranslationCopy | null
  /**
   * Cuts the device off from all memory, for a device that does not confirm its reset. Returns whether it did. Without
   * it, memory that such a device was lent stays out of use.
   */
  detach?(): boolean
  /**
   * Calls `interrupt` whenever the device interrupts, until the function that it returns is called. Without it, and
   * without `messages`, completions are found by `pump` alone, and `run` pumps without sleeping.
   */
  listen?(interrupt: () => void): () => void
  /**
   * Over PCI: message-signalled interrupts are writes into memory that the device's backend allocates, and `pump` looks
   * at it. So they work behind an IOMMU too, whose driver maps that memory. Leave {@link listen} out unless it tells of
   * these writes as well.
   */
  readonly messages?: 'memory'
}

export type DeviceConfig = NetConfig | BlkConfig | OwnKindConfig | RemoteConfig

/** Does the device live elsewhere? */
export function isRemote(config: DeviceConfig): config is RemoteConfig {
  return typeof config.transport === 'object'
}

export interface MachineConfig {
  /** Guest memory, or its ranges. */
  readonly memory: GuestMemory | readonly GuestRange[]
  /** The part of guest memory that pools, rings and the drivers' buffers come from. Default: the largest range. */
  readonly ram?: { readonly base: GuestAddress; readonly length: number }
  /**
   * In order of preference. Default: on-device, virtio-iommu, a shared pool of 4 MiB for each device, direct; devices
   * then stand on the platform of the shared pool unless they say otherwise.
   */
  readonly schemes?: readonly DmaScheme[]
  readonly devices: readonly DeviceConfig[]
  /** How drivers reach their devices, where a device does not say. Default `mmio`. */
  readonly transport?: 'mmio' | 'pci'
  /** Pass your own to hear of the events of `createMachine` itself. */
  readonly events?: MachineEvents
  /** May this thread block? Default true; false on a browser's main thread. */
  readonly mayBlock?: boolean
  /**
   * Called when there is something to {@link Machine.pump}; once until the next pump. It may be called from within
   * stores, links and timers, so all it does is to see to it that `pump` is called soon: `() => setImmediate(pump)`. It is
   * called for the first time after the promise of `createMachine` has resolved.
   */
  readonly onWork?: () => void
  /** The longest wait for a device to reset, and for an IOMMU to answer, in milliseconds. Default 1000. */
  readonly deadlineMs?: number
}
