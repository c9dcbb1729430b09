import { hex } from '@guestdma/memory'
import { FLAG_ANSWER, FLAG_NEED_ANSWER, HEADER_BYTES, type Message, VERSION, VERSION_MASK } from './codec.ts'
import { type VHOST_CODES, VhostUserError } from './errors.ts'
import type { AnyMessageType } from './messages.ts'

export interface MessageReaderOptions {
  /** For the text of errors: which peer sends. */
  readonly part: string
  /** The messages that may come, or whose answers may. */
  readonly types: ReadonlyMap<number, AnyMessageType>
  /** Are these answers, and not requests? */
  readonly answers: boolean
  /** Closes a descriptor that nobody wants. */
  close(descriptor: number): void
}

/** Descriptors that any message carries at most (vhost-user, "Memory regions description"). */
const MAX_DESCRIPTORS = 8

/** A message of which not all has come. */
interface Draft {
  readonly header: DataView<ArrayBuffer>
  /** Bytes that have come, the header included. */
  filled: number
  /** Known once the header is complete. */
  type: AnyMessageType | null
  payload: Uint8Array<ArrayBuffer>
  readonly descriptors: number[]
}

/**
 * Makes messages of what a stream socket delivers, however it is cut: several messages at once, or parts of one.
 *
 * A message is checked as soon as its header is complete, so that no peer can make this hold more than the largest
 * message. After an error every descriptor that came is closed and the reader takes nothing more, since nobody knows
 * where the next message begins.
 */
export class MessageReader {
  private readonly options: MessageReaderOptions
  private draft: Draft | null = null
  private readonly ready: Message[] = []
  /** Descriptors that came and were not handed on. */
  private readonly held = new Set<number>()
  private failed: VhostUserError | null = null

  constructor(options: MessageReaderOptions) {
    this.options = options
  }

  /**
   * Takes what one receive delivered. Its descriptors belong to the last message that begins in it, or else to the one
   * that goes on: they come with the first byte of their message, and the system ends a receive behind such bytes.
   *
   * @throws VhostUserError `VHOST_VERSION`, `VHOST_FLAGS`, `VHOST_REQUEST`, `VHOST_SIZE`, `VHOST_DESCRIPTORS`
   */
  push(bytes: Uint8Array, descriptors: readonly number[]): void {
    for (const descriptor of descriptors) this.held.add(descriptor)
    if (this.failed !== null) this.fail(this.failed)
    const whole: Draft[] = []
    let last = this.draft
    for (let at = 0; at < bytes.length; ) {
      last = this.draft ??= newDraft()
      at += this.take(last, bytes.subarray(at))
      if (last.type === null || last.filled < HEADER_BYTES + last.payload.length) continue
      whole.push(last)
      this.draft = null
    }
    last?.descriptors.push(...descriptors)
    for (const draft of whole) this.finish(draft)
    if (this.draft !== null) this.checkDescriptors(this.draft, 0)
  }

  /** The next whole message, or `null`. Its descriptors are the caller's. */
  next(): Message | null {
    const message = this.ready.shift() ?? null
    for (const descriptor of message?.descriptors ?? []) this.held.delete(descriptor)
    return message
  }

  /**
   * The connection ended.
   *
   * @throws VhostUserError `VHOST_TRUNCATED` in the middle of a message, otherwise `VHOST_CLOSED`
   */
  end(): never {
    const bytes = this.draft?.filled ?? 0
    this.fail(
      bytes === 0
        ? this.error('VHOST_CLOSED', 'the other end closed the connection')
        : this.error('VHOST_TRUNCATED', `the connection ended ${bytes} bytes into a message`, { bytes }),
    )
  }

  /** Takes nothing more, and closes the descriptors of messages that nobody took. */
  dispose(): void {
    this.failed ??= this.error('VHOST_CLOSED', 'this end closed the connection')
    for (const descriptor of this.held) this.options.close(descriptor)
    this.held.clear()
    this.ready.length = 0
    this.draft = null
  }

  // Fills the header and then the payload. Returns how many bytes that took.
  private take(draft: Draft, bytes: Uint8Array): number {
    const inHeader = draft.filled < HEADER_BYTES
    const part = inHeader ? new Uint8Array(draft.header.buffer) : draft.payload
    const at = inHeader ? draft.filled : draft.filled - HEADER_BYTES
    const taken = bytes.subarray(0, part.length - at)
    part.set(taken, at)
    draft.filled += taken.length
    if (inHeader && draft.filled === HEADER_BYTES) this.begin(draft)
    return taken.length
  }

  // The header is complete.
  private begin(draft: Draft): void {
    const request = draft.header.getUint32(0, true)
    const flags = draft.header.getUint32(4, true)
    const size = draft.header.getUint32(8, true)
    const { types, answers } = this.options
    const version = flags & VERSION_MASK
    if (version !== VERSION)
      this.fail(this.error('VHOST_VERSION', `a message has version ${version}, which is not ${VERSION}`, { version }))
    const known = VERSION_MASK | FLAG_ANSWER | FLAG_NEED_ANSWER
    if ((flags & ~known) !== 0 || ((flags & FLAG_ANSWER) !== 0) !== answers) {
      const due = answers ? 'an answer' : 'a request'
      this.fail(this.error('VHOST_FLAGS', `message ${request} has flags ${hex(flags)} where ${due} is due`, { flags }))
    }
    const type = types.get(request)
    if (type === undefined) this.fail(this.error('VHOST_REQUEST', `message ${request} is not known here`, { request }))
    const { least, most } = answers ? type.answer : type.payload
    if (size < least || size > most) {
      const text = `${type.name} has ${size} bytes of payload, which must be ${least} to ${most}`
      this.fail(this.error('VHOST_SIZE', text, { request, size, least, most }))
    }
    draft.type = type
    draft.payload = new Uint8Array(size)
  }

  // The payload is complete, and all descriptors that belong to it have come.
  private finish(draft: Draft): void {
    const type = draft.type as AnyMessageType
    this.checkDescriptors(draft, this.options.answers ? 0 : type.descriptors[0])
    this.ready.push({
      request: type.request,
      needsAnswer: (draft.header.getUint32(4, true) & FLAG_NEED_ANSWER) !== 0,
      payload: new DataView(draft.payload.buffer),
      descriptors: draft.descriptors,
    })
  }

  private checkDescriptors({ type, descriptors }: Draft, least: number): void {
    const most = this.options.answers ? 0 : (type?.descriptors[1] ?? MAX_DESCRIPTORS)
    const count = descriptors.length
    if (count >= least && count <= most) return
    const text = `${type?.name ?? 'a message'} came with ${count} descriptors, which must be ${least} to ${most}`
    this.fail(this.error('VHOST_DESCRIPTORS', text, { count, least, most }))
  }

  private fail(error: VhostUserError): never {
    this.failed = error
    this.dispose()
    throw error
  }

  private error(code: keyof typeof VHOST_CODES, text: string, details = {}): VhostUserError {
    return new VhostUserError(code, this.options.part, text, details)
  }
}

function newDraft(): Draft {
  return {
    header: new DataView(new ArrayBuffer(HEADER_BYTES)),
    filled: 0,
    type: null,
    payload: new Uint8Array(0),
    descriptors: [],
  }
}
