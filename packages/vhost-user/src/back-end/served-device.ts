import { closeSync } from 'node:fs'
import type { BusWindows, VirtioDevice } from '@guestdma/devices'
import type { BusPort } from '@guestdma/memory'
import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import { VhostUserError } from '../protocol/errors.ts'
import { VHOST_USER_F_PROTOCOL_FEATURES } from '../protocol/messages.ts'
import type { ConfigSpace, MemoryRegion, VringAddress, VringState } from '../protocol/payload.ts'
import { IotlbPort } from './iotlb-port.ts'
import { MappedTable } from './mapped-table.ts'
import { Vring } from './vring.ts'

const FEATURE_WORDS = 2
const KNOWN_DRIVER = STATUS_ACKNOWLEDGE | STATUS_DRIVER
/** An eventfd carries no data, and a front end resets a queue or suspends by itself, of which nothing is told here. */
const HIDDEN = FeatureSet.of(VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND)
const PROTOCOL = FeatureSet.of(VHOST_USER_F_PROTOCOL_FEATURES)

/** Something that may have to wait for requests in flight: `null` while it does. A turn of the device is due then. */
export type Step<T> = () => T | null

/**
 * What one front end makes of a device: its features, its memory, its queues. All methods but those of the connection
 * throw VhostUserError `VHOST_VRING`, `VHOST_TABLE`, `VHOST_FEATURES_REFUSED`, and own the descriptors that they are
 * given.
 */
export class ServedDevice {
  private readonly device: VirtioDevice
  private readonly port: BusWindows | IotlbPort
  private readonly onFault: (error: Error) => void
  private readonly rings: readonly Vring[]
  private table: MappedTable | null = null
  /** The next table, while the device still works on this one. */
  private nextTable: MappedTable | null = null
  private written = 0
  private readonly used = new Set<number>()

  constructor(device: VirtioDevice, port: BusWindows | IotlbPort, onFault: (error: Error) => void) {
    this.device = device
    this.port = port
    this.onFault = onFault
    this.rings = device.queues.map(({ index }) => new Vring(index))
  }

  get queues(): number {
    return this.rings.length
  }

  get features(): FeatureSet {
    return this.device.offered.without(HIDDEN).or(PROTOCOL)
  }

  get broken(): boolean {
    return (this.device.status & STATUS_DEVICE_NEEDS_RESET) !== 0
  }

  /** The device has used buffers of a queue. */
  usedBuffers(queue: number): void {
    this.used.add(queue)
  }

  /** Signals what the device has for its driver. */
  settle(): void {
    for (const queue of this.used) this.attempt(() => this.rings[queue].call?.signal())
    this.used.clear()
  }

  /** Tells the front end by each queue that the device needs a reset. */
  signalErrors(): void {
    for (const ring of this.rings) this.attempt(() => ring.signalError())
  }

  /**
   * A turn of the device begins: it takes up the rings that were started. One of which it is not known yet where it
   * lies is taken up later.
   */
  beginTurn(): void {
    const { device } = this
    const port: BusPort = this.port
    for (const ring of this.rings) {
      if (ring.state !== 'due') continue
      const queue = this.queueOf(ring)
      // In a packed ring nothing in memory says where the used side stands, and nothing is in flight.
      const start = this.packed ? { next: ring.next, used: ring.next } : { next: ring.next }
      if (!device.enableQueue(queue, start)) {
        if (port.pending !== true) ring.state = 'stopped'
        continue
      }
      ring.state = 'running'
      if ((device.status & STATUS_DRIVER_OK) === 0) device.writeStatus(device.status | STATUS_DRIVER_OK)
      // What came before may have been kicked for in vain.
      device.notify(queue)
    }
  }

  /** The front end said more of its addresses: what was left for that is tried again. */
  retry(): void {
    for (const ring of this.rings) if (ring.state === 'running') this.device.notify(this.queueOf(ring))
    this.device.wake()
  }

