import type { Chapter } from './sentence.ts'

export const splitRing: Chapter = {
  title: 'Split virtqueues',
  sections: [
    {
      number: '2.7.1',
      title: 'Driver Requirements: Virtqueues',
      side: 'driver',
      sentences: {
        alignment: ['MUST', 'Descriptor table, available ring and used ring are aligned to 16, 2 and 4 bytes.'],
      },
    },
    {
      number: '2.7.2',
      title: 'Legacy Interfaces: A Note on Virtqueue Layout',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 2],
      },
    },
    {
      number: '2.7.3',
      title: 'Legacy Interfaces: A Note on Virtqueue Endianness',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
      },
    },
    {
      number: '2.7.4.1',
      title: 'Device Requirements: Message Framing',
      side: 'device',
      sentences: {
        'any-framing': ['MUST NOT', 'The device does not depend on how a message is cut into descriptors.'],
      },
    },
    {
      number: '2.7.4.2',
      title: 'Driver Requirements: Message Framing',
      side: 'driver',
      sentences: {
        'writable-last': ['MUST', 'The driver puts device-writable descriptors behind the readable ones.'],
        'few-descriptors': ['SHOULD NOT', 'The driver does not use an excessive number of descriptors.'],
      },
    },
    {
      number: '2.7.5.1',
      title: 'Device Requirements: The Virtqueue Descriptor Table',
      side: 'device',
      sentences: {
        directions: ['MUST NOT, SHOULD NOT', 'The device writes no readable buffer and reads no writable one.'],
        'table-unwritten': ['MUST NOT', 'The device never writes to the descriptor table.'],
      },
    },
    {
      number: '2.7.5.2',
      title: 'Driver Requirements: The Virtqueue Descriptor Table',
      side: 'driver',
      sentences: {
        'bounded-chains': ['MUST NOT', 'The driver makes no chain of more than 2^32 bytes, and no loop.'],
        'in-order': [
          'MUST',
          'With IN_ORDER the driver takes descriptors in sequence, and 0 after the last of the table.',
        ],
      },
    },
    {
      number: '2.7.5.3.1',
      title: 'Driver Requirements: Indirect Descriptors',
      side: 'driver',
      sentences: {
        'if-agreed': ['MUST NOT', 'The driver sets INDIRECT only if INDIRECT_DESC was agreed.'],
        'not-nested': ['MUST NOT', 'The driver sets no INDIRECT within an indirect table.'],
        'queue-size': ['MUST NOT', 'The driver makes no chain longer than the queue size.'],
        'not-with-next': ['MUST NOT', 'The driver never sets INDIRECT and NEXT in one descriptor.'],
        'in-order': ['MUST', 'With IN_ORDER the descriptors of an indirect table are in sequence.'],
      },
    },
    {
      number: '2.7.5.3.2',
      title: 'Device Requirements: Indirect Descriptors',
      side: 'device',
      sentences: {
        'write-ignored': ['MUST', 'The device ignores WRITE in a descriptor that refers to an indirect table.'],
        'direct-then-table': ['MUST', 'The device handles direct descriptors that are followed by one indirect table.'],
      },
    },
    {
      number: '2.7.6.1',
      title: 'Driver Requirements: The Virtqueue Available Ring',
      side: 'driver',
      sentences: {
        forward: ['MUST NOT', 'The driver never decrements the available index.'],
      },
    },
    {
      number: '2.7.7.1',
      title: 'Driver Requirements: Used Buffer Notification Suppression',
      side: 'driver',
      sentences: {
        flags: ['MUST', "Without EVENT_IDX the driver sets the available ring's flags to 0 or 1."],
        'flags-zero': ['MUST', "With EVENT_IDX the driver sets the available ring's flags to 0."],
        spurious: ['MUST', 'The driver copes with spurious used buffer notifications.'],
      },
    },
    {
      number: '2.7.7.2',
      title: 'Device Requirements: Used Buffer Notification Suppression',
      side: 'device',
      sentences: {
        'used-event-ignored': ['MUST', 'Without EVENT_IDX the device ignores used_event.'],
        suppressed: ['SHOULD NOT', "Without EVENT_IDX, flags of 1 suppress the device's notification."],
        wanted: ['MUST', 'Without EVENT_IDX, flags of 0 make the device notify.'],
        'flags-ignored': ['MUST', "With EVENT_IDX the device ignores the available ring's flags."],
        'used-event': ['MUST', 'With EVENT_IDX the device notifies when an element lands on used_event.'],
        'other-elements': ['SHOULD NOT', 'With EVENT_IDX the device does not notify for other elements.'],
      },
    },
    {
      number: '2.7.8.2',
      title: 'Device Requirements: The Virtqueue Used Ring',
      side: 'device',
      sentences: {
        'length-first': ['MUST', 'The device sets len before it updates the used index.'],
        'length-written': ['MUST', 'The device has written at least len bytes before it updates the used index.'],
      },
    },
    {
      number: '2.7.8.3',
      title: 'Driver Requirements: The Virtqueue Used Ring',
      side: 'driver',
      sentences: {
        'length-believed': ['MUST NOT, SHOULD', 'The driver relies on no byte beyond len.'],
      },
    },
    {
      number: '2.7.10.1',
      title: 'Driver Requirements: Available Buffer Notification Suppression',
      side: 'driver',
      sentences: {
        'flags-start': ['MUST', "The driver initialises the used ring's flags to 0."],
        'avail-event-ignored': ['MUST', 'Without EVENT_IDX the driver ignores avail_event.'],
        suppressed: ['SHOULD NOT', "Without EVENT_IDX, flags of 1 suppress the driver's notification."],
        'doorbell-by-flags': ['MUST', 'Without EVENT_IDX, flags of 0 make the driver notify.'],
        'flags-ignored': ['MUST', "With EVENT_IDX the driver ignores the used ring's flags."],
        'avail-event': ['MUST', 'With EVENT_IDX the driver notifies when an entry lands on avail_event.'],
        'other-entries': ['SHOULD NOT', 'With EVENT_IDX the driver does not notify for other entries.'],
      },
    },
    {
      number: '2.7.10.2',
      title: 'Device Requirements: Available Buffer Notification Suppression',
      side: 'device',
      sentences: {
        flags: ['MUST', "Without EVENT_IDX the device sets the used ring's flags to 0 or 1."],
        'flags-zero': ['MUST', "With EVENT_IDX the device sets the used ring's flags to 0."],
        spurious: ['MUST', 'The device copes with spurious available buffer notifications.'],
      },
    },
    {
      number: '2.7.13.3.1',
      title: 'Driver Requirements: Updating idx',
      side: 'driver',
      sentences: {
        barrier: ['MUST', 'The driver has its ring entries visible before it updates the available index.'],
      },
    },
    {
      number: '2.7.13.4.1',
      title: 'Driver Requirements: Notifying The Device',
      side: 'driver',
      sentences: {
        barrier: ['MUST', 'The driver has a full barrier between its index and the load of flags or avail_event.'],
      },
    },
  ],
}
