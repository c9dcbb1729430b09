import { closeSync } from 'node:fs'
import type { BusWindows, VirtioDevice } from '@guestdma/devices'
import { type UnixSocket, type Watch, waitReadable, watchReadable } from '@guestdma/node'
import { FeatureSet } from '@guestdma/spec'
import { decodeRequest, encodeAnswer, type Message } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import * as messages from '../protocol/messages.ts'
import { IOTLB_INVALIDATE, IOTLB_UPDATE, MAX_CONFIG, NONE } from '../protocol/payload.ts'
import { IotlbPort } from './iotlb-port.ts'
import { RequestChannel } from './request-channel.ts'
import { ServedDevice, type Step } from './served-device.ts'

export interface SessionOptions {
  readonly device: VirtioDevice
  readonly port: BusWindows | IotlbPort
  /** Owned from now on. */
  readonly socket: UnixSocket
  /** How long the front end may take to read what is sent to it. */
  readonly deadlineMs: number
  /** How long the front end may take to translate an address. */
  readonly translationMs: number
  /** Something that the front end sent was refused, or something that it passed cannot be used. */
  onFault(error: Error): void
  /** The connection ended. Nothing of it is open or mapped any more. */
  onEnd(cause: Error): void
}

const RECEIVE_BYTES = 4096
/** Messages that are kept while one waits: two for each of 256 queues, and some. */
const MAX_WAITING = 1024
/** Reads that take what a socket holds. */
const CATCH_UP = 64
const DONE = 0
const REFUSED = 1