  setFeatures(chosen: FeatureSet): void {
    const { device, port } = this
    const features = chosen.without(PROTOCOL)
    // Without that bit there are no messages to enable a ring ("Ring states").
    if (!chosen.has(VHOST_USER_F_PROTOCOL_FEATURES)) for (const ring of this.rings) ring.enabled = true
    const agreed = this.agreed && device.negotiated.equals(features)
    // A guest that was stopped goes on where it was.
    if (agreed && !this.broken) return
    const refuse = (why: string): never => {
      const text = `the front end chose the features ${features}: ${why}`
      throw new VhostUserError('VHOST_FEATURES_REFUSED', device.name, text, { features: features.bits() })
    }
    if (!features.and(HIDDEN).equals(FeatureSet.empty)) refuse('some are not offered')
    if (this.rings.some(({ state }) => state !== 'stopped')) refuse('they cannot change while a queue runs')
    const translating = features.has(VIRTIO_F_ACCESS_PLATFORM)
    if (translating && !(port instanceof IotlbPort)) refuse('the port of this device does not ask for translations')
    device.reset()
    device.writeStatus(STATUS_ACKNOWLEDGE)
    device.writeStatus(KNOWN_DRIVER)
    for (let word = 0; word < FEATURE_WORDS; word++) device.writeDriverFeatures(word, features.word(word))
    device.writeStatus(KNOWN_DRIVER | STATUS_FEATURES_OK)
    if (!this.agreed) refuse('the device does not take them, and its faults say why')
    if (port instanceof IotlbPort) port.setTranslating(translating)
  }

  /** The status as the front end wrote it, but for what the device says of itself. */
  get status(): number {
    const refused = this.agreed ? 0 : STATUS_FEATURES_OK
    return (this.written & ~refused) | (this.device.status & STATUS_DEVICE_NEEDS_RESET)
  }

  /**
   * Features are agreed on by {@link setFeatures}, and queues run once they are started, whatever the status says. Zero
   * stops all queues without loss, and nothing else: QEMU writes it also where a guest is stopped that will go on, and
   * asks afterwards where the queues stand.
   */
  setStatus(status: number): Step<true> {
    this.written = status & 0xff
    return () => (status !== 0 || this.rings.every((ring) => this.stopped(ring)) ? true : null)
  }

  /** Queues pause while the memory changes under them. */
  setMemory(regions: readonly MemoryRegion[], descriptors: readonly number[]): Step<true> {
    const next = new MappedTable(this.device.name, regions, descriptors)
    this.nextTable = next
    const running = this.rings.filter(({ state }) => state !== 'stopped')
    return () => {
      if (!running.every((ring) => this.stopped(ring))) return null
      this.port.setWindows(next.windows)
      this.table?.close()
      this.table = next
      this.nextTable = null
      for (const ring of running) this.start(ring)
      return true
    }
  }

  setSize({ index, num }: VringState): void {
    const ring = this.idleRing(index)
    const { maxSize } = this.queueOf(ring)
    if (num >= 1 && num <= maxSize && (this.packed || (num & (num - 1)) === 0)) ring.size = num
    else throw this.error(`queue ${index} of ${num} entries: it may have a power of two to ${maxSize}`, { index, num })
  }

  setBase({ index, num }: VringState): void {
    const ring = this.idleRing(index)
    if (num > 0xffff && !this.packed)
      throw this.error(`queue ${index} is to go on at ${num}, beyond 65535`, { index, num })
    // A packed ring's next available descriptor is in the lower half, and the next used one, the same, in the upper one.
    ring.next = num & 0xffff
  }

  setAddress(address: VringAddress): void {
    const { index, flags } = address
    const ring = this.idleRing(index)
    if (flags !== 0) {
      throw this.error(`queue ${index} has flags ${flags}, and a log of writes was not offered`, { index, flags })
    }
    ring.address = address
  }

  setKick(index: number, descriptor: number | undefined): void {
    const ring = this.eventRing(index, descriptor)
    if (descriptor === undefined) throw this.error(`queue ${index} has no kick, and is not polled`, { index })
    this.event(index, () =>
      ring.setKick(descriptor, () => {
        if (ring.state === 'running') this.device.notify(this.queueOf(ring))
      }),
    )
    this.start(ring)
  }

  setCall(index: number, descriptor: number | undefined): void {
    const ring = this.eventRing(index, descriptor)
    this.event(index, () => ring.setCall(descriptor))
    // What was used before may have been told to nobody.
    if (ring.state === 'running') this.attempt(() => ring.call?.signal())
  }

  setError(index: number, descriptor: number | undefined): void {
    const ring = this.eventRing(index, descriptor)
    this.event(index, () => ring.setError(descriptor))
    if (this.broken) this.attempt(() => ring.signalError())
  }

  /** A ring that is disabled is left alone. */
  setEnabled({ index, num }: VringState): Step<true> {
    const ring = this.ring(index)
    if (num > 1) throw this.error(`queue ${index} is to be enabled by ${num}, which must be 0 or 1`, { index, num })
    ring.enabled = num === 1
    return () => {
      if (ring.enabled) this.start(ring)
      else if (!this.stopped(ring)) return null
      return true
    }
  }

  /** Stops a ring without loss. Says where it stands. */
  stop(index: number): Step<VringState> {
    const ring = this.ring(index)
    return () => {
      if (!this.stopped(ring)) return null
      ring.dropKick()
      return { index, num: this.packed ? ring.next + 2 ** 16 * ring.next : ring.next }
    }
  }

