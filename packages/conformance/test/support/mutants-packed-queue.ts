// The suite of the driver's half, in small. Mutants are loaded into it.
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { describeVirtqueue } from '../../src/index.ts'

describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options), {
  format: [VIRTIO_F_RING_PACKED],
  sizes: [1, 4],
  badSizes: [0, 65_536],
})
