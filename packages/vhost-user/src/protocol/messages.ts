import type { FeatureSet } from '@guestdma/spec'
import {
  CONFIG_ANSWER,
  CONFIG_SPACE,
  type ConfigSpace,
  FEATURES,
  IOTLB,
  type IotlbMessage,
  MAX_REGIONS,
  MEMORY_TABLE,
  type MemoryRegion,
  NONE,
  type Payload,
  U64,
  VRING_ADDRESS,
  VRING_STATE,
  type VringAddress,
  type VringState,
} from './payload.ts'

/** Bits of the device features that are vhost's own and no feature of virtio. */
export const VHOST_F_LOG_ALL = 26
export const VHOST_USER_F_PROTOCOL_FEATURES = 30

// Protocol features (vhost-user, "Protocol features").
export const PROTOCOL_F_MQ = 0
export const PROTOCOL_F_REPLY_ACK = 3
export const PROTOCOL_F_BACKEND_REQ = 5
export const PROTOCOL_F_CONFIG = 9
export const PROTOCOL_F_STATUS = 16

/** In the payload of SET_VRING_KICK, _CALL and _ERR, above the queue: no descriptor comes along. */
export const VRING_NO_DESCRIPTOR = 0x100

/** A message: what it carries and what answers it. */
export interface MessageType<Request, Answer> {
  readonly request: number
  readonly name: string
  readonly payload: Payload<Request>
  /** The payload of its answer. Without one it is answered only where its sender asks: by 0 for success (REPLY_ACK). */
  readonly answer: Payload<Answer>
  readonly answered: boolean
  /** Fewest and most descriptors that come along. */
  readonly descriptors: readonly [least: number, most: number]
}

/** Answered only where its sender asks. */
export type Told<Request> = MessageType<Request, number>
/** A kind of message whatever its payload. */
export type AnyMessageType = MessageType<unknown, unknown>

const NO_DESCRIPTORS = [0, 0] as const
const ONE_DESCRIPTOR = [1, 1] as const
/** One, or none with {@link VRING_NO_DESCRIPTOR}. */
const EVENT_DESCRIPTOR = [0, 1] as const

function told<Request>(
  request: number,
  name: string,
  payload: Payload<Request>,
  descriptors: readonly [number, number] = NO_DESCRIPTORS,
): Told<Request> {
  return { request, name, payload, answer: U64, answered: false, descriptors }
}

function asked<Request, Answer>(
  request: number,
  name: string,
  payload: Payload<Request>,
  answer: Payload<Answer>,
): MessageType<Request, Answer> {
  return { request, name, payload, answer, answered: true, descriptors: NO_DESCRIPTORS }
}

// vhost-user, "Front-end message types".
export const GET_FEATURES: MessageType<null, FeatureSet> = asked(1, 'GET_FEATURES', NONE, FEATURES)
export const SET_FEATURES: Told<FeatureSet> = told(2, 'SET_FEATURES', FEATURES)
export const SET_OWNER: Told<null> = told(3, 'SET_OWNER', NONE)
/** Deprecated; a back end ignores it. */
const RESET_OWNER: Told<null> = told(4, 'RESET_OWNER', NONE)
export const SET_MEM_TABLE: Told<readonly MemoryRegion[]> = told(5, 'SET_MEM_TABLE', MEMORY_TABLE, [1, MAX_REGIONS])
export const SET_VRING_NUM: Told<VringState> = told(8, 'SET_VRING_NUM', VRING_STATE)
export const SET_VRING_ADDR: Told<VringAddress> = told(9, 'SET_VRING_ADDR', VRING_ADDRESS)
export const SET_VRING_BASE: Told<VringState> = told(10, 'SET_VRING_BASE', VRING_STATE)
export const GET_VRING_BASE: MessageType<VringState, VringState> = asked(11, 'GET_VRING_BASE', VRING_STATE, VRING_STATE)
export const SET_VRING_KICK: Told<number> = told(12, 'SET_VRING_KICK', U64, EVENT_DESCRIPTOR)
export const SET_VRING_CALL: Told<number> = told(13, 'SET_VRING_CALL', U64, EVENT_DESCRIPTOR)
export const SET_VRING_ERR: Told<number> = told(14, 'SET_VRING_ERR', U64, EVENT_DESCRIPTOR)
export const GET_PROTOCOL_FEATURES: MessageType<null, FeatureSet> = asked(15, 'GET_PROTOCOL_FEATURES', NONE, FEATURES)
export const SET_PROTOCOL_FEATURES: Told<FeatureSet> = told(16, 'SET_PROTOCOL_FEATURES', FEATURES)
export const GET_QUEUE_NUM: MessageType<null, number> = asked(17, 'GET_QUEUE_NUM', NONE, U64)
export const SET_VRING_ENABLE: Told<VringState> = told(18, 'SET_VRING_ENABLE', VRING_STATE)
export const SET_BACKEND_REQ_FD: Told<null> = told(21, 'SET_BACKEND_REQ_FD', NONE, ONE_DESCRIPTOR)
export const IOTLB_MSG: Told<IotlbMessage> = told(22, 'IOTLB_MSG', IOTLB)
export const GET_CONFIG: MessageType<ConfigSpace, ConfigSpace> = asked(24, 'GET_CONFIG', CONFIG_SPACE, CONFIG_ANSWER)
export const SET_CONFIG: Told<ConfigSpace> = told(25, 'SET_CONFIG', CONFIG_SPACE)
export const SET_STATUS: Told<number> = told(39, 'SET_STATUS', U64)
export const GET_STATUS: MessageType<null, number> = asked(40, 'GET_STATUS', NONE, U64)

/** What the front end sends. */
export const FRONT_END_MESSAGES: ReadonlyMap<number, AnyMessageType> = table(
  GET_FEATURES,
  SET_FEATURES,
  SET_OWNER,
  RESET_OWNER,
  SET_MEM_TABLE,
  SET_VRING_NUM,
  SET_VRING_ADDR,
  SET_VRING_BASE,
  GET_VRING_BASE,
  SET_VRING_KICK,
  SET_VRING_CALL,
  SET_VRING_ERR,
  GET_PROTOCOL_FEATURES,
  SET_PROTOCOL_FEATURES,
  GET_QUEUE_NUM,
  SET_VRING_ENABLE,
  SET_BACKEND_REQ_FD,
  IOTLB_MSG,
  GET_CONFIG,
  SET_CONFIG,
  SET_STATUS,
  GET_STATUS,
)

// vhost-user, "Back-end message types".
export const BACKEND_IOTLB_MSG: Told<IotlbMessage> = told(1, 'BACKEND_IOTLB_MSG', IOTLB)
export const BACKEND_CONFIG_CHANGE_MSG: Told<null> = told(2, 'BACKEND_CONFIG_CHANGE_MSG', NONE)

/** What the back end sends over its request channel. */
export const BACK_END_MESSAGES: ReadonlyMap<number, AnyMessageType> = table(
  BACKEND_IOTLB_MSG,
  BACKEND_CONFIG_CHANGE_MSG,
)

function table(...types: readonly AnyMessageType[]): ReadonlyMap<number, AnyMessageType> {
  return new Map(types.map((type) => [type.request, type]))
}