  /**
   * A part of the configuration space; `null` where no message holds it. A front end may know fields of a later version:
   * they are 0, as the device offers none of their features.
   */
  readConfig({ offset, flags, bytes }: ConfigSpace, most: number): ConfigSpace | null {
    if (offset + bytes.length > most) return null
    const found = new Uint8Array(bytes.length)
    found.set(this.device.config.bytes.subarray(offset, offset + bytes.length))
    return { offset, flags, bytes: found }
  }

  /** A guest's write to a field. Returns false where it has no effect. */
  writeConfig({ offset, flags, bytes }: ConfigSpace): boolean {
    const { device } = this
    const width = bytes.length
    if (flags !== 0 || (width !== 1 && width !== 2 && width !== 4) || !device.configWritable) return false
    if (device.config.field(offset, width)?.writable !== true) return false
    const value = bytes.reduceRight((high, byte) => high * 256 + byte, 0)
    return device.writeConfig(offset, width, value)
  }

  /** Resets the device, and closes and unmaps everything that the front end passed. */
  close(): void {
    const { device, port } = this
    device.reset()
    if (port instanceof IotlbPort) port.setTranslating(false)
    port.setWindows([])
    for (const ring of this.rings) ring.close()
    this.table?.close()
    this.nextTable?.close()
  }

  private get packed(): boolean {
    return this.device.negotiated.has(VIRTIO_F_RING_PACKED)
  }

  private get agreed(): boolean {
    return (this.device.status & STATUS_FEATURES_OK) !== 0
  }

  // For one event among others: without it the rest goes on.
  private attempt(step: () => void): void {
    try {
      step()
    } catch (error) {
      this.onFault(error as Error)
    }
  }

  private ring(index: number): Vring {
    const ring = this.rings[index]
    if (ring !== undefined) return ring
    throw this.error(`there is no queue ${index}, the device has ${this.rings.length}`, { index })
  }

  private eventRing(index: number, descriptor: number | undefined): Vring {
    try {
      return this.ring(index)
    } catch (error) {
      if (descriptor !== undefined) closeSync(descriptor)
      throw error
    }
  }

  // Whoever sets an event closes what is none.
  private event(index: number, set: () => void): void {
    try {
      set()
    } catch (cause) {
      throw this.error(`queue ${index} got a descriptor that is no event`, { index }, cause)
    }
  }

  private idleRing(index: number): Vring {
    const ring = this.ring(index)
    if (ring.state !== 'stopped') throw this.error(`queue ${index} runs, so its place cannot change`, { index })
    return ring
  }

  private queueOf({ index }: Vring): VirtioDevice['queues'][number] {
    return this.device.queues[index]
  }

  private error(text: string, details: Readonly<Record<string, unknown>>, cause?: unknown): VhostUserError {
    return new VhostUserError('VHOST_VRING', this.device.name, text, details, { cause })
  }

  // A ring runs once the front end said all of it.
  private start(ring: Vring): void {
    const { address } = ring
    if (ring.state !== 'stopped' || !ring.enabled || !ring.started || address === null || ring.size === 0) return
    if (this.table === null || !this.agreed) return
    const queue = this.queueOf(ring)
    queue.size = ring.size
    for (const [i, at] of this.areasOf(address).entries()) {
      queue.areas[2 * i] = at % 2 ** 32
      queue.areas[2 * i + 1] = Math.floor(at / 2 ** 32)
    }
    ring.state = 'due'
    this.device.wake()
  }

  // Descriptor table, available and used ring.
  private areasOf({ index, descriptor, available, used }: VringAddress): number[] {
    const areas = [descriptor, available, used]
    if (this.device.negotiated.has(VIRTIO_F_ACCESS_PLATFORM)) return areas
    return areas.map((user) => {
      const guest = this.table?.guestOf(user) ?? -1
      if (guest >= 0) return guest
      throw this.error(`queue ${index} has a ring at ${user}, which lies in no region`, { index, user })
    })
  }

  // False: requests are in flight.
  private stopped(ring: Vring): boolean {
    if (ring.state === 'due') ring.state = 'stopped'
    if (ring.state === 'stopped') return true
    const { device } = this
    const queue = this.queueOf(ring)
    const position = device.stopQueue(queue)
    if (position !== null) ring.next = position.next
    else if (device.live && queue.started && queue.walker.broken === null) return false
    else {
      // The position of a broken ring is worth nothing, and only a reset helps.
      ring.next = queue.walker.save().next
      device.disableQueue(queue)
    }
    ring.state = 'stopped'
    return true
  }
}
