import { FeatureSet } from '@guestdma/spec'
import type { ConfigSpace } from './config-space.ts'
import type { DeviceQueue } from './device-queue.ts'
import { DeviceError } from './errors.ts'

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
 * A device as plain data: it survives JSON and `structuredClone`. It holds what the driver negotiated and set up and
 * how far the rings were worked, but neither guest memory nor what stands behind the device (a store's contents, frames
 * that a link still holds), nor the transport's own registers (see `MmioRegisters.save`).
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

/** What a state is compared with. */
interface Receiver {
  readonly name: string
  readonly deviceId: number
  readonly config: ConfigSpace
  readonly queues: readonly DeviceQueue[]
  readonly offered: FeatureSet
}

/** Throws `DEVICE_STATE` unless a state fits a device; `accepts`: the device would accept its features. */
export function checkState(state: DeviceState, device: Receiver, accepts: boolean): void {
  const wrong = (message: string, details: Readonly<Record<string, unknown>>): never => {
    throw new DeviceError('DEVICE_STATE', device.name, message, details)
  }
  if (state.format !== 'guestdma-device-1') {
    wrong(`format ${String(state.format)} is not guestdma-device-1`, { format: state.format })
  }
  if (state.deviceId !== device.deviceId) {
    const message = `was saved from device type ${state.deviceId}, this one is ${device.deviceId}`
    wrong(message, { deviceId: state.deviceId })
  }
  if (state.queues.length !== device.queues.length || state.config.length !== device.config.bytes.length) {
    const message = 'has another number of queues or configuration bytes; make the device with the same options'
    wrong(message, { queues: state.queues.length, config: state.config.length })
  }
  if (!accepts) {
    const features = FeatureSet.fromWords(state.driverFeatures)
    const message = `negotiated ${features}, which this device does not accept; it offers ${device.offered}`
    wrong(message, { features: features.bits() })
  }
  state.queues.forEach(({ size, areas }, i) => {
    const { maxSize } = device.queues[i]
    if (areas.length !== 6) wrong(`queue ${i} has ${areas.length} address halves, not 6`, { queue: i })
    if (size > maxSize) wrong(`queue ${i} has size ${size}, above ${maxSize}`, { queue: i, size })
  })
}
