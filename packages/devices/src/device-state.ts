import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
} from '@guestdma/spec'
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

const STATUS_BITS =
  STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_DEVICE_NEEDS_RESET | STATUS_FAILED
/** A device with either takes nothing from its queues until it is reset, and what was in flight is void. */
export const STATUS_STOPPED: number = STATUS_DEVICE_NEEDS_RESET | STATUS_FAILED
const FEATURE_WORDS = 4
const AREA_HALVES = 6

/**
 * Throws `DEVICE_STATE` unless a state is whole and fits a device. `accepts` says whether the device would accept a set
 * of features. Nothing of the state is trusted: it comes from a file, or from another machine.
 */
export function checkState(
  state: unknown,
  device: Receiver,
  accepts: (features: FeatureSet) => boolean,
): asserts state is DeviceState {
  const wrong = (message: string, details: Readonly<Record<string, unknown>> = {}): never => {
    throw new DeviceError('DEVICE_STATE', device.name, message, details)
  }
  const integer = (what: string, value: unknown, most: number): void => {
    if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= most) return
    wrong(`${what} ${describe(value)} must be an integer from 0 to ${most}`, { [what]: value })
  }
  const integers = (what: string, value: unknown, length: number, most: number): void => {
    if (!Array.isArray(value) || value.length !== length) {
      const found = Array.isArray(value) ? `${value.length} values` : describe(value)
      wrong(`${what} must be an array of ${length} integers, not ${found}; make the device with the same options`, {
        [what]: Array.isArray(value) ? value.length : value,
      })
    }
    for (let i = 0; i < length; i++) integer(`${what}[${i}]`, (value as unknown[])[i], most)
  }
  const boolean = (what: string, value: unknown): void => {
    if (typeof value !== 'boolean') wrong(`${what} ${describe(value)} must be true or false`, { [what]: value })
  }

  if (typeof state !== 'object' || state === null) wrong(`a state is an object, not ${describe(state)}`)
  const { format, deviceId, status, driverFeatures, config, generation, queues } = state as Partial<DeviceState>
  if (format !== 'guestdma-device-1') wrong(`format ${describe(format)} is not guestdma-device-1`, { format })
  if (deviceId !== device.deviceId) {
    wrong(`was saved from device type ${describe(deviceId)}, this one is ${device.deviceId}`, { deviceId })
  }
  integer('status', status, 0xff)
  const bits = status as number
  const negotiated = (bits & STATUS_FEATURES_OK) !== 0
  const begun = STATUS_ACKNOWLEDGE | STATUS_DRIVER
  if (
    (bits & ~STATUS_BITS) !== 0 ||
    ((bits & STATUS_DRIVER_OK) !== 0 && !negotiated) ||
    (negotiated && (bits & begun) !== begun)
  ) {
    wrong(`status ${bits} is none that a driver can reach (virtio 1.4 §3.1.1)`, { status: bits })
  }
  integers('driverFeatures', driverFeatures, FEATURE_WORDS, 0xffff_ffff)
  const features = FeatureSet.fromWords(driverFeatures as readonly number[])
  if (negotiated && !accepts(features)) {
    const message = `negotiated ${features}, which this device does not accept; it offers ${device.offered}`
    wrong(message, { features: features.bits() })
  }
  integers('config', config, device.config.bytes.length, 0xff)
  integer('generation', generation, 0xffff_ffff)
  if (!Array.isArray(queues) || queues.length !== device.queues.length) {
    const found = Array.isArray(queues) ? queues.length : describe(queues)
    const message = `queues must be an array of ${device.queues.length}, not ${found}; make the device with the same options`
    wrong(message, { queues: Array.isArray(queues) ? queues.length : queues })
  }
  const works = (bits & STATUS_STOPPED) === 0
  ;(queues as readonly unknown[]).forEach((queue, i) => {
    const at = `queue ${i}`
    if (typeof queue !== 'object' || queue === null) wrong(`${at} must be an object, not ${describe(queue)}`)
    const { size, ready, marked, areas, next, used, published } = queue as Partial<QueueState>
    boolean(`${at} ready`, ready)
    boolean(`${at} marked`, marked)
    integers(`${at} areas`, areas, AREA_HALVES, 0xffff_ffff)
    integer(`${at} size`, size, 0xffff_ffff)
    integer(`${at} next`, next, 0xffff)
    integer(`${at} used`, used, 0xffff)
    integer(`${at} published`, published, 0xffff)
    // A queue that is not ready may hold any size that its driver wrote; a broken one, too.
    if (ready !== true) return
    if (!negotiated) wrong(`${at} is ready before features were agreed on`, { queue: i, status: bits })
    if (!works) return
    const { maxSize } = device.queues[i]
    const entries = size as number
    if (entries === 0 || entries > maxSize || (entries & (entries - 1)) !== 0) {
      wrong(`${at} size ${entries} must be a power of two up to ${maxSize}`, { queue: i, size: entries, maxSize })
    }
    const unpublished = ((used as number) - (published as number)) & 0xffff
    if (next !== used || unpublished > entries) {
      const message = `${at} stands at next ${next}, used ${used}, published ${published}: nothing was in flight when it was saved, and at most ${entries} may be unpublished`
      wrong(message, { queue: i, next, used, published })
    }
  })
}

// A value in a message: short, whatever it is.
function describe(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'boolean' || value === null) return String(value)
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 40)) : typeof value
}
