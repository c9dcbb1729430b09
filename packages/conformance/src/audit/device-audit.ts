import type { VirtioDevice } from '@guestdma/devices'
import type { DeviceAddress } from '@guestdma/memory'
import { AddressAudit, type AuditOptions } from './address-audit.ts'
import { PublishedSplitRing } from './published-ring.ts'

/**
 * Looks at what a driver that is not ours tells a device model: {@link audit} walks each ring as the device would, and
 * records every address outside of the allowed spans. It shares no code with the device's own walker, and does not ask
 * the device's port. Split rings only.
 *
 * @example
 * const audit = new DeviceAudit(disk, { allowed: [{ base: bar, length }], lookup })
 * audit.audit() // before each poll of the device, so that no chain is used again unseen
 */
export class DeviceAudit extends AddressAudit {
  private readonly device: VirtioDevice
  private readonly rings: { ring: PublishedSplitRing; generation: number }[] = []

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
        const ring = new PublishedSplitRing(
          size,
          { descriptor: at(0), driver: at(2), device: at(4) },
          this.options.lookup,
        )
        this.rings[index] = { ring, generation }
      }
      this.look(index, this.rings[index].ring)
    }
  }
}
