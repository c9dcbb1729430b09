import { closeSync } from 'node:fs'
import type { BusWindows, VirtioDevice } from '@guestdma/devices'
import { type UnixSocket, waitReadable } from '@guestdma/node'
import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
} from '@guestdma/spec'
import { decodeRequest, encodeAnswer, type Message } from '../protocol/codec.ts'
import { MessageReader } from '../protocol/message-reader.ts'
import * as messages from '../protocol/messages.ts'
import type { ConfigSpace } from '../protocol/payload.ts'
import { GuestWindows } from './guest-windows.ts'
import { ServedQueue } from './served-queue.ts'

export interface VhostUserBackEndOptions {
  /** Without a transport: this is it. */
  readonly device: VirtioDevice
  /** The device's port. Filled with what the front end gives, and emptied when it is gone. */
  readonly port: BusWindows
}

const PROTOCOL = FeatureSet.of(messages.PROTOCOL_F_MQ, messages.PROTOCOL_F_REPLY_ACK, messages.PROTOCOL_F_CONFIG)
const PROTOCOL_BIT = FeatureSet.of(messages.VHOST_USER_F_PROTOCOL_FEATURES)
const VHOST_BITS = FeatureSet.of(messages.VHOST_F_LOG_ALL, messages.VHOST_USER_F_PROTOCOL_FEATURES)
/** Nobody translates addresses here, doorbells carry no data, and queues are stopped and not reset. */
const HIDDEN = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_RESET)
const KNOWN = STATUS_ACKNOWLEDGE | STATUS_DRIVER

const RECEIVE_BYTES = 4096
const DONE = 0
const REFUSED = 1

/** Does what a message asks for. Undefined: not yet; it is called again at the next poll. */
type Handler<Request, Answer> = (value: Request, descriptors: readonly number[]) => Answer | undefined

/**
 * Serves a device model to a front end in another process: QEMU, with any guest in it, say. One front end after
 * another, each over a connection of its own. Linux only.
 *
 * It works in {@link poll} and nowhere else. Whoever owns the loop sleeps by `waitReadable` on {@link descriptors}, as
 * long as `onWork` of the device says nothing.
 *
 * A front end that breaks the protocol loses its connection, and {@link lost} says why. A queue that it stops loses
 * nothing: what was taken is completed before the answer.
 *
 * @example
 * const backEnd = new VhostUserBackEnd({ device: disk, port })
 * backEnd.serve(listener.accept(10_000))
 * for (;;) if (backEnd.poll(64) === 0) waitReadable(backEnd.descriptors, 100)
 */
export class VhostUserBackEnd implements Disposable {
  readonly device: VirtioDevice
  /** Why the last connection ended; `null` while there is one, and where this end closed it. */
  lost: Error | null = null
  private readonly port: BusWindows
  private readonly queues: readonly ServedQueue[]
  private readonly handlers = new Map<number, Handler<unknown, unknown>>()
  private readonly called = new Set<number>()
  private socket: UnixSocket | null = null
  private reader: MessageReader | null = null
  private memory: GuestWindows | null = null
  private protocolFeatures = false
  /** A message that waits for requests in flight. Those behind it wait as well. */
  private waiting: Message | null = null

  /** @throws DeviceError `DEVICE_OPTION` where the device has a transport already */
  constructor({ device, port }: VhostUserBackEndOptions) {
    this.device = device
    this.port = port
    this.queues = device.queues.map(({ index }) => new ServedQueue(device, index))
    device.attachTransport({
      usedBuffers: (index) => void this.called.add(index),
      configurationChanged: () => {},
      settle: () => this.settle(),
      reset: () => this.called.clear(),
    })
    this.handleDevice()
    this.handleQueues()
  }

  /** Begins to serve a connection, which is owned from now on. One that was served before is closed. */
  serve(socket: UnixSocket): void {
    this.close()
    this.lost = null
    this.socket = socket
    const part = `${this.device.name} front end`
    this.reader = new MessageReader({ part, types: messages.FRONT_END_MESSAGES, answers: false, close: closeSync })
  }

