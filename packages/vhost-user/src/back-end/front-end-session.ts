import { closeSync } from 'node:fs'
import { type UnixSocket, type Watch, waitReadable, watchReadable } from '@guestdma/node'
import { encodeAnswer, type Message } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import * as messages from '../protocol/messages.ts'
import { IotlbPort } from './iotlb-port.ts'
import { closeAll, MessageHandler, type MessageHandlerOptions, type Outcome, REFUSED } from './message-handler.ts'
import type { ServedDevice, Step } from './served-device.ts'

export interface SessionOptions extends Omit<MessageHandlerOptions, 'catchUp'> {
  /** Owned from now on. */
  readonly socket: UnixSocket
  /** The connection ended. Nothing of it is open or mapped any more. */
  onEnd(cause: Error): void
}

const RECEIVE_BYTES = 4096
/** Messages that are kept while one waits: two for each of 256 queues, and some. */
const MAX_WAITING = 1024
/** Reads that take what a socket holds. */
const CATCH_UP = 64

interface Work {
  readonly message: Message
  readonly step: Step<Outcome>
}

/**
 * One connection of a front end: takes its messages, one after the other and between two turns of the device, and
 * answers them. Where one has to wait for requests in flight, those behind it wait as well, but for translations: a
 * request in flight may need one.
 */
export class FrontEndSession {
  /** What the messages make of the device. */
  readonly served: ServedDevice
  private readonly options: SessionOptions
  private readonly name: string
  private readonly reader: MessageReader
  private readonly watch: Watch
  private readonly handler: MessageHandler
  private readonly waiting: Message[] = []
  /** The message that has to wait. */
  private unfinished: Work | null = null
  private configChanged = false
  /** The device is at work. */
  private working = false
  private cause: Error | null = null

  /** Throws NodeError; `socket` is closed then. */
  constructor(options: SessionOptions) {
    const { device, port, socket } = options
    this.options = options
    this.name = device.name
    this.handler = new MessageHandler({ ...options, catchUp: () => this.catchUp() })
    this.served = this.handler.served
    this.reader = new MessageReader({
      part: this.name,
      types: messages.FRONT_END_MESSAGES,
      answers: false,
      close: closeSync,
    })
    try {
      this.watch = watchReadable(socket.fd, () => this.receive())
    } catch (error) {
      socket.close()
      throw error
    }
    if (port instanceof IotlbPort) port.onMiss = (iova, access) => this.handler.channel?.ask(iova, access) === true
  }

  /** The device's configuration changed, or it needs a reset. */
  configurationChanged(): void {
    this.configChanged = true
  }

  /** Tells the front end what the device has for it. */
  settle(): void {
    this.served.settle()
    if (!this.configChanged) return
    this.configChanged = false
    if (this.served.broken) this.served.signalErrors()
    else this.tellConfigChange()
  }

  /** A turn of the device: `work`, which may end requests that a message waits for. */
  turn(work: () => void): void {
    this.working = true
    this.orEnd(() => {
      this.served.beginTurn()
      work()
      this.handler.channel?.turned()
      this.proceed()
    })
    this.working = false
  }

  /** Ends the connection. May be called again. */
  end(cause: Error): void {
    if (this.cause !== null) return
    this.cause = cause
    this.watch.close()
    this.handler.channel?.close()
    // Where the device is in the middle of something, its memory stays until that is over.
    if (this.working) setImmediate(() => this.tearDown(cause))
    else this.tearDown(cause)
  }

  // A front end that does not take it has a channel of which nobody knows where the next message begins.
  private tellConfigChange(): void {
    try {
      this.handler.channel?.tellConfigChange()
    } catch (error) {
      this.handler.channel?.close()
      this.options.onFault(error as Error)
    }
  }

  private tearDown(cause: Error): void {
    const { port, socket, onEnd } = this.options
    if (port instanceof IotlbPort) port.onMiss = null
    this.served.close()
    this.reader.dispose()
    for (const message of this.waiting) closeAll(message)
    this.waiting.length = 0
    socket.close()
    onEnd(cause)
  }

  private orEnd(step: () => void): void {
    try {
      step()
    } catch (error) {
      this.end(error as Error)
    }
  }

  private receive(): void {
    if (this.cause !== null) return
    this.orEnd(() => {
      const { bytes, fds } = this.options.socket.receive(RECEIVE_BYTES, 0)
      if (bytes.length === 0) this.reader.end()
      this.reader.push(bytes, fds)
      for (let message = this.reader.next(); message !== null; message = this.reader.next()) {
        if (message.request === messages.IOTLB_MSG.request) this.attempt(this.work(message))
        else this.waiting.push(message)
      }
      if (this.waiting.length > MAX_WAITING) {
        const text = `${this.waiting.length} messages came while one waits, and ${MAX_WAITING} are kept`
        throw new VhostUserError('VHOST_FLOOD', this.name, text, { messages: this.waiting.length })
      }
      this.proceed()
    })
  }

  // Does what came, up to a message that has to wait.
  private proceed(): void {
    while (this.cause === null) {
      this.unfinished ??= this.next()
      if (this.unfinished === null || !this.attempt(this.unfinished)) return
      this.unfinished = null
    }
  }

  private next(): Work | null {
    const message = this.waiting.shift()
    return message === undefined ? null : this.work(message)
  }

  private work(message: Message): Work {
    let step: Step<Outcome> | null = null
    return {
      message,
      step: () => {
        step ??= this.handler.begin(message)
        return step()
      },
    }
  }

  // Answers as soon as the step is done. False: it has to wait.
  private attempt({ message, step }: Work): boolean {
    const { onFault } = this.options
    try {
      const outcome = step()
      if (outcome !== null) this.answer(message, outcome)
      return outcome !== null
    } catch (error) {
      const { answered } = messages.FRONT_END_MESSAGES.get(message.request) as messages.AnyMessageType
      // A front end that does not ask takes it for done, so the connection ends.
      if (!(error instanceof VhostUserError) || answered || !this.handler.mustAnswer(message)) throw error
      onFault(error)
      this.answer(message, REFUSED)
      return true
    }
  }

  private answer(message: Message, outcome: Outcome): void {
    const { socket, deadlineMs } = this.options
    const type = messages.FRONT_END_MESSAGES.get(message.request) as messages.MessageType<unknown, number>
    if (typeof outcome !== 'number') socket.send(outcome, [], deadlineMs)
    else if (this.handler.mustAnswer(message)) socket.send(encodeAnswer(type, outcome), [], deadlineMs)
  }

  // Takes what was sent before now.
  private catchUp(): void {
    const { fd } = this.options.socket
    for (let i = 0; i < CATCH_UP && this.cause === null && waitReadable([fd], 0).length > 0; i++) this.receive()
  }
}
