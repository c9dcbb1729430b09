import { DriverQueue } from '@guestdma/virtqueue'
import { afterAll, describe, expect } from 'vitest'
import { describeVirtqueue } from '../src/index.ts'
import { type Checked, checking } from './support/checking.ts'

const CHECKED: Checked = {
  'ring/chains: readable segments come first, then writable ones, as they were given (virtio 1.4 §2.7.4, §2.8.17)': [
    '2.7.4.2/writable-last',
  ],
  'ring/chains: a segment longer than maxMappingLength is split, in order and without gaps': [
    '2.7.4.2/few-descriptors',
  ],
  'ring/chains: a chain that could never fit is TooLong, one that does not fit now is full': [
    '2.7.5.2/bounded-chains',
    '2.7.5.3.1/queue-size',
  ],
  'ring/chains: indirect tables hold chains from their minimum on, while there are tables (virtio 1.4 §2.7.5.3, §2.8.7)':
    ['2.7.5.3.1/not-nested', '2.7.5.3.1/not-with-next'],
  'ring/chains: without INDIRECT_DESC no table is used, and a chain beyond the tables goes direct': [
    '2.7.5.3.1/if-agreed',
  ],
  'ring/publication: a device that looks after every store never meets an incomplete chain (virtio 1.4 §2.7.13, §2.8.17)':
    ['2.7.6.1/forward', '2.7.13.3.1/barrier'],
  'ring/notification: reaping without a cause is harmless (spurious notifications, virtio 1.4 §2.7.7.1)': [
    '2.7.7.1/spurious',
  ],
  'ring/used: IN_ORDER, chains of several descriptors and tables come back in ring order': [
    '2.7.5.2/in-order',
    '2.7.5.3.1/in-order',
  ],
  'ring/notification: in a split ring with EVENT_IDX the flags are ignored, and suppress nothing': [
    '2.7.10.1/flags-ignored',
  ],
  'ring/notification: the doorbell rings if the event lies in the batch, through the wrap (virtio 1.4 §2.7.10.1, §2.8.10)':
    ['2.7.10.1/avail-event', '2.7.10.1/other-entries'],
}

const { test, unused } = checking(CHECKED)
describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options), { name: 'split virtqueue' })

afterAll(() => expect(unused(), 'titles that no test of the suite has').toEqual([]))
