import type { PciFunctionOptions } from '../pci/options.ts'
import type { BusWindow } from '../ports/bus-windows.ts'

/** The first message to a worker: all that it is given. */
export interface SetupMessage {
  readonly format: typeof WORKER_FORMAT
  readonly name: string
  readonly type: string
  readonly config: unknown
  readonly mailbox: SharedArrayBuffer
  readonly windows: readonly SentWindow[]
  /** Where the device's addresses are translated: the changes of its translations. */
  readonly translations?: SharedArrayBuffer
  /** Over PCI; without it over mmio. */
  readonly pci?: WorkerPciOptions
  /** Whether somebody waits for the interrupt word, or has to be sent a message. */
  readonly interrupts: 'wait' | 'message'
}

/** A window with the buffer in the place of its region. */
export interface SentWindow extends Required<Omit<BusWindow, 'region'>> {
  readonly memory: SharedArrayBuffer
}

/** What a worker says of itself. */
export interface WorkerMessage {
  readonly format: typeof WORKER_FORMAT
  readonly event: 'ready' | 'failed' | 'interrupt' | 'faults' | 'message'
  /** Of a failure: the error in words. */
  readonly text?: string
  /** Of a device that is ready, over PCI. */
  readonly described?: DescribedFunction
  /** Of a message-signalled interrupt. */
  readonly address?: number
  readonly data?: number
}

/** A worker's device as a PCI function: plain data, since it is sent to the worker. */
export interface WorkerPciOptions
  extends Pick<
    PciFunctionOptions,
    'notifyMultiplier' | 'msixVectors' | 'revision' | 'classCode' | 'subsystemVendorId' | 'subsystemId'
  > {
  /**
   * Where the platform takes MSI-X messages: `length` bytes from device address `base` on. Messages there go to
   * `WorkerFunction.onMessage`, and behind an IOMMU pass it as they are; the IOMMU reserves these addresses. Any other
   * message, and without it each, is a write to memory through the device's port.
   */
  readonly doorbell?: { readonly base: number; readonly length: number }
  /**
   * The one window is memory on the device, behind BAR 2: 64 bits wide and prefetchable, with the capability that names
   * it (SWIOTLB RFC 3/3). The device reaches it where the BAR is put, so the window's `base` means nothing, and not
   * before the BAR is enabled. Default false.
   */
  readonly swiotlb?: boolean
}

/** What a worker says of its PCI function. */
export interface DescribedFunction {
  /** By number; `null` where there is none. */
  readonly bars: readonly (DescribedBar | null)[]
  /** Where doorbells begin in the register BAR. */
  readonly doorbells: number
  /** Where the MSI-X capability is, or 0. */
  readonly msix: number
  /** Bytes of the MSI-X table, which begins its BAR. */
  readonly table: number
}

export interface DescribedBar {
  readonly kind: 'memory' | 'io'
  readonly size: number
  readonly wide: boolean
  readonly prefetchable: boolean
}

export const WORKER_FORMAT = 'guestdma-worker-1'

/** Is it one of ours? A worker script and its owner may have messages of their own. */
export function isOurs(message: unknown): message is { readonly format: typeof WORKER_FORMAT } {
  return typeof message === 'object' && message !== null && (message as SetupMessage).format === WORKER_FORMAT
}
