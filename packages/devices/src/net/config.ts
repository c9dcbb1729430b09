import {
  ETHERNET_HEADER_SIZE,
  ETHERNET_MTU,
  FeatureSet,
  NET_CONFIG_MAC,
  NET_CONFIG_MAX_VIRTQUEUE_PAIRS,
  NET_CONFIG_MTU,
  NET_CONFIG_SIZE,
  NET_CONFIG_STATUS,
  NET_FEATURE_DEPENDENCIES,
  NET_MTU_MAX,
  NET_MTU_MIN,
  NET_S_LINK_UP,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
  VLAN_TAG_SIZE,
  VLAN_TAGS_MAX,
} from '@guestdma/spec'
import { ConfigSpace } from '../device/config-space.ts'
import type { FeatureDependency } from '../device/negotiation.ts'
import type { DeviceOptions } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import type { NetLink } from '../links/net-link.ts'

/** Options of a network device. */
export interface NetDeviceOptions extends DeviceOptions {
  /** Offers MAC: six bytes, a unicast address. Without it the driver chooses an address (§5.1.5). */
  readonly mac?: Uint8Array | readonly number[]
  /** Offers MTU: 68 to 65535 bytes, without the Ethernet header. Longer frames are dropped in both directions. */
  readonly mtu?: number
  /** What the device is plugged into. Without one its frames are dropped and counted. */
  readonly link?: NetLink
  /** Offers STATUS. Defaults to true. */
  readonly status?: boolean
  /** Offers MRG_RXBUF. Defaults to true. */
  readonly mergeable?: boolean
  /** Of both queues. Defaults to 256. */
  readonly queueSize?: number
}

/** What a network device counted since it was made. A frame is counted once. */
export interface NetDeviceCounters {
  /** Handed to the link. */
  transmitted: number
  transmittedBytes: number
  /**
   * Not handed to the link: a header that is missing or asks for an offload that was not negotiated; an empty or too
   * long frame; no link, or link down.
   */
  transmitMalformed: number
  transmitOversize: number
  transmitUnlinked: number
  /** The link threw. */
  transmitFailed: number
  /** Delivered to the driver. */
  received: number
  receivedBytes: number
  /** Receive was refused for want of a buffer. The frame is still the link's. */
  receiveNoBuffer: number
  /** Dropped: empty or too long; longer than the driver's buffer; link down. */
  receiveOversize: number
  receiveTooSmall: number
  receiveUnlinked: number
}

/** The dependencies of virtio 1.4 §5.1.3.1, with the two that are satisfied by either of two features. */
export const NET_DEPENDENCIES: readonly FeatureDependency[] = [
  ...NET_FEATURE_DEPENDENCIES,
  [VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6],
  [VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6],
]

/** struct virtio_net_config up to mtu, as fields: virtio 1.4 §5.1.4. All are read-only. */
const FIELDS = [
  ...[0, 1, 2, 3, 4, 5].map((i) => ({ offset: NET_CONFIG_MAC + i, width: 1 as const })),
  { offset: NET_CONFIG_STATUS, width: 2 as const },
  { offset: NET_CONFIG_MAX_VIRTQUEUE_PAIRS, width: 2 as const },
  { offset: NET_CONFIG_MTU, width: 2 as const },
]

/** Throws `DEVICE_OPTION`. */
export function checkNetOptions({ name, mac, mtu }: NetDeviceOptions): void {
  if (mac !== undefined) checkMac(name, mac)
  if (mtu !== undefined && (!Number.isInteger(mtu) || mtu < NET_MTU_MIN || mtu > NET_MTU_MAX)) {
    const message = `mtu ${mtu} must be an integer from ${NET_MTU_MIN} to ${NET_MTU_MAX}`
    throw new DeviceError('DEVICE_OPTION', name, message, { mtu })
  }
}

function checkMac(name: string, mac: unknown): void {
  const bytes = Array.isArray(mac) || mac instanceof Uint8Array ? [...mac] : null
  if (bytes?.length !== 6 || bytes.some((byte) => !Number.isInteger(byte) || byte < 0 || byte > 255)) {
    const found =
      bytes === null ? (typeof mac === 'string' ? JSON.stringify(mac) : typeof mac) : `[${bytes.join(', ')}]`
    const message = `mac must be an array of 6 bytes, such as [0x52, 0x54, 0, 1, 2, 3], not ${found}`
    throw new DeviceError('DEVICE_OPTION', name, message, { mac: bytes ?? mac })
  }
  if ((bytes[0] & 1) !== 0) {
    const message = 'mac must be a unicast address: bit 0 of its first byte is set'
    throw new DeviceError('DEVICE_OPTION', name, message, { mac: bytes })
  }
}

/** The features that follow from the options. */
export function netFeatures({ mac, mtu, status = true, mergeable = true }: NetDeviceOptions): FeatureSet {
  const bits: number[] = []
  if (mac !== undefined) bits.push(VIRTIO_NET_F_MAC)
  if (status) bits.push(VIRTIO_NET_F_STATUS)
  if (mtu !== undefined) bits.push(VIRTIO_NET_F_MTU)
  if (mergeable) bits.push(VIRTIO_NET_F_MRG_RXBUF)
  return FeatureSet.of(...bits)
}

/** The configuration space that follows from the options. */
export function netConfig({ mac, mtu, status = true }: NetDeviceOptions): ConfigSpace {
  const config = new ConfigSpace(NET_CONFIG_SIZE, FIELDS)
  config.bytes.set(mac ?? [], NET_CONFIG_MAC)
  config.write(NET_CONFIG_STATUS, 2, status ? NET_S_LINK_UP : 0)
  config.write(NET_CONFIG_MTU, 2, mtu ?? 0)
  return config
}

/** The longest frame that the device may have to stage, whatever is negotiated. */
export function longestFrame(mtu: number | undefined): number {
  return Math.max(mtu ?? 0, ETHERNET_MTU) + ETHERNET_HEADER_SIZE + VLAN_TAGS_MAX * VLAN_TAG_SIZE
}
