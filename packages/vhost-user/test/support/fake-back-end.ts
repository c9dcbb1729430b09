import { closeSync, readSync, writeSync } from 'node:fs'
import { EventFd, UnixSocket, waitReadable } from '@guestdma/node'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { decodeRequest, encodeAnswer, encodeRequest, type Message } from '../../src/protocol/codec.ts'
import { MessageReader } from '../../src/protocol/message-reader.ts'
import * as messages from '../../src/protocol/messages.ts'
import type { IotlbMessage, MemoryRegion, VringAddress } from '../../src/protocol/payload.ts'

const { FRONT_END_MESSAGES } = messages

/** A back end without a device: it answers as it is told to, within the waits of the front end. */
export class FakeBackEnd {
  /** The front end's socket. */
  readonly theirs: UnixSocket
  offered: FeatureSet = FeatureSet.of(
    messages.VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_F_ACCESS_PLATFORM,
  )
  protocol: FeatureSet = FeatureSet.of(
    messages.PROTOCOL_F_MQ,
    messages.PROTOCOL_F_REPLY_ACK,
    messages.PROTOCOL_F_BACKEND_REQ,
    messages.PROTOCOL_F_CONFIG,
    messages.PROTOCOL_F_STATUS,
  )
  queueNum = 1
  config: Uint8Array = new Uint8Array(36)
  status = 0
  /** Requests that are answered with an error. */
  readonly refused = new Set<number>()
  /** Requests that are answered with these bytes instead, or not at all. */
  readonly answers = new Map<number, Uint8Array | null>()
  /** Called at each request, before it is answered. */
  onRequest: (name: string) => void = () => {}

  /** Names of all requests, in order. */
  readonly requests: string[] = []
  features: FeatureSet = FeatureSet.empty
  table: readonly MemoryRegion[] = []
  tableDescriptors = 0
  address: VringAddress | null = null
  readonly iotlb: IotlbMessage[] = []
  kick: EventFd | null = null
  call: EventFd | null = null
  error: EventFd | null = null
  base = -1
  /** The request channel's descriptor. */
  channel = -1

  readonly socket: UnixSocket
  private readonly reader = new MessageReader({
    part: 'fake',
    types: FRONT_END_MESSAGES,
    answers: false,
    close: closeSync,
  })

  constructor() {
    ;[this.socket, this.theirs] = UnixSocket.pair()
  }

  /** To be called while the front end waits. */
  readonly pump = (): void => {
    while (this.socket.fd >= 0 && waitReadable([this.socket.fd], 0).length > 0) {
      const { bytes, fds } = this.socket.receive(4096, 0)
      if (bytes.length === 0) this.close()
      else this.reader.push(bytes, fds)
      for (let message = this.reader.next(); message !== null; message = this.reader.next()) this.serve(message)
    }
  }

  /** Asks the front end over the channel. Returns what it answers. */
  ask(message: IotlbMessage | 'config-change', serve: () => void): number {
    const bytes =
      message === 'config-change'
        ? encodeRequest(messages.BACKEND_CONFIG_CHANGE_MSG, null, true)
        : encodeRequest(messages.BACKEND_IOTLB_MSG, message, true)
    writeSync(this.channel, bytes)
    serve()
    const answer = new Uint8Array(20)
    readSync(this.channel, answer)
    return answer[12]
  }

  close(): void {
    this.reader.dispose()
    this.socket.close()
    for (const event of [this.kick, this.call, this.error]) event?.close()
    if (this.channel >= 0) closeSync(this.channel)
    this.channel = -1
  }

  private serve(message: Message): void {
    const type = FRONT_END_MESSAGES.get(message.request) as messages.AnyMessageType
    this.requests.push(type.name)
    this.onRequest(type.name)
    if (this.socket.fd < 0) return
    const value = decodeRequest('fake', type, message)
    this.take(type, value, message.descriptors)
    const bytes = this.answers.get(type.request)
    if (bytes === null) return
    if (bytes !== undefined) this.socket.send(bytes)
    else if (type.answered) this.socket.send(encodeAnswer(type, this.answerTo(type, value)))
    else if (message.needsAnswer) this.socket.send(encodeAnswer(type, this.refused.has(type.request) ? 1 : 0))
  }

  private take(type: messages.AnyMessageType, value: unknown, descriptors: readonly number[]): void {
    if (type === messages.SET_FEATURES) this.features = value as FeatureSet
    else if (type === messages.SET_STATUS) this.status = value as number
    else if (type === messages.SET_VRING_ADDR) this.address = value as VringAddress
    else if (type === messages.SET_VRING_BASE) this.base = (value as { num: number }).num
    else if (type === messages.IOTLB_MSG) this.iotlb.push(value as IotlbMessage)
    else if (type === messages.SET_MEM_TABLE) {
      this.table = value as MemoryRegion[]
      this.tableDescriptors = descriptors.length
      for (const descriptor of descriptors) closeSync(descriptor)
    } else if (type === messages.SET_VRING_KICK) this.kick = EventFd.from(descriptors[0])
    else if (type === messages.SET_VRING_CALL) this.call = EventFd.from(descriptors[0])
    else if (type === messages.SET_VRING_ERR) this.error = EventFd.from(descriptors[0])
    else if (type === messages.SET_BACKEND_REQ_FD) this.channel = descriptors[0]
  }

  private answerTo(type: messages.AnyMessageType, value: unknown): unknown {
    if (type === messages.GET_FEATURES) return this.offered
    if (type === messages.GET_PROTOCOL_FEATURES) return this.protocol
    if (type === messages.GET_QUEUE_NUM) return this.queueNum
    if (type === messages.GET_STATUS) return this.status
    if (type === messages.GET_CONFIG) return { offset: 0, flags: 0, bytes: this.config }
    return value
  }
}
