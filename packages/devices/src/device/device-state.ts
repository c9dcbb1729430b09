import {
  FeatureSet,
  PACKED_WRAP_COUNTER,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  STATUS_SUSPEND,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import type { ConfigSpace } from './config-space.ts'
import type { DeviceQueue } from './device-queue.ts'
import { describe, StateCheck, U32 } from './state-check.ts'

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
  STATUS_ACKNOWLEDGE |
  STATUS_DRIVER |
  STATUS_DRIVER_OK |
  STATUS_FEATURES_OK |
  STATUS_SUSPEND |
  STATUS_DEVICE_NEEDS_RESET |
  STATUS_FAILED
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
  const check = new StateCheck(device.name)
  check.format(state, 'guestdma-device-1')
  const { deviceId, status, driverFeatures, config, generation, queues } = state as Partial<DeviceState>
  if (deviceId !== device.deviceId) {
    check.wrong(`was saved from device type ${describe(deviceId)}, this one is ${device.deviceId}`, { deviceId })
  }
  check.integer('status', status, 2 ** 8)
  const bits = status as number
  const negotiated = (bits & STATUS_FEATURES_OK) !== 0
  const begun = STATUS_ACKNOWLEDGE | STATUS_DRIVER
  if (
    (bits & ~STATUS_BITS) !== 0 ||
    ((bits & (STATUS_DRIVER_OK | STATUS_SUSPEND)) !== 0 && !negotiated) ||
    (negotiated && (bits & begun) !== begun)
  ) {
    check.wrong(`status ${bits} is none that a driver can reach (virtio 1.4 §3.1.1)`, { status: bits })
  }
  check.integers('driverFeatures', driverFeatures, FEATURE_WORDS, U32)
  const features = FeatureSet.fromWords(driverFeatures as readonly number[])
  if (negotiated && !accepts(features)) {
    const message = `negotiated ${features}, which this device does not accept; it offers ${device.offered}`
    check.wrong(message, { features: features.bits() })
  }
  if ((bits & STATUS_SUSPEND) !== 0 && !features.has(VIRTIO_F_SUSPEND)) {
    check.wrong(`status ${bits} is suspended, and SUSPEND was not negotiated`, { status: bits })
  }
  check.integers('config', config, device.config.bytes.length, 2 ** 8)
  check.integer('generation', generation, U32)
  check.array('queues', queues, device.queues.length)
  const works = (bits & STATUS_STOPPED) === 0
  // A copy: `forEach` passes over holes.
  ;[...(queues as readonly unknown[])].forEach((queue, i) => {
    const at = `queue ${i}`
    check.object(at, queue)
    const { size, ready, marked, areas, next, used, published } = queue as Partial<QueueState>
    check.boolean(`${at} ready`, ready)
    check.boolean(`${at} marked`, marked)
    check.integers(`${at} areas`, areas, AREA_HALVES, U32)
    check.integer(`${at} size`, size, U32)
    check.integer(`${at} next`, next, 2 ** 16)
    check.integer(`${at} used`, used, 2 ** 16)
    check.integer(`${at} published`, published, 2 ** 16)
    // A queue that is not ready may hold any size that its driver wrote; a broken one, too.
    if (ready !== true) return
    if (!negotiated) check.wrong(`${at} is ready before features were agreed on`, { queue: i, status: bits })
    if (!works) return
    const { maxSize } = device.queues[i]
    const entries = size as number
    const packed = features.has(VIRTIO_F_RING_PACKED)
    if (entries === 0 || entries > maxSize || (!packed && (entries & (entries - 1)) !== 0)) {
      const right = packed ? `from 1 to ${maxSize}` : `a power of two up to ${maxSize}`
      check.wrong(`${at} size ${entries} must be ${right}`, { queue: i, size: entries, maxSize })
    }
    const unpublished = ((used as number) - (published as number)) & 0xffff
    // Of a packed ring all that was used is published, and a place is an offset with a wrap counter.
    const outside = packed
      ? ((next as number) & (PACKED_WRAP_COUNTER - 1)) >= entries || unpublished > 0
      : unpublished > entries
    if (next !== used || outside) {
      const message = `${at} stands at next ${next}, used ${used}, published ${published}: nothing was in flight when it was saved, and at most ${entries} may be unpublished`
      check.wrong(message, { queue: i, next, used, published })
    }
  })
}