  /** What to wait for: messages and doorbells. Empty where nobody is connected. */
  get descriptors(): number[] {
    const kicks = this.queues.flatMap(({ kick, running }) => (kick === null || !running ? [] : [kick.fd]))
    return this.socket === null ? [] : [this.socket.fd, ...kicks]
  }

  /**
   * Takes messages and doorbells, and lets the device work: see `VirtioDevice.poll`. Returns how much was done; after 0
   * the caller may sleep.
   */
  poll(budget: number): number {
    try {
      return this.takeDoorbells() + this.device.poll(budget) + this.receive()
    } catch (error) {
      // Descriptors of the front end's may be no events at all.
      this.close()
      this.lost = error as Error
      return 1
    }
  }

  /** Closes the connection: the device is reset, and reaches nothing. May be called again. */
  close(): void {
    if (this.socket === null) return
    this.socket.close()
    this.reader?.dispose()
    this.socket = this.reader = this.waiting = null
    this.protocolFeatures = false
    this.device.reset()
    for (const queue of this.queues) queue.reset()
    this.setMemory(null)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  private takeDoorbells(): number {
    let rung = 0
    for (const { kick, index, running } of this.queues) {
      if (!running || kick === null || kick.take() === 0) continue
      this.device.notify(this.device.queues[index])
      rung++
    }
    return rung
  }

  private receive(): number {
    const { reader, socket } = this
    if (reader === null || socket === null) return 0
    if (this.waiting === null && waitReadable([socket.fd], 0).length > 0) {
      const { bytes, fds } = socket.receive(RECEIVE_BYTES, 0)
      if (bytes.length === 0) reader.end()
      reader.push(bytes, fds)
    }
    for (let done = 0; ; done++) {
      const message = this.waiting ?? reader.next()
      if (message === null) return done
      this.waiting = null
      if (!this.answer(message, socket)) {
        this.waiting = message
        return done
      }
    }
  }

  private answer(message: Message, socket: UnixSocket): boolean {
    const type = messages.FRONT_END_MESSAGES.get(message.request) as messages.AnyMessageType
    const handler = this.handlers.get(message.request) as Handler<unknown, unknown>
    const result = handler(this.decoded(type, message), message.descriptors)
    if (result === undefined) return false
    if (type.answered || message.needsAnswer) socket.send(encodeAnswer(type, result))
    return true
  }

  private decoded(type: messages.AnyMessageType, message: Message): unknown {
    try {
      return decodeRequest(this.device.name, type, message)
    } catch (error) {
      for (const descriptor of message.descriptors) closeSync(descriptor)
      throw error
    }
  }

  private handle<Request, Answer>(
    { request }: messages.MessageType<Request, Answer>,
    handler: Handler<Request, Answer>,
  ): void {
    this.handlers.set(request, handler as Handler<unknown, unknown>)
  }

  private handleDevice(): void {
    const refuse = (): number => REFUSED
    this.handle(messages.SET_OWNER, () => DONE)
    this.handle(messages.GET_FEATURES, () => this.device.offered.without(HIDDEN).or(PROTOCOL_BIT))
    this.handle(messages.SET_FEATURES, (features) => this.setFeatures(features.without(VHOST_BITS)))
    this.handle(messages.GET_PROTOCOL_FEATURES, () => PROTOCOL)
    this.handle(messages.SET_PROTOCOL_FEATURES, () => {
      this.protocolFeatures = true
      return DONE
    })
    this.handle(messages.GET_QUEUE_NUM, () => this.queues.length)
    this.handle(messages.SET_MEM_TABLE, (regions, descriptors) => {
      this.setMemory(new GuestWindows(this.device.name, regions, descriptors))
      return DONE
    })
    this.handle(messages.GET_CONFIG, (asked) => this.readConfig(asked))
    this.handle(messages.SET_CONFIG, ({ offset, bytes }) => {
      const written = bytes.every((byte, i) => this.device.writeConfig(offset + i, 1, byte))
      return written ? DONE : REFUSED
    })
    // Of protocol features that are not offered.
    this.handle(messages.IOTLB_MSG, refuse)
    this.handle(messages.SET_STATUS, refuse)
    this.handle(messages.GET_STATUS, () => this.device.status)
    this.handle(messages.SET_BACKEND_REQ_FD, (_, [descriptor]) => {
      closeSync(descriptor)
      return REFUSED
    })
  }

  private handleQueues(): void {
    const withQueue = (index: number, act: (queue: ServedQueue) => number | undefined): number | undefined =>
      this.queues[index] === undefined ? REFUSED : act(this.queues[index])
    const set = (index: number, change: Partial<Pick<ServedQueue, 'size' | 'base' | 'address'>>): number | undefined =>
      withQueue(index, (queue) => {
        // A ring does not move while the device works on it.
        if (queue.running) return REFUSED
        Object.assign(queue, change)
        return DONE
      })
    const event =
      (which: 'kick' | 'call' | 'error') =>
      (value: number, descriptors: readonly number[]): number | undefined => {
        const queue = this.queues[value & ~messages.VRING_NO_DESCRIPTOR]
        if (queue === undefined) for (const descriptor of descriptors) closeSync(descriptor)
        else queue.setEvent(which, descriptors)
        if (queue === undefined) return REFUSED
        if (which !== 'kick') return DONE
        // Without protocol features a queue is enabled from the start ("Ring states").
        queue.enabled ||= !this.protocolFeatures
        return this.start(queue)
      }
    this.handle(messages.SET_VRING_NUM, ({ index, num }) => set(index, { size: num }))
    this.handle(messages.SET_VRING_ADDR, (address) => set(address.index, { address }))
    this.handle(messages.SET_VRING_BASE, ({ index, num }) => set(index, { base: num & 0xffff }))
    this.handle(messages.SET_VRING_CALL, event('call'))
    this.handle(messages.SET_VRING_ERR, event('error'))
    this.handle(messages.SET_VRING_KICK, event('kick'))
    this.handle(messages.SET_VRING_ENABLE, ({ index, num }) =>
      withQueue(index, (queue) => {
        queue.enabled = num === 1
        if (queue.enabled) return this.start(queue)
        return queue.stop() ? DONE : undefined
      }),
    )
    this.handle(messages.GET_VRING_BASE, ({ index }) => {
      const queue = this.queues[index]
      if (queue === undefined) return { index, num: 0 }
      if (!queue.stop()) return undefined
      queue.setEvent('kick', [])
      return { index, num: queue.base }
    })
  }

  private start(queue: ServedQueue): number {
    if (!queue.start((user) => this.memory?.guestOf(user))) return REFUSED
    const { device } = this
    if (queue.running && (device.status & STATUS_DRIVER_OK) === 0) device.writeStatus(device.status | STATUS_DRIVER_OK)
    return DONE
  }

  // The protocol has no reset: features that are set while no queue runs are those of the next driver.
  private setFeatures(features: FeatureSet): number {
    const { device } = this
    if (this.queues.some(({ running }) => running)) return features.equals(device.negotiated) ? DONE : REFUSED
    device.reset()
    device.writeStatus(KNOWN)
    for (let word = 0; word < 2; word++) device.writeDriverFeatures(word, features.word(word))
    device.writeStatus(KNOWN | STATUS_FEATURES_OK)
    return (device.status & STATUS_FEATURES_OK) === 0 ? REFUSED : DONE
  }

  private setMemory(memory: GuestWindows | null): void {
    const before = this.memory
    this.memory = memory
    try {
      this.port.setWindows(memory?.windows ?? [])
    } finally {
      before?.close()
    }
  }

  private readConfig({ offset, bytes }: ConfigSpace): ConfigSpace {
    const { bytes: config } = this.device.config
    // What is beyond the end of the device's reads as zero: front ends ask for the longest that they know.
    const read = new Uint8Array(bytes.length)
    read.set(config.subarray(offset, offset + bytes.length))
    return { offset, flags: 0, bytes: read }
  }

  private settle(): void {
    for (const index of this.called) this.queues[index].call?.signal()
    this.called.clear()
  }
}
