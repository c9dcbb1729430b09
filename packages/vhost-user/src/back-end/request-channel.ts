import { closeSync } from 'node:fs'
import { serveWatched, UnixSocket, type Watch, watchReadable } from '@guestdma/node'
import { Deadline } from '@guestdma/transport'
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
  readonly deadlineMs: number
  onFault(error: Error): void
}

/** How a wait for a translation learns of what else arrives. */
export interface Asker {
  /** The translation is there. */
  found(): boolean
  /** It will never come. */
  ended(): boolean
  /** Takes what the front end has sent already. */
  catchUp(): void
}

const RECEIVE_BYTES = 4096
/** How long a wait blocks before it looks at its deadline. */
const SLICE_MS = 20

/** The channel by which this end asks for something by itself (vhost-user, "Back-end communication"). */
export class RequestChannel {
  private readonly options: RequestChannelOptions
  private readonly socket: UnixSocket
  private readonly reader: MessageReader
  private readonly watch: Watch
  /** Answers that are due. One may come after its translation, and so after the next question was asked. */
  private due = 0
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
   * Asks for the translation of an address, and waits for it. Everything that is watched in this process is served
   * meanwhile, since the front end may wait for another device of this process before it answers.
   *
   * @throws VhostUserError `VHOST_TIMEOUT`; NodeError
   */
  ask(iova: number, access: 1 | 2, { found, ended, catchUp }: Asker): boolean {
    const { name, answers, deadlineMs } = this.options
    if (!this.open) return false
    const miss = { iova, length: 0, user: 0, permission: access, type: IOTLB_MISS }
    this.socket.send(encodeRequest(BACKEND_IOTLB_MSG, miss, answers), [], deadlineMs)
    if (answers) this.due++
    const deadline = new Deadline(name, { pump: () => {}, deadlineMs })
    deadline.begin()
    while (!found()) {
      if (ended() || !this.open) return false
      if (answers && this.due === 0) {
        catchUp()
        return found()
      }
      if (deadline.passed()) {
        const text = `the front end did not translate ${iova} within ${deadlineMs} ms`
        throw new VhostUserError('VHOST_TIMEOUT', name, text, { iova, access, deadlineMs })
      }
      serveWatched(SLICE_MS)
    }
    return true
  }

  /** May be called again. */
  close(): void {
    if (!this.open) return
    this.open = false
    this.watch.close()
    this.reader.dispose()
    this.socket.close()
  }

  private receive(): void {
    if (!this.open) return
    try {
      const { bytes, fds } = this.socket.receive(RECEIVE_BYTES, 0)
      if (bytes.length === 0) this.reader.end()
      this.reader.push(bytes, fds)
      for (let message = this.reader.next(); message !== null; message = this.reader.next()) {
        // What it says does not matter: the translation came, or it did not.
        decodeAnswer(this.options.name, BACKEND_IOTLB_MSG, message)
        this.due--
      }
    } catch (error) {
      this.close()
      if ((error as { code?: string }).code !== 'VHOST_CLOSED') this.options.onFault(error as Error)
    }
  }
}
