import { closeSync } from 'node:fs'
import { UnixSocket, type Watch, watchReadable } from '@guestdma/node'
import { decodeAnswer, encodeRequest } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import { BACK_END_MESSAGES, BACKEND_CONFIG_CHANGE_MSG, BACKEND_IOTLB_MSG } from '../protocol/messages.ts'
import { IOTLB_MISS } from '../protocol/payload.ts'

export interface RequestChannelOptions {
  readonly name: string
  /** Of this end; owned from now on. */
  readonly descriptor: number
  /** REPLY_ACK was agreed, so the front end answers. */
  readonly answers: boolean
  /** How long the front end may take to read a question. */
  readonly deadlineMs: number
  /** How long it may take to translate an address. */
  readonly translationMs: number
  /** Is there a translation? */
  has(iova: number, access: 1 | 2): boolean
  /** Takes what the front end has sent already by its own socket: a translation goes there, and the answer comes here. */
  catchUp(): void
  /** No translation will come for an address that was asked for. */
  onAnswer(): void
  onFault(error: Error): void
}

/** What the front end was asked to translate. */
interface Question {
  readonly iova: number
  readonly access: 1 | 2
  /** The turn of the device that asked. */
  readonly turn: number
  readonly deadline: NodeJS.Timeout
  /** Nobody waits for its translation any more. Its answer may still be due. */
  over: boolean
}

const RECEIVE_BYTES = 4096
/** Questions without an answer: some for each of 256 queues. */
const MAX_QUESTIONS = 1024

/** The channel by which this end asks for something by itself (vhost-user, "Back-end communication"). */
export class RequestChannel {
  private readonly options: RequestChannelOptions
  private readonly socket: UnixSocket
  private readonly reader: MessageReader
  private readonly watch: Watch
  /** Oldest first, as they are answered. */
  private questions: Question[] = []
  private refused: Question[] = []
  private turn = 0
  private open = true

  constructor(options: RequestChannelOptions) {
    const part = `${options.name} request channel`
    this.options = options
    this.socket = UnixSocket.from(options.descriptor, part)
    this.reader = new MessageReader({ part, types: BACK_END_MESSAGES, answers: true, close: closeSync })
    try {
      this.watch = watchReadable(this.socket.fd, () => this.receive())
    } catch (error) {
      this.socket.close()
      throw error
    }
  }

  /** Throws NodeError. */
  tellConfigChange(): void {
    if (this.open) this.socket.send(encodeRequest(BACKEND_CONFIG_CHANGE_MSG, null, false), [], 0)
  }

  /**
   * Asks for the translation of an address, once. False: none will come, which is known until {@link turned}.
   */
  ask(iova: number, access: 1 | 2): boolean {
    const { answers, deadlineMs, onFault, translationMs } = this.options
    if (!this.open) return false
    const same = (one: Question): boolean => one.iova === iova && one.access === access
    if (this.refused.some(same)) return false
    if (this.questions.some((one) => !one.over && same(one))) return true
    const miss = { iova, length: 0, user: 0, permission: access, type: IOTLB_MISS }
    try {
      if (this.questions.length === MAX_QUESTIONS) {
        // Then it is asked for later.
        if (this.questions.some(({ over }) => !over)) return true
        const text = `${MAX_QUESTIONS} translations came, and no answers to the questions for them`
        throw new VhostUserError('VHOST_FLOOD', this.options.name, text, { questions: MAX_QUESTIONS })
      }
      this.socket.send(encodeRequest(BACKEND_IOTLB_MSG, miss, answers), [], deadlineMs)
    } catch (error) {
      this.close()
      onFault(error as Error)
      return false
    }
    const question: Question = {
      iova,
      access,
      turn: this.turn,
      over: false,
      deadline: setTimeout(() => this.late(question), translationMs),
    }
    this.questions.push(question)
    return true
  }

  /**
   * A translation came for [iova, iova + length). Returns whether with it there is one for all that some turn of the
   * device asked for: it is worth its while to go on then, and not before.
   */
  updated(iova: number, length: number): boolean {
    const { answers, has } = this.options
    const turns = new Set<number>()
    for (const one of this.questions) {
      if (one.over || one.iova < iova || one.iova >= iova + length || !has(one.iova, one.access)) continue
      this.end(one)
      turns.add(one.turn)
    }
    for (const { over, turn } of this.questions) if (!over) turns.delete(turn)
    if (!answers) this.questions = this.questions.filter(({ over }) => !over)
    return turns.size > 0
  }

  /** The device looked at what was refused. What it did not look at it may ask for again: much can have changed by then. */
  turned(): void {
    this.refused = []
    this.turn++
  }

  /** May be called again. */
  close(): void {
    if (!this.open) return
    this.open = false
    for (const one of this.questions) this.end(one)
    this.watch.close()
    this.reader.dispose()
    this.socket.close()
  }

  private end(question: Question): void {
    clearTimeout(question.deadline)
    question.over = true
  }

  private refuse(question: Question): void {
    this.end(question)
    this.refused.push(question)
    this.options.onAnswer()
  }

  private late(question: Question): void {
    const { name, translationMs: deadlineMs, onFault } = this.options
    const { iova, access } = question
    const text = `the front end did not translate ${iova} within ${deadlineMs} ms`
    onFault(new VhostUserError('VHOST_TIMEOUT', name, text, { iova, access, deadlineMs }))
    this.refuse(question)
  }

  private receive(): void {
    if (!this.open) return
    const { catchUp, name, onAnswer, onFault } = this.options
    try {
      const { bytes, fds } = this.socket.receive(RECEIVE_BYTES, 0)
      if (bytes.length === 0) this.reader.end()
      this.reader.push(bytes, fds)
      for (let message = this.reader.next(); message !== null; message = this.reader.next()) {
        // What it says does not matter: the translation came, or it did not.
        decodeAnswer(name, BACKEND_IOTLB_MSG, message)
        catchUp()
        if (!this.open) return
        const question = this.questions.shift()
        if (question !== undefined && !question.over) this.refuse(question)
      }
    } catch (error) {
      this.close()
      if ((error as { code?: string }).code !== 'VHOST_CLOSED') onFault(error as Error)
      // What waits for a translation waits in vain.
      onAnswer()
    }
  }
}
