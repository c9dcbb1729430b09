import { EventFd, UnixSocket } from '@guestdma/node'
import {
  FeatureSet,
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import {
  type ConfigReader,
  deadlineMsOf,
  type QueueAreas,
  TransportError,
  type VirtioTransport,
} from '@guestdma/transport'
import { VhostUserError } from '../protocol/errors.ts'
import * as messages from '../protocol/messages.ts'
import type { IotlbMessage } from '../protocol/payload.ts'
import { BackEndRequests } from './back-end-requests.ts'
import { ConfigBytes } from './config-bytes.ts'
import { Connection } from './connection.ts'
import { shakeHands } from './handshake.ts'
import { MemoryTable } from './memory-table.ts'
import { type CheckedOptions, checkOptions, type VhostUserOptions } from './options.ts'

/**
 * Bits that are vhost's own, those that a doorbell which carries no data cannot have, and SUSPEND, for which the protocol
 * has no message.
 */
const HIDDEN = FeatureSet.of(
  messages.VHOST_F_LOG_ALL,
  messages.VHOST_USER_F_PROTOCOL_FEATURES,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_SUSPEND,
)
const PROTOCOL = FeatureSet.of(messages.VHOST_USER_F_PROTOCOL_FEATURES)

/** Where a queue begins: both positions 0, and in a packed ring both wrap counters 1. */
const SPLIT_START = 0
const PACKED_START = 0x8000_8000

/** How often a live device is asked for its status at most: a question takes a turn of the back end's process. */
const STATUS_INTERVAL_MS = 100
/** A driver that spins asks every few microseconds, and a look costs calls of the system. */
const LOOK_INTERVAL_MS = 1
/** Where the back end may be waiting for a translation. */
const MISS_INTERVAL_MS = 0.02

interface RunningQueue {
  readonly kick: EventFd
  readonly call: EventFd
  readonly error: EventFd
}

/**
 * A virtio device that another process serves, over a socket and shared memory: the front end of vhost-user (QEMU's
 * docs/interop/vhost-user.rst). The back end reaches the windows that it is given, and the boundary between the
 * processes holds it to that. Linux only.
 *
 * Set-up, reset, status and configuration are messages, for whose answers the thread blocks. The data path is two
 * eventfds for each queue. Wait for {@link descriptors} by `waitReadable`, then call the driver's `interrupt()`.
 *
 * After the connection is lost, connect again with the same options and make another driver. Requests that were in
 * flight have failed with that of the old one.
 */
export class VhostUserTransport implements VirtioTransport, Disposable {
  readonly name: string
  readonly kind = 'vhost-user'
  readonly deviceId: number
  readonly transitional = false
  /** What was agreed of the protocol itself (vhost-user, "Protocol features"). */
  readonly protocolFeatures: FeatureSet
  /** For a domain: the connection and what was given. */
  readonly connection: Connection
  readonly table: MemoryTable
  /** For a domain: answers what the back end asks of its translation. Returns whether it was done. */
  onIotlb: (message: IotlbMessage) => boolean = () => false
  /** See {@link backEndEnded}. */
  ended = false

  private readonly options: CheckedOptions
  private readonly offered: FeatureSet
  private readonly queues = new Map<number, RunningQueue>()
  private readonly config: ConfigBytes | null
  private status = 0
  private asked = Number.NEGATIVE_INFINITY
  private looked = Number.NEGATIVE_INFINITY
  private packed = false
  private translated = false
  private tableSent = false
  private configChanged = false
  private needsReset = false

  private constructor(options: CheckedOptions, table: MemoryTable, connection: Connection) {
    this.options = options
    this.name = options.name
    this.deviceId = options.deviceId
    this.config = options.config === null ? null : new ConfigBytes(options.name, options.config.slice())
    this.table = table
    this.connection = connection
    const { offered, protocolFeatures } = shakeHands(connection, options)
    this.offered = offered
    this.protocolFeatures = protocolFeatures
    if (this.agreed(messages.PROTOCOL_F_BACKEND_REQ)) this.openChannel()
  }

  /**
   * Connects to the socket at which a back end listens. Where nobody listens yet it tries until the deadline of `wait`.
   *
   * @throws VhostUserError `VHOST_OPTION`, `VHOST_MEMORY`, `VHOST_FEATURES`, `VHOST_QUEUES`, `VHOST_REFUSED`;
   *   NodeError; TransportLostError; TransportError `TRANSPORT_WAIT`
   *
   * @example
   * const transport = VhostUserTransport.connect(path, {
   *   name: 'disk0', deviceId: 2, queues: 1, memory: [{ memory: pool, device: 0x1_0000_0000 }],
   * })
   */
  static connect(path: string, options: VhostUserOptions): VhostUserTransport {
    const checked = checkOptions(options)
    const table = new MemoryTable(checked.name, checked.memory)
    const deadlineMs = deadlineMsOf(checked.name, checked.wait)
    return VhostUserTransport.open(UnixSocket.connect(path, { deadlineMs }), checked, table)
  }

  /** As {@link connect}, over a socket that is connected already. The transport owns it, and closes it if this throws. */
  static over(socket: UnixSocket, options: VhostUserOptions): VhostUserTransport {
    try {
      const checked = checkOptions(options)
      return VhostUserTransport.open(socket, checked, new MemoryTable(checked.name, checked.memory))
    } catch (error) {
      socket.close()
      throw error
    }
  }

  private static open(socket: UnixSocket, options: CheckedOptions, table: MemoryTable): VhostUserTransport {
    const connection = new Connection(options.name, socket, options.wait)
    try {
      return new VhostUserTransport(options, table, connection)
    } catch (error) {
      connection.close()
      throw error
    }
  }

  /** What to wait for: interrupts of the queues, messages, and the end of the connection. Empty once it is lost. */
  get descriptors(): number[] {
    const { descriptors } = this.connection
    const events = [...this.queues.values()].flatMap(({ call, error }) => [call.fd, error.fd])
    return descriptors.length === 0 ? [] : [...descriptors, ...events]
  }

  readStatus(): number {
    const now = performance.now()
    const live = (this.status & STATUS_DRIVER_OK) !== 0
    if (!live || now - this.looked >= (this.translated ? MISS_INTERVAL_MS : LOOK_INTERVAL_MS)) {
      this.looked = now
      this.look()
    }
    if (this.agreed(messages.PROTOCOL_F_STATUS) && !(live && now - this.asked < STATUS_INTERVAL_MS)) {
      this.asked = now
      this.status = this.connection.ask(messages.GET_STATUS, null) & 0xff
    }
    return this.needsReset ? this.status | STATUS_DEVICE_NEEDS_RESET : this.status
  }

  writeStatus(status: number): void {
    this.connection.requireAlive()
    if (status === 0) for (const index of this.queues.keys()) this.stop(index)
    if (this.agreed(messages.PROTOCOL_F_STATUS)) this.connection.tell(messages.SET_STATUS, status)
    // Back ends ask for the table before the first address that lies in it, be it of a ring or of a translation.
    if ((status & STATUS_FEATURES_OK) !== 0 && !this.tableSent) {
      this.connection.tell(messages.SET_MEM_TABLE, this.table.regions, this.table.descriptors)
      this.tableSent = true
    }
    this.status = status
    if (status === 0) this.needsReset = false
  }

  readFeatures(): FeatureSet {
    this.connection.requireAlive()
    const hidden = this.options.iotlb ? HIDDEN : HIDDEN.or(FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM))
    return this.offered.without(hidden).or(this.options.ownFeatures)
  }

  writeFeatures(features: FeatureSet): void {
    const onlyOurs = this.options.ownFeatures.without(this.offered)
    const theirs = features.without(onlyOurs).or(this.offered.and(PROTOCOL))
    try {
      this.connection.tell(messages.SET_FEATURES, theirs)
    } catch (error) {
      if (!(error instanceof VhostUserError)) throw error
      const text = `the back end refused the features ${features}`
      throw new TransportError('TRANSPORT_FEATURES', this.name, text, { features: features.bits() }, { cause: error })
    }
    this.packed = features.has(VIRTIO_F_RING_PACKED)
    this.translated = features.has(VIRTIO_F_ACCESS_PLATFORM)
  }

  maxQueueSize(index: number): number {
    this.connection.requireAlive()
    return index < this.options.queues ? this.options.maxQueueSize : 0
  }

  /**
   * Throws `TRANSPORT_QUEUE_SIZE`, `TRANSPORT_QUEUE_BUSY`; VhostUserError `VHOST_MEMORY` for rings outside of the
   * memory that was given, `VHOST_REFUSED`; NodeError where there is no descriptor left.
   */
  enableQueue(index: number, size: number, areas: QueueAreas): void {
    const max = this.maxQueueSize(index)
    if (size > max) {
      const text = `queue ${index} of ${size} entries: the device allows ${max}`
      throw new TransportError('TRANSPORT_QUEUE_SIZE', this.name, text, { index, size, max })
    }
    if (this.queues.has(index)) {
      const text = `queue ${index} is in use already; reset the device first`
      throw new TransportError('TRANSPORT_QUEUE_BUSY', this.name, text, { index })
    }
    const address = {
      index,
      flags: 0,
      descriptor: this.ringAddress(index, areas.descriptor),
      used: this.ringAddress(index, areas.device),
      available: this.ringAddress(index, areas.driver),
      log: 0,
    }
    const queue = { kick: EventFd.create(), call: EventFd.create(), error: EventFd.create() }
    this.queues.set(index, queue)
    const { connection } = this
    connection.tell(messages.SET_VRING_NUM, { index, num: size })
    connection.tell(messages.SET_VRING_BASE, { index, num: this.packed ? PACKED_START : SPLIT_START })
    connection.tell(messages.SET_VRING_ADDR, address)
    connection.tell(messages.SET_VRING_ERR, index, [queue.error.fd])
    connection.tell(messages.SET_VRING_CALL, index, [queue.call.fd])
    connection.tell(messages.SET_VRING_KICK, index, [queue.kick.fd])
    this.switchQueue(index, 1)
  }

  resetQueue(index: number): void {
    this.connection.requireAlive()
    if (this.queues.has(index)) this.stop(index)
  }

  queueResetDone(index: number): boolean {
    this.connection.requireAlive()
    return !this.queues.has(index)
  }

  notify(index: number, _position: number): void {
    this.connection.requireAlive()
    this.queues.get(index)?.kick.signal()
  }

  /** Throws VhostUserError `VHOST_CONFIG`; TransportError `TRANSPORT_CONFIG_RANGE` for a field that is not there. */
  readConfig<T>(read: (config: ConfigReader) => T): T {
    this.connection.requireAlive()
    return read(this.config ?? this.configOfBackEnd())
  }

  /** Throws VhostUserError `VHOST_REFUSED`; TransportError `TRANSPORT_CONFIG_RANGE` where the front end has it. */
  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.connection.requireAlive()
    if (this.config !== null) {
      this.config.write(offset, size, value)
      return
    }
    const bytes = new Uint8Array(new Uint32Array([value]).buffer, 0, size)
    this.connection.tell(messages.SET_CONFIG, { offset, flags: 0, bytes })
  }

  takeInterrupts(): number {
    this.connection.requireAlive()
    let cause = 0
    for (const { call } of this.queues.values()) if (call.take() > 0) cause |= INTERRUPT_USED_BUFFER
    // Whoever was woken for no used buffer was woken for something rarer.
    if (cause === 0) this.look()
    if (this.configChanged) cause |= INTERRUPT_CONFIGURATION
    this.configChanged = false
    return cause
  }

  /**
   * To be called once the back end's process is known to have ended: it reaches nothing any more, so that a domain lets
   * go of all memory. What it shared was only lent to that process. Closes the connection.
   */
  backEndEnded(): void {
    this.ended = true
    this.close()
  }

  /** Closes the connection. The back end may go on reaching memory until its process notices. May be called again. */
  close(): void {
    this.connection.close()
    for (const { kick, call, error } of this.queues.values()) for (const event of [kick, call, error]) event.close()
    this.queues.clear()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  private agreed(feature: number): boolean {
    return this.protocolFeatures.has(feature)
  }

  // Messages, the end of the connection, and errors of queues. A device that needs a reset says so by a change of its
  // configuration (virtio 1.4 §2.1.2).
  private look(): void {
    this.connection.check()
    for (const { error } of this.queues.values()) {
      if (error.take() > 0) this.needsReset = this.configChanged = true
    }
  }

  private openChannel(): void {
    const [ours, theirs] = UnixSocket.pair()
    this.connection.requests = new BackEndRequests({
      name: this.name,
      socket: ours,
      onIotlb: (message) => this.onIotlb(message),
      onConfigChange: () => {
        this.configChanged = true
      },
    })
    try {
      this.connection.tell(messages.SET_BACKEND_REQ_FD, null, [theirs.fd])
    } finally {
      theirs.close()
    }
  }

  // Ring addresses are user addresses, or I/O virtual ones where the back end asks for translations.
  private ringAddress(index: number, device: number): number {
    if (this.translated) return device
    const user = this.table.userOf(device, 1)
    if (user !== 0) return user
    const text = `queue ${index} has a ring at ${device}, which lies in none of the windows that were given`
    throw new VhostUserError('VHOST_MEMORY', this.name, text, { index, device })
  }

  // GET_VRING_BASE stops the queue: the answer comes once the back end touches it no more ("Ring states").
  private stop(index: number): void {
    this.switchQueue(index, 0)
    this.connection.ask(messages.GET_VRING_BASE, { index, num: 0 })
    const { kick, call, error } = this.queues.get(index) as RunningQueue
    for (const event of [kick, call, error]) event.close()
    this.queues.delete(index)
  }

  private switchQueue(index: number, on: 0 | 1): void {
    if (this.offered.has(messages.VHOST_USER_F_PROTOCOL_FEATURES))
      this.connection.tell(messages.SET_VRING_ENABLE, { index, num: on })
  }

  private configOfBackEnd(): ConfigBytes {
    const { configLength } = this.options
    const request = { offset: 0, flags: 0, bytes: new Uint8Array(configLength) }
    const { bytes } = this.connection.ask(messages.GET_CONFIG, request)
    if (bytes.length === configLength) return new ConfigBytes(this.name, bytes)
    const text = `the back end gave ${bytes.length} of the ${configLength} bytes of configuration that were asked for`
    throw new VhostUserError('VHOST_CONFIG', this.name, text, { bytes: bytes.length, configLength })
  }
}
