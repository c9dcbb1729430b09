import { closeSync } from 'node:fs'
import { type UnixSocket, waitReadable } from '@guestdma/node'
import { decodeRequest, encodeAnswer, type Message } from '../protocol/codec.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import { BACK_END_MESSAGES, BACKEND_CONFIG_CHANGE_MSG, BACKEND_IOTLB_MSG } from '../protocol/messages.ts'
import type { IotlbMessage } from '../protocol/payload.ts'

export interface BackEndRequestsOptions {
  readonly name: string
  /** This end of the channel; owned from now on. */
  readonly socket: UnixSocket
  /** Returns whether it was done. */
  onIotlb(message: IotlbMessage): boolean
  onConfigChange(): void
}

const RECEIVE_BYTES = 4096
const DONE = 0
const REFUSED = 1

/** The channel by which a back end asks for something by itself (vhost-user, "Back-end communication"). */
export class BackEndRequests {
  private readonly options: BackEndRequestsOptions
  private readonly reader: MessageReader

  constructor(options: BackEndRequestsOptions) {
    this.options = options
    const part = `${options.name} request channel`
    this.reader = new MessageReader({ part, types: BACK_END_MESSAGES, answers: false, close: closeSync })
  }

  get descriptor(): number {
    return this.options.socket.fd
  }

  /** Answers what has arrived, without waiting. Throws VhostUserError and NodeError: the channel is of no use then. */
  serve(): void {
    const { socket } = this.options
    while (waitReadable([socket.fd], 0).length > 0) {
      const { bytes, fds } = socket.receive(RECEIVE_BYTES, 0)
      if (bytes.length === 0) this.reader.end()
      this.reader.push(bytes, fds)
      for (let message = this.reader.next(); message !== null; message = this.reader.next()) this.answer(message)
    }
  }

  close(): void {
    this.reader.dispose()
    this.options.socket.close()
  }

  private answer(message: Message): void {
    const { name, socket, onIotlb, onConfigChange } = this.options
    let result = DONE
    if (message.request === BACKEND_IOTLB_MSG.request) {
      if (!onIotlb(decodeRequest(name, BACKEND_IOTLB_MSG, message))) result = REFUSED
    } else {
      onConfigChange()
    }
    const type = BACK_END_MESSAGES.get(message.request) ?? BACKEND_CONFIG_CHANGE_MSG
    if (message.needsAnswer) socket.send(encodeAnswer(type, result))
  }
}
