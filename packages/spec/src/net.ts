// Network device: virtio 1.4 §5.1.

export const VIRTIO_NET_F_CSUM = 0
export const VIRTIO_NET_F_GUEST_CSUM = 1
export const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 2
export const VIRTIO_NET_F_MTU = 3
export const VIRTIO_NET_F_MAC = 5
export const VIRTIO_NET_F_GUEST_TSO4 = 7
export const VIRTIO_NET_F_GUEST_TSO6 = 8
export const VIRTIO_NET_F_GUEST_ECN = 9
export const VIRTIO_NET_F_GUEST_UFO = 10
export const VIRTIO_NET_F_HOST_TSO4 = 11
export const VIRTIO_NET_F_HOST_TSO6 = 12
export const VIRTIO_NET_F_HOST_ECN = 13
export const VIRTIO_NET_F_HOST_UFO = 14
export const VIRTIO_NET_F_MRG_RXBUF = 15
export const VIRTIO_NET_F_STATUS = 16
export const VIRTIO_NET_F_CTRL_VQ = 17
export const VIRTIO_NET_F_CTRL_RX = 18
export const VIRTIO_NET_F_CTRL_VLAN = 19
export const VIRTIO_NET_F_GUEST_ANNOUNCE = 21
export const VIRTIO_NET_F_MQ = 22
export const VIRTIO_NET_F_CTRL_MAC_ADDR = 23
export const VIRTIO_NET_F_HASH_REPORT = 57
export const VIRTIO_NET_F_RSS = 60
export const VIRTIO_NET_F_SPEED_DUPLEX = 63

/** Queue indices with one pair of queues: virtio 1.4 §5.1.2. */
export const NET_RECEIVE_QUEUE = 0
export const NET_TRANSMIT_QUEUE = 1

// struct virtio_net_config: virtio 1.4 §5.1.4
export const NET_CONFIG_MAC = 0
export const NET_CONFIG_STATUS = 6
export const NET_CONFIG_MAX_VIRTQUEUE_PAIRS = 8
export const NET_CONFIG_MTU = 10
/** Bytes of the configuration space up to and including `mtu`. */
export const NET_CONFIG_SIZE = 12
export const NET_S_LINK_UP = 1
export const NET_S_ANNOUNCE = 2

/** Bytes of struct virtio_net_hdr without HASH_REPORT, UDP tunnel GSO and OUT_NET_HEADER: virtio 1.4 §5.1.9. */
export const NET_HEADER_SIZE = 12
export const NET_HEADER_FLAGS = 0
export const NET_HEADER_GSO_TYPE = 1
export const NET_HEADER_NUM_BUFFERS = 10
export const NET_HDR_GSO_NONE = 0

/** An Ethernet header: two addresses and a type. The MTU of §5.1.4.1 does not count it. */
export const ETHERNET_HEADER_SIZE = 14
/** The MTU that is meant where VIRTIO_NET_F_MTU was not negotiated. */
export const ETHERNET_MTU = 1500
/** A VLAN tag makes an Ethernet header 4 bytes longer, and the MTU does not count it. Two may be stacked (802.1ad). */
export const VLAN_TAG_SIZE = 4
export const VLAN_TAGS_MAX = 2
/** EtherTypes in whose place a tag stands: 802.1Q and 802.1ad. */
export const ETHERTYPE_VLAN = 0x8100
export const ETHERTYPE_VLAN_STACKED = 0x88a8
/** The smallest MTU that a driver accepts: virtio 1.4 §5.1.4.1 (68, the minimum of IPv4). */
export const NET_MTU_MIN = 68
/** The largest MTU: virtio 1.4 §5.1.4.1. */
export const NET_MTU_MAX = 65535

/** Features that a net feature needs: virtio 1.4 §5.1.3.1. */
export const NET_FEATURE_DEPENDENCIES: ReadonlyArray<readonly [bit: number, needs: number]> = [
  [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_CSUM],
  [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_CSUM],
  [VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ],
  [VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ],
  [VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ],
  [VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ],
  [VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ],
  [VIRTIO_NET_F_RSS, VIRTIO_NET_F_CTRL_VQ],
]
