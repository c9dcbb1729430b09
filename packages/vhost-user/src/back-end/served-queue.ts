import type { VirtioDevice } from '@guestdma/devices'
import { EventFd } from '@guestdma/node'
import type { VringAddress } from '../protocol/payload.ts'

/** A queue of a device, which a front end describes, starts and stops (vhost-user, "Ring states"). */
export class ServedQueue {
  readonly index: number
  size = 0
  /** Where the device goes on: the next available entry. */
  base = 0
  address: VringAddress | null = null
  enabled = false
  kick: EventFd | null = null
  call: EventFd | null = null
  error: EventFd | null = null
  running = false
  private readonly device: VirtioDevice

  constructor(device: VirtioDevice, index: number) {
    this.device = device
    this.index = index
  }

  /** Takes an event's descriptor, or that there is none. */
  setEvent(which: 'kick' | 'call' | 'error', descriptors: readonly number[]): void {
    this[which]?.close()
    this[which] = null
    if (descriptors.length > 0) this[which] = EventFd.from(descriptors[0])
  }

  /**
   * Starts the queue once all is known of it; `guestOf` says where its rings are. Returns false where the device does
   * not take them.
   */
  start(guestOf: (user: number) => number | undefined): boolean {
    const { device, size, address, base } = this
    if (this.running || !this.enabled || this.kick === null || address === null || size === 0) return true
    const places = [address.descriptor, address.available, address.used].map(guestOf)
    if (places.includes(undefined)) return false
    const queue = device.queues[this.index]
    queue.size = size
    for (const [i, place] of (places as number[]).entries()) {
      queue.areas[2 * i] = place >>> 0
      queue.areas[2 * i + 1] = Math.floor(place / 2 ** 32)
    }
    if (!device.enableQueue(queue, { next: base })) return false
    this.running = true
    device.notify(queue)
    return true
  }

  /**
   * Stops the queue without loss: nothing new is taken, and what was taken is completed first. Returns false while that
   * is under way; poll the device and ask again.
   */
  stop(): boolean {
    if (!this.running) return true
    const { device } = this
    const queue = device.queues[this.index]
    const position = device.stopQueue(queue)
    if (position !== null) this.base = position.next
    else if (device.live && queue.started) return false
    else device.disableQueue(queue)
    this.running = false
    return true
  }

  /** Forgets all of it; the device was reset. */
  reset(): void {
    for (const which of ['kick', 'call', 'error'] as const) this.setEvent(which, [])
    this.size = this.base = 0
    this.address = null
    this.enabled = this.running = false
  }
}
