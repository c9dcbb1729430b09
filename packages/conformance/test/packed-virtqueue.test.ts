import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { afterAll, describe, expect } from 'vitest'
import { describeVirtqueue } from '../src/index.ts'
import { type Checked, checking } from './support/checking.ts'

const CHECKED: Checked = {
  'ring/geometry: a queue of 2 is filled, emptied and filled again, twice round (virtio 1.4 §2.7, §2.8)': [
    '2.8.11/alignment',
  ],
  'ring/geometry: chains of several descriptors go round a queue of 5 and come back in any order (virtio 1.4 §2.8.6)': [
    '2.8.16/used-first',
    '2.8.16/available-last',
    '2.8.17/no-reliance',
  ],
  'ring/publication: the doorbell rings after a chain is available, and says where the next one goes (virtio 1.4 §2.9)':
    ['2.8.16/notification-position'],
  'ring/chains: a chain that could never fit is TooLong, one that does not fit now is full': ['2.8.17/queue-size'],
  'ring/chains: readable segments come first, then writable ones, as they were given (virtio 1.4 §2.7.4, §2.8.17)': [
    '2.8.17/writable-last',
  ],
  'ring/publication: a device that looks after every store never meets an incomplete chain (virtio 1.4 §2.7.13, §2.8.17)':
    ['2.8.17/first-last', '2.8.17/whole-list'],
  'ring/chains: indirect tables hold chains from their minimum on, while there are tables (virtio 1.4 §2.7.5.3, §2.8.7)':
    ['2.8.19/only-write', '2.8.19/not-in-lists'],
  'ring/chains: without INDIRECT_DESC no table is used, and a chain beyond the tables goes direct': [
    '2.8.19/if-agreed',
  ],
}

const { test, unused } = checking(CHECKED)
describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options), {
  name: 'packed virtqueue',
  format: [VIRTIO_F_RING_PACKED],
})

afterAll(() => expect(unused(), 'titles that no test of the suite has').toEqual([]))
