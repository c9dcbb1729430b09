/** A virtqueue in a {@link DeviceState}. */
export interface QueueState {
  readonly size: number
  readonly ready: boolean
  readonly marked: boolean
  /** Descriptor low, high, driver low, high, device low, high. */
  readonly areas: readonly number[]
  /** Next available entry to take; used index with and without what waits to be published. Modulo 2^16. */
  readonly next: number
  readonly used: number
  readonly published: number
}

/**
 * A device as plain data: it survives JSON and `structuredClone`. It holds what the driver negotiated and set up and how far the rings were
 * worked, but neither guest memory nor what stands behind the device (a store's contents, frames that a link still holds), nor the
 * transport's own registers (see `MmioRegisters.save`).
 */
export interface DeviceState {
  readonly format: 'guestdma-device-1'
  readonly deviceId: number
  readonly status: number
  readonly driverFeatures: readonly number[]
  readonly config: readonly number[]
  readonly generation: number
  readonly queues: readonly QueueState[]
}
