import { DEVICE_ID_NET, FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { VhostUserError } from '../protocol/errors.ts'
import * as messages from '../protocol/messages.ts'
import type { Connection } from './connection.ts'
import type { CheckedOptions } from './options.ts'

/** What a back end offers, and what was agreed with it. */
export interface Handshake {
  /** Features of the device, and vhost's own bits among them. */
  readonly offered: FeatureSet
  readonly protocolFeatures: FeatureSet
}

const WANTED = FeatureSet.of(
  messages.PROTOCOL_F_MQ,
  messages.PROTOCOL_F_REPLY_ACK,
  messages.PROTOCOL_F_BACKEND_REQ,
  messages.PROTOCOL_F_STATUS,
)
const CONFIG = FeatureSet.of(messages.PROTOCOL_F_CONFIG)

/**
 * Begins a session and agrees to protocol features (vhost-user, "Communication").
 *
 * @throws VhostUserError `VHOST_FEATURES`, `VHOST_QUEUES`, `VHOST_REFUSED`; TransportLostError
 */
export function shakeHands(connection: Connection, options: CheckedOptions): Handshake {
  connection.tell(messages.SET_OWNER, null)
  const offered = connection.ask(messages.GET_FEATURES, null)
  const protocolFeatures = agree(connection, offered, options.config === null ? WANTED.or(CONFIG) : WANTED)
  requireFeatures(options, { offered, protocolFeatures })
  if (protocolFeatures.has(messages.PROTOCOL_F_MQ)) requireQueues(connection, options)
  return { offered, protocolFeatures }
}

function agree(connection: Connection, offered: FeatureSet, wanted: FeatureSet): FeatureSet {
  if (!offered.has(messages.VHOST_USER_F_PROTOCOL_FEATURES)) return FeatureSet.empty
  const agreed = connection.ask(messages.GET_PROTOCOL_FEATURES, null).and(wanted)
  connection.tell(messages.SET_PROTOCOL_FEATURES, agreed)
  connection.acknowledged = agreed.has(messages.PROTOCOL_F_REPLY_ACK)
  return agreed
}

function requireFeatures({ name, config, iotlb }: CheckedOptions, { offered, protocolFeatures }: Handshake): void {
  const missing: string[] = []
  const agreed = (feature: number): boolean => protocolFeatures.has(feature)
  if (config === null && !agreed(messages.PROTOCOL_F_CONFIG)) missing.push('CONFIG (9), or give config')
  if (iotlb) {
    if (!agreed(messages.PROTOCOL_F_REPLY_ACK)) missing.push('REPLY_ACK (3) for iotlb')
    if (!agreed(messages.PROTOCOL_F_BACKEND_REQ)) missing.push('BACKEND_REQ (5) for iotlb')
    if (!offered.has(VIRTIO_F_ACCESS_PLATFORM)) missing.push('ACCESS_PLATFORM (33) for iotlb')
  }
  if (missing.length === 0) return
  throw new VhostUserError('VHOST_FEATURES', name, `the back end does not offer ${missing.join(', ')}`, {
    offered: offered.bits(),
    protocol: protocolFeatures.bits(),
  })
}

// What is counted is not said where queues come in pairs: DPDK counts pairs, and others count queues.
function requireQueues(connection: Connection, { name, deviceId, queues }: CheckedOptions): void {
  const has = connection.ask(messages.GET_QUEUE_NUM, null)
  const needed = deviceId === DEVICE_ID_NET ? Math.ceil(queues / 2) : queues
  if (has >= needed) return
  throw new VhostUserError('VHOST_QUEUES', name, `the back end has ${has} queues of the ${queues} needed`, {
    has,
    queues,
  })
}
