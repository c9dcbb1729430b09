import type { Section } from './sentence.ts'

/** The control queue: filtering, steering, coalescing, statistics. */
export const controlSections: readonly Section[] = [
  {
    number: '5.1.9.5.1.1',
    title: 'Device Requirements: Packet Receive Filtering',
    side: 'device',
    sentences: {
      commands: ['MUST', 'With CTRL_RX the device has its commands.', 'controlQueue'],
      promiscuous: ['SHOULD', 'In promiscuous mode the device receives all packets.', 'controlQueue'],
      'promiscuous-first': ['SHOULD', 'Promiscuous mode counts even if another mode is on.', 'controlQueue'],
      'all-multicast': ['SHOULD', 'In all-multicast mode the device receives all multicast packets.', 'controlQueue'],
      'extra-commands': ['MUST', 'With CTRL_RX_EXTRA the device has its commands.', 'controlQueue'],
      'all-unicast': ['SHOULD', 'In all-unicast mode the device receives all unicast packets.', 'controlQueue'],
      'no-multicast': [
        'SHOULD NOT',
        'With multicast suppressed the device passes no multicast packet on.',
        'controlQueue',
      ],
      'no-multicast-first': ['SHOULD', 'Multicast stays suppressed even if all-multicast mode is on.', 'controlQueue'],
      'no-multicast-broadcast': ['SHOULD NOT', 'Broadcast packets are not suppressed with multicast.', 'controlQueue'],
      'no-unicast': ['SHOULD NOT', 'With unicast suppressed the device passes no unicast packet on.', 'controlQueue'],
      'no-unicast-first': ['SHOULD', 'Unicast stays suppressed even if all-unicast mode is on.', 'controlQueue'],
      'no-broadcast': [
        'SHOULD NOT',
        'With broadcast suppressed the device passes no broadcast packet on.',
        'controlQueue',
      ],
      'no-broadcast-first': ['SHOULD', 'Broadcast stays suppressed even if all-multicast mode is on.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.1.2',
    title: 'Driver Requirements: Packet Receive Filtering',
    side: 'driver',
    sentences: {
      agreed: ['MUST NOT', 'The driver sends the commands only with CTRL_RX.', 'controlQueue'],
      'extra-agreed': ['MUST NOT', 'The driver sends the other commands only with CTRL_RX_EXTRA.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.2.1',
    title: 'Device Requirements: Setting MAC Address Filtering',
    side: 'device',
    sentences: {
      'empty-at-reset': ['MUST', 'The table is empty after a reset.', 'controlQueue'],
      'table-first': ['MUST', "The device updates the table before it uses the command's buffer.", 'controlQueue'],
      'address-first': ['MUST', "The device updates mac before it uses the command's buffer.", 'controlQueue'],
      filtered: [
        'SHOULD',
        'The device drops packets for addresses that are neither mac nor in the table.',
        'controlQueue',
      ],
    },
  },
  {
    number: '5.1.9.5.2.2',
    title: 'Driver Requirements: Setting MAC Address Filtering',
    side: 'driver',
    sentences: {
      agreed: ['MUST NOT', 'The driver sends the commands only with CTRL_RX.', 'controlQueue'],
      address: ['SHOULD', 'The driver sets mac with a command if its address is another one.', 'controlQueue'],
      table: ['MUST', 'The table is sent as counts and addresses, unicast first.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.2.3',
    title: 'Legacy Interface: Setting MAC Address Filtering',
    side: 'both',
    sentences: {
      'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
    },
  },
  {
    number: '5.1.9.5.3.1',
    title: 'Device Requirements: VLAN Filtering',
    side: 'device',
    sentences: {
      'all-tags': ['MUST', 'Without CTRL_VLAN the device accepts all tagged packets.'],
      filtered: [
        'MUST, SHOULD',
        'With CTRL_VLAN the device accepts the tags of its table and drops others.',
        'controlQueue',
      ],
    },
  },
  {
    number: '5.1.9.5.3.2',
    title: 'Legacy Interface: VLAN Filtering',
    side: 'both',
    sentences: {
      'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
    },
  },
  {
    number: '5.1.9.5.4.1',
    title: 'Driver Requirements: Gratuitous Packet Sending',
    side: 'driver',
    sentences: {
      announce: ['SHOULD', 'The driver announces itself once it sees the ANNOUNCE bit.', 'controlQueue'],
      acknowledge: ['MUST', 'The driver acknowledges the announcement.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.4.2',
    title: 'Device Requirements: Gratuitous Packet Sending',
    side: 'device',
    sentences: {
      cleared: ['MUST', 'The device clears the ANNOUNCE bit before it uses the acknowledgement.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.6',
    title: 'Automatic receive steering in multiqueue mode',
    side: 'both',
    sentences: {
      steering: ['MUST', 'With several queue pairs the device steers packets by their flow.', 'queuePairs'],
      'same-pair': ['SHOULD', 'Packets of a flow arrive on the pair that it was sent on.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.6.1',
    title: 'Driver Requirements: Automatic receive steering in multiqueue mode',
    side: 'driver',
    sentences: {
      'configured-first': ['MUST', 'The driver configures queues before it enables them.', 'queuePairs'],
      count: ['MUST NOT', 'The driver asks for 1 to max_virtqueue_pairs pairs.', 'queuePairs'],
      'first-pair': [
        'MUST',
        'Before it sets the number of pairs, the driver sends on the first pair only.',
        'queuePairs',
      ],
      'no-more': [
        'MUST NOT',
        'After it set the number of pairs, the driver sends on no queue beyond it.',
        'queuePairs',
      ],
    },
  },
  {
    number: '5.1.9.5.6.2',
    title: 'Device Requirements: Automatic receive steering in multiqueue mode',
    side: 'device',
    sentences: {
      'first-pair': ['MUST', 'After a reset the device receives on the first pair only.', 'queuePairs'],
      'no-more': [
        'MUST NOT',
        'After the number of pairs was set, the device receives on no queue beyond it.',
        'queuePairs',
      ],
      'other-queue': ['SHOULD', 'While a receive queue is being reset the device takes another one.', 'queuePairs'],
      'no-queue': ['MUST', 'While all are being reset the device drops the packet.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.6.3',
    title: 'Legacy Interface: Automatic receive steering in multiqueue mode',
    side: 'both',
    sentences: {
      'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
    },
  },
  {
    number: '5.1.9.5.6.4',
    title: 'Hash calculation',
    side: 'both',
    sentences: {
      command: ['MUST', 'With HASH_REPORT and steering the device has a command for hashes.', 'queuePairs'],
      reserved: ['MUST', 'The both sets reserved to 0.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.7.2',
    title: 'Driver Requirements: Setting RSS parameters',
    side: 'driver',
    sentences: {
      agreed: ['MUST NOT', 'The driver sends RSS_CONFIG only with RSS.', 'queuePairs'],
      'enabled-queues': ['MUST', 'The indirection table names enabled receive queues only.', 'queuePairs'],
      'power-of-two': ['MUST', "The table's length is a power of two.", 'queuePairs'],
      'table-limit': ['MUST', 'The table is not longer than the device allows.', 'queuePairs'],
      supported: ['MUST NOT', 'The driver sets only hash types that the device supports.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.7.3',
    title: 'Device Requirements: RSS processing',
    side: 'device',
    sentences: {
      queue: ['MUST', 'The device chooses the queue by hash and table.', 'queuePairs'],
      'queue-reset': ['MUST', 'The device drops packets for a queue that is being reset.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.8.3',
    title: 'Device Requirements: RSS Context',
    side: 'device',
    sentences: {
      contexts: ['MUST', 'With RSS_CONTEXT max_rss_contexts is at least 1.', 'queuePairs'],
      cleared: ['MUST', 'A reset clears all contexts.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.8.4',
    title: 'Driver Requirements: RSS Context',
    side: 'driver',
    sentences: {
      agreed: ['MUST', 'The driver sends the commands only with RSS_CONTEXT.', 'queuePairs'],
      id: ['MUST', 'The driver uses ids from 1 to max_rss_contexts.', 'queuePairs'],
      'no-pairs': ['MUST NOT', 'The driver does not set the number of pairs while a context exists.', 'queuePairs'],
    },
  },
  {
    number: '5.1.9.5.9.2',
    title: 'Driver Requirements: Setting Offloads State',
    side: 'driver',
    sentences: {
      agreed: ['MUST NOT', 'The driver enables only offloads that were agreed.', 'offloads'],
    },
  },
  {
    number: '5.1.9.5.9.3',
    title: 'Legacy Interface: Setting Offloads State',
    side: 'both',
    sentences: {
      'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
    },
  },
  {
    number: '5.1.9.5.10.5',
    title: 'Driver Requirements: Notifications Coalescing',
    side: 'driver',
    sentences: {
      queue: ['MUST', 'vq_index names an enabled queue.', 'controlQueue'],
      agreed: ['MUST', 'The driver sends the commands for all queues only with NOTF_COAL.', 'controlQueue'],
      'queue-agreed': ['MUST', 'The driver sends the commands for one queue only with VQ_NOTF_COAL.', 'controlQueue'],
      failed: ['MUST', 'The driver ignores the parameters of a command that failed.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.10.6',
    title: 'Device Requirements: Notifications Coalescing',
    side: 'device',
    sentences: {
      reserved: ['MUST', 'The device ignores reserved.', 'controlQueue'],
      failed: ['SHOULD', 'The device answers with an error if it cannot change all queues.', 'controlQueue'],
      'queue-failed': ['MUST', 'The device answers with an error if it cannot change a queue.', 'controlQueue'],
      'no-queue': ['MUST', 'The device answers with an error for a queue that is not enabled.', 'controlQueue'],
      'transmit-again': [
        'MUST',
        'A transmit queue that is enabled again has the parameters set for all.',
        'controlQueue',
      ],
      'receive-again': [
        'MUST',
        'A receive queue that is enabled again has the parameters set for all.',
        'controlQueue',
      ],
      suppressed: ['SHOULD NOT', 'The device does not notify where notifications are suppressed.', 'controlQueue'],
      reset: ['MUST', 'A reset sets all parameters to 0.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.11.12',
    title: 'Device Requirements: Device Statistics',
    side: 'device',
    sentences: {
      query: ['MUST', 'The device answers a query with the types that it supports.', 'controlQueue'],
      incorrect: ['MUST', 'The device answers an incorrect request with an error.', 'controlQueue'],
      whole: ['MUST', 'One error fails the whole command.', 'controlQueue'],
      size: ['MUST', 'The device sets the size of each reply.', 'controlQueue'],
      header: ['MUST', 'The device sets type and queue of each reply.', 'controlQueue'],
      room: ['MUST', 'The device fills no more than the buffer.', 'controlQueue'],
      wrap: ['MUST', 'Counters wrap to 0.', 'controlQueue'],
    },
  },
  {
    number: '5.1.9.5.11.13',
    title: 'Driver Requirements: Device Statistics',
    side: 'driver',
    sentences: {
      queried: ['MUST', 'The driver asks only for types that were queried.', 'controlQueue'],
      valid: ['MUST', 'The types that the driver asks for fit the queue.', 'controlQueue'],
      room: ['MUST', "The driver's buffer holds all the headers.", 'controlQueue'],
    },
  },
]
