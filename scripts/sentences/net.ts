import type { Chapter } from './sentence.ts'

export const net: Chapter = {
  title: 'Network device',
  sections: [
    {
      number: '5.1.3',
      title: 'Feature bits',
      side: 'both',
      sentences: {
        ipsec: ['SHOULD', 'The rules of IPsec.', 'ipsec'],
      },
    },
    {
      number: '5.1.4.1',
      title: 'Device Requirements: Device configuration layout',
      side: 'device',
      sentences: {
        steering: ['MUST', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 3],
        'mtu-range': ['MUST', 'The device shows an mtu from 68 to 65535.'],
        'mtu-recommended': ['SHOULD', 'The device shows an mtu of at least 1280.', 'ownersChoice'],
        'mtu-fixed': ['MUST NOT', 'The device does not change the mtu once it was shown.'],
        'mtu-receive': ['MUST NOT', 'With MTU agreed the device passes no packet on to the driver that is larger.'],
        'mtu-transmit': ['MUST', 'The device forwards packets up to the mtu without fragmenting them.'],
        speed: ['MUST, SHOULD NOT', 'The rules of speed and duplex.', 'speed', 3],
        control: ['SHOULD NOT', 'The rules of commands of the control queue.', 'controlQueue', 2],
      },
    },
    {
      number: '5.1.4.2',
      title: 'Driver Requirements: Device configuration layout',
      side: 'driver',
      sentences: {
        unwritten: ['MUST NOT', 'The driver writes no field of the configuration.'],
        mac: ['SHOULD', 'The driver negotiates MAC where it is offered.'],
        'mac-address': ['MUST', "With MAC the driver's address is mac."],
        'mac-made': ['SHOULD', 'Without MAC the driver uses a locally administered address.', 'madeAddress'],
        status: ['SHOULD', 'Without STATUS the driver takes the link to be up, else status says so.'],
        mtu: ['SHOULD', 'The driver negotiates MTU where it is offered.'],
        'mtu-buffers': ['MUST', 'With MTU the receive buffers hold a packet of that size.'],
        'mtu-transmit': ['MUST NOT', 'With MTU the driver sends no packet that is larger.'],
        standby: ['SHOULD', 'The driver negotiates STANDBY where it is offered.', 'standby'],
        speed: ['MUST, SHOULD', 'The rules of speed and duplex.', 'speed', 2],
        control: ['SHOULD NOT', 'The rules of commands of the control queue.', 'controlQueue', 2],
      },
    },
    {
      number: '5.1.4.3',
      title: 'Legacy Interface: Device configuration layout',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy'],
      },
    },
    {
      number: '5.1.9.1',
      title: 'Legacy Interface: Device Operation',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST, SHOULD', 'The rules of the legacy interface.', 'legacy', 2],
      },
    },
    {
      number: '5.1.9.2',
      title: 'Packet Transmission',
      side: 'both',
      sentences: {
        offloads: ['MUST', 'The rules of checksum and segmentation offloads.', 'offloads'],
      },
    },
    {
      number: '5.1.9.2.1',
      title: 'Driver Requirements: Packet Transmission',
      side: 'driver',
      sentences: {
        header: ['MUST', 'The header has the same size in both directions.'],
        'num-buffers': ['MUST', 'num_buffers is 0 in a transmitted header.'],
        'no-csum': ['MUST, SHOULD', 'Without CSUM flags are 0 and the packet has its checksum.'],
        'no-tso4': ['MUST NOT', 'Without HOST_TSO4 no TCPv4 segmentation is asked for.'],
        'no-tso6': ['MUST NOT', 'Without HOST_TSO6 no TCPv6 segmentation is asked for.'],
        'no-ufo': ['MUST NOT', 'Without HOST_UFO no UDP fragmentation is asked for.'],
        'no-uso': ['MUST NOT', 'Without HOST_USO no UDP segmentation is asked for.'],
        offloads: [
          'MUST, MUST NOT, SHOULD, SHOULD NOT',
          'The rules of checksum and segmentation offloads.',
          'offloads',
          18,
        ],
        'no-tunnel-gso': ['MUST NOT', 'Without HOST_UDP_TUNNEL_GSO no segmentation in a UDP tunnel is asked for.'],
        'no-tunnel-csum': ['MUST, MUST NOT', "Without a tunnel's checksum offload its flag is not set."],
        'gso-none': ['MUST', 'Without segmentation features gso_type is NONE.'],
        'no-tunnel-bits': ['MUST NOT', 'Tunnel bits are set only if they were agreed.'],
        'no-tunnel-csum-bit': ['MUST NOT', "The tunnel's checksum bit is set only if it was agreed."],
        'receive-flags': ['MUST NOT', 'DATA_VALID and RSC_INFO are not set in a transmitted header.'],
        ipsec: ['MUST', 'The rules of IPsec.', 'ipsec', 2],
      },
    },
    {
      number: '5.1.9.2.2',
      title: 'Device Requirements: Packet Transmission',
      side: 'device',
      sentences: {
        'unknown-flags': ['MUST', 'The device ignores flag bits that it does not know.'],
        'csum-fields': ['MUST NOT', 'Without NEEDS_CSUM the device does not use csum_start and csum_offset.'],
        'outer-offset': ['MUST NOT', 'The device does not use outer_nh_offset without its feature.'],
        'hdr-len': ['MUST NOT', 'The device does not rely on hdr_len.'],
        'both-tunnels': ['MUST NOT', 'The device accepts no packet with both tunnel bits.'],
        'tunnel-offsets': ['MUST NOT', "Without tunnel bits the device does not use the tunnel's offsets."],
        'tunnel-flags': ['MUST NOT', 'The device accepts no packet with tunnel bits and the wrong flags.'],
        checksum: ['MUST NOT', 'The device does not rely on a checksum being right.'],
        ipsec: ['MUST NOT', 'The rules of IPsec.', 'ipsec'],
      },
    },
    {
      number: '5.1.9.3.1',
      title: 'Driver Requirements: Setting Up Receive Buffers',
      side: 'driver',
      sentences: {
        offloads: ['SHOULD', 'The rules of checksum and segmentation offloads.', 'offloads'],
        'buffer-size': ['SHOULD', 'Receive buffers have at least 1526 bytes where nothing larger can arrive.'],
        mergeable: ['MUST', 'With MRG_RXBUF each receive buffer holds at least the header.', 'mergeable'],
        header: ['MUST', "The driver takes the header's size from the features."],
        steering: ['SHOULD', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs'],
      },
    },
    {
      number: '5.1.9.3.2',
      title: 'Device Requirements: Setting Up Receive Buffers',
      side: 'device',
      sentences: {
        'num-buffers': ['MUST', 'num_buffers says how many buffers the packet took.'],
        'one-buffer': ['MUST', 'Without MRG_RXBUF a packet takes one buffer.'],
      },
    },
    {
      number: '5.1.9.4.1',
      title: 'Device Requirements: Processing of Incoming Packets',
      side: 'device',
      sentences: {
        one: ['MUST', 'Without MRG_RXBUF num_buffers is 1.'],
        several: ['MUST', 'With MRG_RXBUF num_buffers is the number of buffers.'],
        filled: ['MUST', 'All buffers of a packet but the last are filled.'],
        together: ['MUST', 'All buffers of a packet become used together.'],
        'no-guest-csum': ['MUST, SHOULD', "Without GUEST_CSUM flags are 0, and the packet's checksum is its own."],
        'no-tcp4': ['MUST NOT', 'gso_type is not TCPV4 unless that was agreed.'],
        'no-udp': ['MUST NOT', 'gso_type is not UDP unless that was agreed.'],
        'no-tcp6': ['MUST NOT', 'gso_type is not TCPV6 unless that was agreed.'],
        'no-udp-l4': ['MUST NOT', 'gso_type is not UDP_L4 unless that was agreed.'],
        'no-tunnel': ['MUST NOT', 'Tunnel bits are not set unless they were agreed.'],
        'no-tunnel-csum': ['MUST NOT', "The tunnel's checksum bit is not set unless that was agreed."],
        offloads: [
          'MUST, MUST NOT, SHOULD, SHOULD NOT',
          'The rules of checksum and segmentation offloads.',
          'offloads',
          14,
        ],
        'gso-none': ['MUST', 'Without segmentation features gso_type is NONE.'],
        'no-rsc': ['MUST', 'RSC_INFO is not set unless that was agreed.'],
        ipsec: ['MUST', 'The rules of IPsec.', 'ipsec', 7],
      },
    },
    {
      number: '5.1.9.4.2',
      title: 'Driver Requirements: Processing of Incoming Packets',
      side: 'driver',
      sentences: {
        'unknown-flags': ['MUST', 'The driver ignores flag bits that it does not know.'],
        'outer-offset': ['MUST', 'The driver does not use outer_nh_offset without its feature.'],
        'csum-fields': ['MUST NOT', 'Without NEEDS_CSUM the driver does not use csum_start and csum_offset.'],
        'hdr-len': ['MUST NOT', 'The driver does not rely on hdr_len.'],
        checksum: ['MUST NOT', 'The driver does not rely on a checksum being right.'],
        'both-tunnels': ['MUST NOT', 'The driver accepts no packet with both tunnel bits.'],
        'tunnel-offsets': ['MUST NOT', "Without tunnel bits the driver does not use the tunnel's offsets."],
        'tunnel-flags': ['MUST NOT', 'The driver accepts no packet with tunnel bits and the wrong flags.'],
      },
    },
    {
      number: '5.1.9.4.3',
      title: 'Hash calculation for incoming packets',
      side: 'both',
      sentences: {
        steering: ['MUST', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 3],
      },
    },
    {
      number: '5.1.9.4.4.4',
      title: 'Device Requirements: Inner Header Hash',
      side: 'device',
      sentences: {
        steering: ['MUST, SHOULD', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 3],
      },
    },
    {
      number: '5.1.9.4.4.5',
      title: 'Driver Requirements: Inner Header Hash',
      side: 'driver',
      sentences: {
        steering: ['MUST, MUST NOT', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 3],
      },
    },
    {
      number: '5.1.9.5.1.1',
      title: 'Device Requirements: Packet Receive Filtering',
      side: 'device',
      sentences: {
        filtering: ['MUST, SHOULD, SHOULD NOT', 'The rules of receive filtering.', 'controlQueue', 13],
      },
    },
    {
      number: '5.1.9.5.1.2',
      title: 'Driver Requirements: Packet Receive Filtering',
      side: 'driver',
      sentences: {
        filtering: ['MUST NOT', 'The rules of receive filtering.', 'controlQueue', 2],
      },
    },
    {
      number: '5.1.9.5.2.1',
      title: 'Device Requirements: Setting MAC Address Filtering',
      side: 'device',
      sentences: {
        'mac-filtering': ['MUST, SHOULD', 'The rules of MAC address filtering.', 'controlQueue', 4],
      },
    },
    {
      number: '5.1.9.5.2.2',
      title: 'Driver Requirements: Setting MAC Address Filtering',
      side: 'driver',
      sentences: {
        'mac-filtering': ['MUST, MUST NOT, SHOULD', 'The rules of MAC address filtering.', 'controlQueue', 3],
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
        'vlan-filtering': [
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
        announcements: ['MUST, SHOULD', 'The rules of gratuitous packets.', 'controlQueue', 2],
      },
    },
    {
      number: '5.1.9.5.4.2',
      title: 'Device Requirements: Gratuitous Packet Sending',
      side: 'device',
      sentences: {
        announcements: ['MUST', 'The rules of gratuitous packets.', 'controlQueue'],
      },
    },
    {
      number: '5.1.9.5.6',
      title: 'Automatic receive steering in multiqueue mode',
      side: 'both',
      sentences: {
        steering: ['MUST, SHOULD', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 2],
      },
    },
    {
      number: '5.1.9.5.6.1',
      title: 'Driver Requirements: Automatic receive steering in multiqueue mode',
      side: 'driver',
      sentences: {
        steering: ['MUST, MUST NOT', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 4],
      },
    },
    {
      number: '5.1.9.5.6.2',
      title: 'Device Requirements: Automatic receive steering in multiqueue mode',
      side: 'device',
      sentences: {
        steering: [
          'MUST, MUST NOT, SHOULD',
          'The rules of several queue pairs, receive steering and hashes.',
          'queuePairs',
          4,
        ],
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
        steering: ['MUST', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 2],
      },
    },
    {
      number: '5.1.9.5.7.2',
      title: 'Driver Requirements: Setting RSS parameters',
      side: 'driver',
      sentences: {
        steering: ['MUST, MUST NOT', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 5],
      },
    },
    {
      number: '5.1.9.5.7.3',
      title: 'Device Requirements: RSS processing',
      side: 'device',
      sentences: {
        steering: ['MUST', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 2],
      },
    },
    {
      number: '5.1.9.5.8.3',
      title: 'Device Requirements: RSS Context',
      side: 'device',
      sentences: {
        steering: ['MUST', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 2],
      },
    },
    {
      number: '5.1.9.5.8.4',
      title: 'Driver Requirements: RSS Context',
      side: 'driver',
      sentences: {
        steering: ['MUST, MUST NOT', 'The rules of several queue pairs, receive steering and hashes.', 'queuePairs', 3],
      },
    },
    {
      number: '5.1.9.5.9.2',
      title: 'Driver Requirements: Setting Offloads State',
      side: 'driver',
      sentences: {
        offloads: ['MUST NOT', 'The rules of checksum and segmentation offloads.', 'offloads'],
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
        coalescing: ['MUST', 'The rules of notification coalescing.', 'controlQueue', 4],
      },
    },
    {
      number: '5.1.9.5.10.6',
      title: 'Device Requirements: Notifications Coalescing',
      side: 'device',
      sentences: {
        coalescing: ['MUST, SHOULD, SHOULD NOT', 'The rules of notification coalescing.', 'controlQueue', 8],
      },
    },
    {
      number: '5.1.9.5.11.12',
      title: 'Device Requirements: Device Statistics',
      side: 'device',
      sentences: {
        statistics: ['MUST', 'The rules of device statistics.', 'controlQueue', 7],
      },
    },
    {
      number: '5.1.9.5.11.13',
      title: 'Driver Requirements: Device Statistics',
      side: 'driver',
      sentences: {
        statistics: ['MUST', 'The rules of device statistics.', 'controlQueue', 3],
      },
    },
    {
      number: '5.1.9.6.4',
      title: 'Device Requirements: Flow filter',
      side: 'device',
      sentences: {
        'flow-filter': ['MUST, SHOULD', 'The rules of the flow filter.', 'flowFilter', 20],
      },
    },
    {
      number: '5.1.9.6.5',
      title: 'Driver Requirements: Flow filter',
      side: 'driver',
      sentences: {
        'flow-filter': ['MUST, SHOULD, SHOULD NOT', 'The rules of the flow filter.', 'flowFilter', 12],
      },
    },
    {
      number: '5.1.9.7.1',
      title: 'Packet processing order',
      side: 'both',
      sentences: {
        ipsec: ['SHOULD', 'The rules of IPsec.', 'ipsec'],
      },
    },
    {
      number: '5.1.9.7.4',
      title: 'Device Requirements: IPsec Operation',
      side: 'device',
      sentences: {
        ipsec: ['MUST, SHOULD', 'The rules of IPsec.', 'ipsec', 9],
      },
    },
    {
      number: '5.1.9.7.5',
      title: 'Driver Requirements: IPsec Operation',
      side: 'driver',
      sentences: {
        ipsec: ['MUST, SHOULD NOT', 'The rules of IPsec.', 'ipsec', 7],
      },
    },
    {
      number: '5.1.9.8',
      title: 'Legacy Interface: Framing Requirements',
      side: 'both',
      sentences: {
        'legacy-interface': ['MUST', 'The rules of the legacy interface.', 'legacy', 3],
      },
    },
  ],
}
