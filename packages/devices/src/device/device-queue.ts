import type { BusPort } from '@guestdma/memory'
import { MAX_QUEUE_SIZE } from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import type { RingSetup } from '../ring/device-ring.ts'
import { RingWalker } from '../ring/ring-walker.ts'

/**
 * One virtqueue of a device: the registers that its driver sets, whatever the transport, and the walker over its ring.
 */
export class DeviceQueue {
  declare readonly index: number
  declare readonly maxSize: number
  declare readonly walker: RingWalker
  readonly areas: Uint32Array = new Uint32Array(6)
  /** As the driver set it; `maxSize` after reset. */
  declare size: number
  ready = false
  /** A doorbell rang, or work was left over. */
  marked = false
  /** Counts resets of this queue: what began under an earlier number is void. */
  generation = 0
  /** A reset of this queue was asked for since it was last enabled. Complete or not: `VirtioDevice.resetting` says. */
  resetAsked = false
  /** Whether the walker was started since the queue became ready. */
  started = false

  constructor(index: number, maxSize: number, port: BusPort, deviceName: string) {
    if (!Number.isInteger(maxSize) || maxSize < 1 || maxSize > MAX_QUEUE_SIZE || (maxSize & (maxSize - 1)) !== 0) {
      const message = `queue size ${maxSize} must be a power of two from 1 to ${MAX_QUEUE_SIZE}`
      throw new DeviceError('DEVICE_QUEUE_SIZE', `${deviceName} queue ${index}`, message, { maxSize })
    }
    this.index = index
    this.maxSize = maxSize
    this.size = maxSize
    this.walker = new RingWalker(maxSize, port)
  }

  /** Back to the state after a device reset: virtio 1.4 §2.6.1.1. */
  reset(): void {
    this.size = this.maxSize
    this.areas.fill(0)
    this.resetAsked = false
    this.disable()
  }

  /** Stops the queue; its registers keep their values. */
  disable(): void {
    this.ready = false
    this.marked = false
    this.started = false
    this.generation++
    this.walker.stop()
  }

  /** What the walker was started with: asked for again whenever the port's answers may have changed. */
  ring: RingSetup | null = null

  setup(features: Omit<RingSetup, 'size' | 'areas'>): RingSetup {
    return { size: this.size, areas: this.areas, ...features }
  }
}