/** What answers a message: its own payload, or whether it was done. */
type Outcome = Uint8Array<ArrayBuffer> | typeof DONE | typeof REFUSED

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
  private readonly offered: FeatureSet
  private agreed: FeatureSet = FeatureSet.empty
  private channel: RequestChannel | null = null
  private readonly waiting: Message[] = []
  /** The message that has to wait. */
  private unfinished: Work | null = null
  private configChanged = false
  /** The device is at work. */
  private working = false
  private cause: Error | null = null

  /** Throws NodeError; `socket` is closed then. */
  constructor(options: SessionOptions) {
    const { device, port, socket, onFault } = options
    this.options = options
    this.name = device.name
    this.served = new ServedDevice(device, port, onFault)
    this.reader = new MessageReader({
      part: this.name,
      types: messages.FRONT_END_MESSAGES,
      answers: false,
      close: closeSync,
    })
    this.offered = FeatureSet.of(
      messages.PROTOCOL_F_MQ,
      messages.PROTOCOL_F_REPLY_ACK,
      messages.PROTOCOL_F_BACKEND_REQ,
      messages.PROTOCOL_F_STATUS,
      ...(device.config.bytes.length > 0 ? [messages.PROTOCOL_F_CONFIG] : []),
    )
    try {
      this.watch = watchReadable(socket.fd, () => this.receive())
    } catch (error) {
      socket.close()
      throw error
    }
    if (port instanceof IotlbPort) port.onMiss = (iova, access) => this.channel?.ask(iova, access) === true
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
      this.channel?.turned()
      this.proceed()
    })
    this.working = false
  }

  /** Ends the connection. May be called again. */
  end(cause: Error): void {
    if (this.cause !== null) return
    this.cause = cause
    this.watch.close()
    this.channel?.close()
    // Where the device is in the middle of something, its memory stays until that is over.
    if (this.working) setImmediate(() => this.tearDown(cause))
    else this.tearDown(cause)
  }

  // A front end that does not take it has a channel of which nobody knows where the next message begins.
  private tellConfigChange(): void {
    try {
      this.channel?.tellConfigChange()
    } catch (error) {
      this.channel?.close()
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
        step ??= this.begin(message)
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
      if (!(error instanceof VhostUserError) || answered || !this.mustAnswer(message)) throw error
      onFault(error)
      this.answer(message, REFUSED)
      return true
    }
  }

  private mustAnswer({ needsAnswer }: Message): boolean {
    return needsAnswer && this.agreed.has(messages.PROTOCOL_F_REPLY_ACK)
  }

  private answer(message: Message, outcome: Outcome): void {
    const { socket, deadlineMs } = this.options
    const type = messages.FRONT_END_MESSAGES.get(message.request) as messages.MessageType<unknown, number>
    if (typeof outcome !== 'number') socket.send(outcome, [], deadlineMs)
    else if (this.mustAnswer(message)) socket.send(encodeAnswer(type, outcome), [], deadlineMs)
  }

  private begin(message: Message): Step<Outcome> {
    const { served } = this
    const [descriptor] = message.descriptors
    const read = <Request>(type: messages.MessageType<Request, unknown>): Request => {
      try {
        return decodeRequest(this.name, type, message)
      } catch (error) {
        closeAll(message)
        throw error
      }
    }
    const now = (act: () => void): Step<Outcome> => {
      act()
      return () => DONE
    }
    const done =
      (step: Step<true>): Step<Outcome> =>
      () =>
        step() === null ? null : DONE
    const reply = <Answer>(type: messages.MessageType<unknown, Answer>, answer: Answer): Step<Outcome> => {
      const bytes = encodeAnswer(type, answer)
      return () => bytes
    }
    switch (message.request) {
      case messages.GET_FEATURES.request:
        return reply(messages.GET_FEATURES, served.features)
      case messages.SET_FEATURES.request:
        return now(() => served.setFeatures(read(messages.SET_FEATURES)))
      case messages.GET_PROTOCOL_FEATURES.request:
        return reply(messages.GET_PROTOCOL_FEATURES, this.offered)
      case messages.SET_PROTOCOL_FEATURES.request:
        return now(() => this.agreeProtocol(read(messages.SET_PROTOCOL_FEATURES)))
      case messages.GET_QUEUE_NUM.request:
        return reply(messages.GET_QUEUE_NUM, served.queues)
      case messages.GET_STATUS.request:
        return reply(messages.GET_STATUS, served.status)
      case messages.SET_STATUS.request:
        return done(served.setStatus(read(messages.SET_STATUS)))
      case messages.SET_MEM_TABLE.request:
        return done(served.setMemory(read(messages.SET_MEM_TABLE), message.descriptors))
      case messages.SET_VRING_NUM.request:
        return now(() => served.setSize(read(messages.SET_VRING_NUM)))
      case messages.SET_VRING_BASE.request:
        return now(() => served.setBase(read(messages.SET_VRING_BASE)))
      case messages.SET_VRING_ADDR.request:
        return now(() => served.setAddress(read(messages.SET_VRING_ADDR)))
      case messages.SET_VRING_KICK.request:
        return now(() => served.setKick(read(messages.SET_VRING_KICK) & ~messages.VRING_NO_DESCRIPTOR, descriptor))
      case messages.SET_VRING_CALL.request:
        return now(() => served.setCall(read(messages.SET_VRING_CALL) & ~messages.VRING_NO_DESCRIPTOR, descriptor))
      case messages.SET_VRING_ERR.request:
        return now(() => served.setError(read(messages.SET_VRING_ERR) & ~messages.VRING_NO_DESCRIPTOR, descriptor))
      case messages.SET_VRING_ENABLE.request:
        return done(served.setEnabled(read(messages.SET_VRING_ENABLE)))
      case messages.GET_VRING_BASE.request: {
        const step = served.stop(read(messages.GET_VRING_BASE).index)
        return () => {
          const state = step()
          return state === null ? null : encodeAnswer(messages.GET_VRING_BASE, state)
        }
      }
      case messages.GET_CONFIG.request: {
        const config = served.readConfig(read(messages.GET_CONFIG), MAX_CONFIG)
        // An answer without payload refuses.
        return config === null
          ? reply({ ...messages.GET_CONFIG, answer: NONE }, null)
          : reply(messages.GET_CONFIG, config)
      }
      case messages.SET_CONFIG.request: {
        // The guest's own write: whatever it is, the connection goes on.
        const outcome = served.writeConfig(read(messages.SET_CONFIG)) ? DONE : REFUSED
        return () => outcome
      }
      case messages.SET_BACKEND_REQ_FD.request:
        return now(() => this.openChannel(descriptor))
      case messages.IOTLB_MSG.request:
        return this.translate(message)
      default:
        // SET_OWNER and RESET_OWNER.
        return now(() => {})
    }
  }

  private agreeProtocol(features: FeatureSet): void {
    if (!features.isSubsetOf(this.offered)) {
      const text = `the front end chose the protocol features ${features}, of which ${this.offered} are offered`
      throw new VhostUserError('VHOST_FEATURES_REFUSED', this.name, text, { features: features.bits() })
    }
    this.agreed = features
  }

  private openChannel(descriptor: number): void {
    const { deadlineMs, onFault, port, translationMs } = this.options
    this.channel?.close()
    this.channel = new RequestChannel({
      name: this.name,
      descriptor,
      answers: this.agreed.has(messages.PROTOCOL_F_REPLY_ACK),
      deadlineMs,
      translationMs,
      has: (iova, access) => port instanceof IotlbPort && port.has(iova, access),
      catchUp: () => this.catchUp(),
      onAnswer: () => this.served.retry(),
      onFault,
    })
  }

  // Takes what was sent before now.
  private catchUp(): void {
    const { fd } = this.options.socket
    for (let i = 0; i < CATCH_UP && this.cause === null && waitReadable([fd], 0).length > 0; i++) this.receive()
  }

  private translate(message: Message): Step<Outcome> {
    const { port } = this.options
    const { type, iova, length, user, permission } = decodeRequest(this.name, messages.IOTLB_MSG, message)
    let done = false
    if (port instanceof IotlbPort && type === IOTLB_UPDATE) {
      done = port.update(iova, length, user, permission)
      if (this.channel?.updated(iova, length) === true) this.served.retry()
    }
    if (port instanceof IotlbPort && type === IOTLB_INVALIDATE) {
      port.invalidate(iova, length)
      done = true
    }
    return () => (done ? DONE : REFUSED)
  }
}

function closeAll({ descriptors }: Message): void {
  for (const descriptor of descriptors) closeSync(descriptor)
}
