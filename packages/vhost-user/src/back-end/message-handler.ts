import { closeSync } from 'node:fs'
import type { BusWindows, VirtioDevice } from '@guestdma/devices'
import { FeatureSet } from '@guestdma/spec'
import { decodeRequest, encodeAnswer, type Message } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import * as messages from '../protocol/messages.ts'
import { IOTLB_INVALIDATE, IOTLB_UPDATE, MAX_CONFIG, NONE } from '../protocol/payload.ts'
import { IotlbPort } from './iotlb-port.ts'
import { RequestChannel } from './request-channel.ts'
import { ServedDevice, type Step } from './served-device.ts'

export interface MessageHandlerOptions {
  readonly device: VirtioDevice
  readonly port: BusWindows | IotlbPort
  /** How long the front end may take to read what is sent to it. */
  readonly deadlineMs: number
  /** How long the front end may take to translate an address. */
  readonly translationMs: number
  /** Takes what the front end has sent already. */
  catchUp(): void
  /** Something that the front end sent was refused, or something that it passed cannot be used. */
  onFault(error: Error): void
}

const DONE = 0
export const REFUSED = 1

/** What answers a message: its own payload, or whether it was done. */
export type Outcome = Uint8Array<ArrayBuffer> | typeof DONE | typeof REFUSED

/** What each message of a front end does, and the channel for what this end asks for. */
export class MessageHandler {
  /** What the messages make of the device. */
  readonly served: ServedDevice
  channel: RequestChannel | null = null
  private readonly options: MessageHandlerOptions
  private readonly name: string
  private readonly offered: FeatureSet
  private agreed: FeatureSet = FeatureSet.empty

  constructor(options: MessageHandlerOptions) {
    const { device, port, onFault } = options
    this.options = options
    this.name = device.name
    this.served = new ServedDevice(device, port, onFault)
    this.offered = FeatureSet.of(
      messages.PROTOCOL_F_MQ,
      messages.PROTOCOL_F_REPLY_ACK,
      messages.PROTOCOL_F_BACKEND_REQ,
      messages.PROTOCOL_F_STATUS,
      ...(device.config.bytes.length > 0 ? [messages.PROTOCOL_F_CONFIG] : []),
    )
  }

  /** Does the front end wait for the answer to a message that has none of its own? */
  mustAnswer({ needsAnswer }: Message): boolean {
    return needsAnswer && this.agreed.has(messages.PROTOCOL_F_REPLY_ACK)
  }

  /**
   * Begins with a message. It owns the descriptors that came along.
   *
   * @throws VhostUserError, also by the step
   */
  begin(message: Message): Step<Outcome> {
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
    const { catchUp, deadlineMs, onFault, port, translationMs } = this.options
    this.channel?.close()
    this.channel = new RequestChannel({
      name: this.name,
      descriptor,
      answers: this.agreed.has(messages.PROTOCOL_F_REPLY_ACK),
      deadlineMs,
      translationMs,
      has: (iova, access) => port instanceof IotlbPort && port.has(iova, access),
      catchUp,
      onAnswer: () => this.served.retry(),
      onFault,
    })
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

/** Closes what came with a message that is not taken. */
export function closeAll({ descriptors }: Message): void {
  for (const descriptor of descriptors) closeSync(descriptor)
}
