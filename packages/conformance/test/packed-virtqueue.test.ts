import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { describeVirtqueue } from '../src/index.ts'

describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options), {
  name: 'packed virtqueue',
  format: [VIRTIO_F_RING_PACKED],
})
