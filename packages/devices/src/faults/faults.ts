/**
 * Why a device gave up on a queue. The sections are of virtio 1.4.
 *
 * - `queue-size`: not a power of two, 0, or above the device's maximum (§2.7)
 * - `ring-alignment`: an area is not aligned as §2.7 demands, as an address or where the platform translates it to
 * - `ring-unreachable`: the port does not grant the whole area, or in more than 1,024 pieces
 * - `available-index`: more entries than the queue holds, or an index that went backwards (§2.7.6, §2.7.13)
 * - `head`: an available entry that is no descriptor index
 * - `next`: a `next` beyond its table
 * - `chain-length`: more elements than the queue size, which is also what a loop looks like (§2.7.5.3.1)
 * - `chain-bytes`: more than 2^32 bytes (§2.7.5)
 * - `order`: a device-readable element after a device-writable one (§2.7.4)
 * - `indirect-feature`: an indirect descriptor that was not negotiated (§2.7.5.3.1)
 * - `indirect-next`: INDIRECT together with NEXT (§2.7.5.3.1)
 * - `indirect-nested`: INDIRECT inside an indirect table (§2.7.5.3.1)
 * - `indirect-length`: a table of 0 bytes, of no multiple of 16, or of more entries than `next` can name
 * - `indirect-unreachable`: the port does not grant the whole table, or in more than 1,024 pieces
 * - `buffer-unreachable`: the port does not grant a buffer; the port's own fault tells the address
 * - `segments`: a chain that the platform cuts into more pieces than a device keeps
 * - `receive-buffer`: a receive buffer that cannot hold the header (§5.1.9.3.1)
 */
export type QueueFaultReason =
  | 'queue-size'
  | 'ring-alignment'
  | 'ring-unreachable'
  | 'available-index'
  | 'head'
  | 'next'
  | 'chain-length'
  | 'chain-bytes'
  | 'order'
  | 'indirect-feature'
  | 'indirect-next'
  | 'indirect-nested'
  | 'indirect-length'
  | 'indirect-unreachable'
  | 'buffer-unreachable'
  | 'segments'
  | 'receive-buffer'

/** A queue that became unusable through what the driver put there. The device needs a reset. */
export interface QueueFault {
  readonly kind: 'queue'
  readonly device: string
  readonly queue: number
  readonly reason: QueueFaultReason
  /** The head of the chain at fault, or -1 where no chain was involved. */
  readonly head: number
  /** The offending number (an index, a length, a size), and the bound that it broke. */
  readonly value: number
  readonly limit: number
}

/**
 * A request that is not one, in a ring that is well formed. The device answered it as far as it could and goes on.
 *
 * - `no-status`: no device-writable byte for the status (blk); it was not executed
 * - `short-header`: fewer device-readable bytes than the header has
 * - `too-large`: more data than the device stages
 * - `offload`: a transmit header asks for something that was not negotiated (net); the frame was dropped
 * - `frame-size`: an empty or over-long frame (net); it was dropped
 */
export type RequestFaultReason = 'no-status' | 'short-header' | 'too-large' | 'offload' | 'frame-size'

export interface RequestFault {
  readonly kind: 'request'
  readonly device: string
  readonly queue: number
  readonly reason: RequestFaultReason
  readonly head: number
  readonly value: number
}

/**
 * A register access that the driver must not make. It reads as 0 or has no effect, unless the reason says otherwise.
 *
 * - `width`: not 32 bits wide and aligned (virtio-mmio), or not of the width of the field (virtio-pci, and the
 *   configuration of a device); such a *read* of a device's configuration is served
 * - `unknown`: there is no register, or no configuration byte
 * - `read-only`, `write-only`
 * - `no-queue`: the queue selector or a doorbell names a queue that the device does not have
 * - `queue-ready`: a queue register was written while the queue was ready
 * - `order`: too early or too late in the initialisation (§3.1.1)
 * - `feature`: the feature that brings the register was not negotiated
 * - `status-bits`: status bits that a driver may not set or clear
 * - `value`: a value that the field may not have
 * - `vector`: no vector of the MSI-X table (virtio-pci); the event is unmapped
 * - `disabled`: the command register does not enable the BAR (virtio-pci); a read gives all ones
 * - `window`: the access capability does not address a structure of the function (virtio-pci §4.1.4.9)
 */
export type RegisterFaultReason =
  | 'width'
  | 'unknown'
  | 'read-only'
  | 'write-only'
  | 'no-queue'
  | 'queue-ready'
  | 'order'
  | 'feature'
  | 'status-bits'
  | 'value'
  | 'vector'
  | 'disabled'
  | 'window'

export interface RegisterFault {
  readonly kind: 'register'
  readonly device: string
  readonly reason: RegisterFaultReason
  /** With virtio-pci: what `offset` lies in, the configuration space or a BAR. */
  readonly space?: 'config' | number
  readonly offset: number
  /** Width of the access in bytes. */
  readonly size: number
  /** What was written; `null` for a read. */
  readonly value: number | null
}

/** FEATURES_OK was refused (§2.2.2), with the bits at fault. */
export interface FeatureFault {
  readonly kind: 'features'
  readonly device: string
  /**
   * `version-1`: bit 32 is missing. `not-offered`. `required`: this device insists on them. `dependency`: they need
   * bits that are missing.
   */
  readonly reason: 'version-1' | 'not-offered' | 'required' | 'dependency'
  readonly bits: readonly number[]
}

/** DEVICE_NEEDS_RESET was set for a reason of the device's own. */
export interface ResetFault {
  readonly kind: 'needs-reset'
  readonly device: string
  readonly reason: string
}

/**
 * What is plugged into the device, a link or a store, threw or broke its contract. No fault of the driver's; what was
 * thrown surfaced in a microtask.
 */
export interface HostFault {
  readonly kind: 'host'
  readonly device: string
  /** What the device called, such as `link.transmit`. */
  readonly reason: string
  /** The error in words. */
  readonly message: string
}

/** Everything that a device records of its driver and of what it is plugged into. Plain data: tell the kinds apart by `kind`. */
export type DeviceFault = QueueFault | RequestFault | RegisterFault | FeatureFault | ResetFault | HostFault
