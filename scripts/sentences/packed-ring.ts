import type { Chapter } from './sentence.ts'

export const packedRing: Chapter = {
  title: 'Packed virtqueues',
  sections: [
    {
      number: '2.8.11',
      title: 'Driver Requirements: Virtqueues',
      side: 'driver',
      sentences: {
        alignment: ['MUST', 'The driver aligns each part of the queue.'],
      },
    },
    {
      number: '2.8.12',
      title: 'Device Requirements: Virtqueues',
      side: 'device',
      sentences: {
        'start-in-order': ['MUST', 'The device starts to process descriptors in the order of the ring.'],
        'write-in-order': ['MUST', 'The device starts to write used descriptors in the order of completion.'],
      },
    },
    {
      number: '2.8.15',
      title: 'Device Requirements: The Virtqueue Descriptor Table',
      side: 'device',
      sentences: {
        directions: ['MUST NOT, SHOULD NOT', 'The device writes no readable buffer and reads no writable one.'],
        'available-first': ['MUST NOT', 'The device uses a descriptor only after its AVAIL bit has changed.'],
        'used-last': ['MUST NOT', 'The device does not change a descriptor after it changed the USED bit.'],
      },
    },
    {
      number: '2.8.16',
      title: 'Driver Requirements: The Virtqueue Descriptor Table',
      side: 'driver',
      sentences: {
        'used-first': ['MUST NOT', 'The driver changes a descriptor only after its USED bit has changed.'],
        'available-last': ['MUST NOT', 'The driver does not change a descriptor after it changed the AVAIL bit.'],
        'notification-position': [
          'MUST',
          "The driver's notification names the next descriptor that is not available yet.",
        ],
      },
    },
    {
      number: '2.8.17',
      title: 'Driver Requirements: Scatter-Gather Support',
      side: 'driver',
      sentences: {
        'device-limit': ['MUST NOT', 'The driver makes no list longer than the device allows.'],
        'queue-size': ['MUST NOT', 'The driver makes no list longer than the queue size.'],
        'writable-last': ['MUST', 'The driver puts device-writable elements behind the readable ones.'],
        'no-reliance': [
          'MUST NOT',
          'The driver does not rely on the device to free descriptors for the rest of a list.',
        ],
        'whole-list': ['MUST', 'The driver has room for a whole list before it makes the first descriptor available.'],
        'first-last': ['MUST NOT', 'The driver makes the first descriptor of a list available last.'],
      },
    },
    {
      number: '2.8.18',
      title: 'Device Requirements: Scatter-Gather Support',
      side: 'device',
      sentences: {
        'same-order': [
          'MUST',
          'The device uses the descriptors of a list in the order in which they became available.',
        ],
      },
    },
    {
      number: '2.8.19',
      title: 'Driver Requirements: Indirect Descriptors',
      side: 'driver',
      sentences: {
        'if-agreed': ['MUST NOT', 'The driver sets INDIRECT only if INDIRECT_DESC was agreed.'],
        'only-write': ['MUST NOT', 'The driver sets no flag but WRITE within an indirect table.'],
        'device-limit': ['MUST NOT', 'The driver makes no chain longer than the device allows.'],
        'not-in-lists': ['MUST NOT', 'The driver puts no descriptor with INDIRECT into a list linked by NEXT.'],
      },
    },
    {
      number: '2.8.21.1.1',
      title: 'Driver Requirements: Updating flags',
      side: 'driver',
      sentences: {
        barrier: ['MUST', 'The driver has a barrier before the update of the flags.'],
      },
    },
    {
      number: '2.8.21.3.1',
      title: 'Driver Requirements: Sending Available Buffer Notifications',
      side: 'driver',
      sentences: {
        barrier: ['MUST', 'The driver has a barrier before it reads the event suppression structure.'],
      },
    },
  ],
}
