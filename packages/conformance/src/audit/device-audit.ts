import type { VirtioDevice } from '@guestdma/devices'
import type { DeviceAddress } from '@guestdma/memory'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { AddressAudit, type AuditOptions } from './address-audit.ts'
import { type PublishedRing, publishedRing } from './published-ring.ts'

/**
 * Looks at what a driver that is not ours tells a device model: {@link audit} walks each ring as the device would, and
 * records every address outside of the allowed spans. It shares no code with the device's own walker, and does not ask
 * the device's port.
 *
 * @example
 * const audit = new DeviceAudit(disk, { allowed: [{ base: bar, length }], lookup })
 * audit.audit() // before each poll of the device, so that no chain is used again unseen
 */
export class DeviceAudit extends AddressAudit {
  private readonly device: VirtioDevice
  private readonly rings: { ring: PublishedRing; generation: number }[] = []

  constructor(device: VirtioDevice, options: AuditOptions) {
    super(options)
    this.device = device
  }

  /** Looks at what was published in each queue since the last call. A queue that was reset begins anew. */
  audit(): void {
    for (const queue of this.device.queues) {
      if (!queue.ready) continue
      const { index, generation, size, areas } = queue
      if (this.rings[index]?.generation !== generation) {
        const at = (word: number): DeviceAddress => (areas[word + 1] * 2 ** 32 + areas[word]) as DeviceAddress
        const found = { descriptor: at(0), driver: at(2), device: at(4) }
        const packed = this.device.negotiated.has(VIRTIO_F_RING_PACKED)
        const ring = publishedRing(size, found, this.options.lookup, packed)
        this.rings[index] = { ring, generation }
      }
      this.look(index, this.rings[index].ring)
    }
  }
}
