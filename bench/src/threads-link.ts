import type { Frames, NetDeviceOptions } from '@guestdma/devices'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'

/** What a device of `bench threads` is made from, in whichever thread it is. */
export interface CountingConfig {
  readonly packed: boolean
}

/** A network device whose frames end at a link that only counts them. */
export function countingDevice({ packed }: CountingConfig): Omit<NetDeviceOptions, 'name' | 'port'> {
  const link = {
    frames: 0,
    transmit({ count }: Frames): number {
      this.frames += count
      return count
    },
  }
  const offer = packed ? [VIRTIO_F_RING_PACKED] : []
  return { mac: [2, 0, 0, 0, 0, 1], link, offer, accessPlatform: 'offered' }
}
