import { VhostUserError } from './errors.ts'
import type { MessageType } from './messages.ts'

/** Bytes of a header: request, flags, size of the payload (vhost-user, "Header"). */
export const HEADER_BYTES = 12
export const VERSION = 1
export const VERSION_MASK = 3
export const FLAG_ANSWER = 4
export const FLAG_NEED_ANSWER = 8

/** A whole message as it came. `descriptors` belong to whoever takes the message. */
export interface Message {
  readonly request: number
  readonly needsAnswer: boolean
  readonly payload: DataView<ArrayBuffer>
  readonly descriptors: readonly number[]
}

/** `needAnswer`: ask for 0 or an error, where REPLY_ACK was agreed. */
export function encodeRequest<Request>(
  { request, payload }: MessageType<Request, unknown>,
  value: Request,
  needAnswer: boolean,
): Uint8Array<ArrayBuffer> {
  return message(request, needAnswer ? FLAG_NEED_ANSWER : 0, payload.encode(value))
}

export function encodeAnswer<Answer>(
  { request, answer }: MessageType<unknown, Answer>,
  value: Answer,
): Uint8Array<ArrayBuffer> {
  return message(request, FLAG_ANSWER, answer.encode(value))
}

/** @throws VhostUserError `VHOST_SIZE`, `VHOST_REQUEST` */
export function decodeRequest<Request>(part: string, type: MessageType<Request, unknown>, from: Message): Request {
  expectRequest(part, type, from)
  return decoded(part, type.name, type.payload.decode(from.payload), from)
}

/** @throws VhostUserError `VHOST_SIZE`, `VHOST_REQUEST` */
export function decodeAnswer<Answer>(part: string, type: MessageType<unknown, Answer>, from: Message): Answer {
  expectRequest(part, type, from)
  return decoded(part, `the answer to ${type.name}`, type.answer.decode(from.payload), from)
}

function expectRequest(part: string, { request, name }: MessageType<unknown, unknown>, from: Message): void {
  if (from.request === request) return
  const text = `message ${from.request} came where ${name} (${request}) was due`
  throw new VhostUserError('VHOST_REQUEST', part, text, { request: from.request, expected: request })
}

function decoded<T>(part: string, what: string, value: T | undefined, { request, payload }: Message): T {
  if (value !== undefined) return value
  const size = payload.byteLength
  const text = `${what} has ${size} bytes of payload, which do not fit what it says inside`
  throw new VhostUserError('VHOST_SIZE', part, text, { request, size })
}

function message(request: number, flags: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length)
  const header = new DataView(bytes.buffer)
  header.setUint32(0, request, true)
  header.setUint32(4, VERSION | flags, true)
  header.setUint32(8, payload.length, true)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}
