import { Region } from '@guestdma/memory'
import {
  DEVICE_ID_NET,
  ETHERNET_HEADER_SIZE,
  ETHERNET_MTU,
  NET_CONFIG_STATUS,
  NET_HEADER_SIZE,
  NET_RECEIVE_QUEUE,
  NET_S_LINK_UP,
  NET_TRANSMIT_QUEUE,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import type { DeviceQueue } from '../device/device-queue.ts'
import { VirtioDevice } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import { FRAMES, Frames } from '../links/frames.ts'
import type { FrameReceiver, NetLink } from '../links/net-link.ts'
import { NO_CHAIN, type RingWalker } from '../ring/ring-walker.ts'
import {
  checkNetOptions,
  longestFrame,
  NET_DEPENDENCIES,
  type NetDeviceCounters,
  type NetDeviceOptions,
  netConfig,
  netFeatures,
} from './config.ts'
import { FrameDelivery } from './frame-delivery.ts'
import { FrameSources } from './frame-sources.ts'
import { FrameStaging, OFFLOAD, tooLong } from './frame-staging.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE

// What the driver's receive chains may cost, in chains, between two polls of the device's own: frames are delivered
// within the polls of other devices as well.
const RECEIVE_WORK = 1024
// Bytes written to frames that are sent.
const NOTHING = new Int32Array(FRAMES)
// No epoch of a port: what was granted is granted anew.
const NOT_NOW = -1

/**
 * A network device with one pair of queues: virtio 1.4 §5.1. It has no offloads: frames are complete Ethernet frames
 * without check sequence.
 *
 * Transmit: the 12-byte header may be framed in any way (§2.7.4); the payload is copied to staging memory and handed to
 * the link. Receive: see {@link receive}. Frames longer than the MTU, its Ethernet header and up to two VLAN tags are
 * dropped and counted.
 *
 * @throws DeviceError `DEVICE_OPTION`, and what `VirtioDevice` throws
 */
export class NetDevice extends VirtioDevice implements FrameReceiver {
  declare readonly counters: NetDeviceCounters
  declare readonly link: NetLink | null

  declare private readonly staging: FrameStaging
  private readonly delivery = new FrameDelivery()
  private readonly sources = new FrameSources()
  // The one that `receive` was given.
  private readonly single = new Frames(new Region(new ArrayBuffer(0), 'no frame'), 1)
  declare private readonly mtu: number
  private mergeable = false
  private reporting = false
  // Chains that were taken and that no frame has used yet are those of rows `at` to `rows` - 1, for which queue generation
  // and port epoch: a frame that they are too short for does not walk them again. The first `held` hold `room` bytes.
  private at = 0
  private rows = 0
  private held = 0
  private room = 0
  private takenGeneration = 0
  private takenEpoch = 0
  private receiveWork = 0
  // Frames that were sent and not marked used, of which queue generation.
  private unmarked = 0
  private unmarkedOf = 0
  // The link had no room for all of the last batch.
  private refused = false
  private up = true
  private readonly showLink = (): void => this.config.write(NET_CONFIG_STATUS, 2, this.up ? NET_S_LINK_UP : 0)
  // Longest untagged frame under the negotiated MTU.
  private longest = ETHERNET_MTU + ETHERNET_HEADER_SIZE

  constructor(options: NetDeviceOptions) {
    checkNetOptions(options)
    const queueSize = options.queueSize ?? 256
    super(options, {
      deviceId: DEVICE_ID_NET,
      features: netFeatures(options),
      dependencies: NET_DEPENDENCIES,
      config: netConfig(options),
      queueSizes: [queueSize, queueSize],
    })
    this.mtu = options.mtu ?? ETHERNET_MTU
    this.staging = new FrameStaging(longestFrame(options.mtu))
    this.link = options.link ?? null
    this.counters = {
      transmitted: 0,
      transmittedBytes: 0,
      transmitMalformed: 0,
      transmitOversize: 0,
      transmitUnlinked: 0,
      transmitFailed: 0,
      received: 0,
      receivedBytes: 0,
      receiveNoBuffer: 0,
      receiveOversize: 0,
      receiveTooSmall: 0,
      receiveUnlinked: 0,
    }
    this.link?.attach?.(this)
  }

  /** Whether the link is up, as the device sees it. */
  get linkUp(): boolean {
    return this.up
  }

  /**
   * Plugs the cable in or pulls it. With STATUS offered the driver is told (§5.1.4). While it is out, frames are
   * dropped and counted.
   */
  setLink(up: boolean): void {
    if (up === this.up) return
    this.up = up
    // Frames that were held back, on either side, can be dropped now.
    this.wake()
    if (!this.offered.has(VIRTIO_NET_F_STATUS)) return
    this.changeConfig(this.showLink)
  }

  /**
   * Copies a frame into receive buffers of the driver: one, or with MRG_RXBUF as many as it takes (§5.1.9.3). They are
   * marked used now and published by the next `poll`. False: no buffer, or no live driver; counted, and the frame is
   * still the caller's. True: done with it. Code that `onDeviceWrite` runs cannot deliver a frame; it gets false, and the
   * device is due.
   */
  receive(frame: Uint8Array<ArrayBuffer>): boolean {
    const { single, sources } = this
    if (this.reporting) {
      this.wake()
      return false
    }
    // Beyond 2 GiB an offset is no integer to the engine.
    const near = frame.byteOffset < 0x7fff_0000 ? frame : frame.slice()
    single.region = sources.region(near)
    single.offsets[0] = near.byteOffset
    single.lengths[0] = frame.length
    return this.receiveEach(single, 0, 1) === 1
  }

  receiveEach(frames: Frames, from: number, to: number): number {
    const { counters } = this
    const queue = this.queues[NET_RECEIVE_QUEUE]
    if (this.reporting) {
      this.wake()
      return 0
    }
    if (!this.live || this.suspending || !queue.started || !this.mayAccess) {
      counters.receiveNoBuffer++
      return 0
    }
    const before = counters.received
    let told = true
    let i = from
    while (i < to) {
      // Who was told of an earlier frame may have stopped the device, or moved memory.
      if (told && (!this.checkPort() || !this.live)) break
      told = false
      if (this.up) i += this.deliverPlain(queue, frames, i, to)
      if (i === to) break
      const rows = this.mayReceive(frames, i) ? this.findRoom(queue, HEADER + frames.lengths[i]) : -1
      if (rows === 0) break
      if (rows > 0) told = this.fill(queue, frames, i, rows)
      i++
    }
    if (counters.received !== before) this.wake()
    return i - from
  }

  protected override onNegotiated(): void {
    this.mergeable = this.negotiated.has(VIRTIO_NET_F_MRG_RXBUF)
    this.longest = (this.negotiated.has(VIRTIO_NET_F_MTU) ? this.mtu : ETHERNET_MTU) + ETHERNET_HEADER_SIZE
  }

  protected override onRestored(): void {
    if (this.offered.has(VIRTIO_NET_F_STATUS)) this.up = (this.config.read(NET_CONFIG_STATUS, 2) & NET_S_LINK_UP) !== 0
  }

  protected override onSave(): void {
    this.checkTaken(this.queues[NET_RECEIVE_QUEUE], NOT_NOW)
  }

  protected override onHalt(): void {
    try {
      this.link?.unplugged?.()
    } catch (error) {
      this.hostThrew('link.unplugged', error)
    }
  }

  protected override work(budget: number): number {
    const receive = this.queues[NET_RECEIVE_QUEUE]
    const transmit = this.queues[NET_TRANSMIT_QUEUE]
    let done = 0
    this.receiveWork = 0
    // Half the budget at most, and one frame for the other direction in any case, so that a flood of incoming frames does
    // not stop the outgoing ones.
    if (this.link?.deliver !== undefined && budget > 0) done = this.deliver(Math.ceil(budget / 2))
    receive.marked = false
    if (transmit.marked && transmit.started && this.live && budget > 0) {
      done += this.transmit(transmit, Math.max(1, budget - done))
    }
    this.publishReceived()
    // Who listens may have moved the other ring.
    this.checkPort()
    if (transmit.started && this.checkQueue(transmit)) this.publish(transmit)
    // Walking chains for a frame that is not there yet is work as well.
    return done === 0 && this.receiveWork >= RECEIVE_WORK ? 1 : done
  }

  // Before what was sent is published: what a frame caused to be received is visible no later than that it was sent.
  private publishReceived(): void {
    const receive = this.queues[NET_RECEIVE_QUEUE]
    if (receive.started && this.checkQueue(receive)) this.publish(receive)
  }

  private deliver(budget: number): number {
    try {
      const moved = (this.link as Required<NetLink>).deliver(budget)
      return moved > 0 ? Math.min(moved, budget) : 0
    } catch (error) {
      this.hostThrew('link.deliver', error)
      return 0
    }
  }

  private transmit(queue: DeviceQueue, budget: number): number {
    const { walker } = queue
    const { generation } = queue
    let done = 0
    // Cleared first: a doorbell that code of the link's rings from here on is seen by the next poll.
    queue.marked = false
    this.refused = false
    walker.update()
    for (;;) {
      if (walker.ready === 0) {
        this.publishReceived()
        if (queue.generation !== generation || !this.publishAndRearm(queue)) return done
      }
      const left = budget - done
      const rows = walker.takeBatch(left < FRAMES ? left : FRAMES)
      // The ring is broken, and whoever asked for this looks.
      if (rows === 0) return done
      // Those that were sent when the ring became unknown are not sent again.
      if (this.unmarkedOf !== generation) this.unmarked = 0
      const { unmarked } = this
      const sent = unmarked > 0 ? Math.min(unmarked, rows) : this.send(queue, rows)
      // Of the last chain of the batch.
      const { extra } = walker
      if (!this.giveBack(queue, generation, sent)) {
        if (queue.generation === generation && this.live) this.markLater(queue, rows, Math.max(sent, unmarked))
        return done
      }
      if (unmarked > 0) this.unmarked = unmarked - sent
      done += sent === rows ? sent + extra : sent
      if (sent < rows) walker.untake(rows - sent)
      if (done >= budget || this.refused) break
    }
    // Work is left over.
    queue.marked = true
    return done
  }

  // Marks the first `rows` rows used. The link may have run code that reset the queue or the device: then there is
  // nothing to give back, and nobody to tell. It may also have moved memory: the rings come first.
  private giveBack(queue: DeviceQueue, generation: number, rows: number): boolean {
    if (queue.generation !== generation) return false
    if (!this.checkPort() || !this.live) return false
    queue.walker.pushRows(0, rows, NOTHING)
    return true
  }

  // The port does not know where the ring is: of the chains that were taken, the first `sent` are marked used once it does.
  private markLater(queue: DeviceQueue, rows: number, sent: number): void {
    queue.walker.untake(rows)
    queue.marked = true
    this.unmarked = sent
    this.unmarkedOf = queue.generation
  }

  // Hands the frames of rows 0 to `rows` - 1 to the link, as one batch, or drops and counts the first. Returns how many
  // rows that were: fewer where the batch is full, before a frame that is dropped, and where the link has no room.
  private send(queue: DeviceQueue, rows: number): number {
    const { staging } = this
    const { chains } = queue.walker
    if (staging.take(chains, rows, this.longest) > 0) return this.handOver(staging.frames)
    this.drop(queue, staging.refused, chains.head(0), chains.readable(0) - HEADER)
    return 1
  }

  // Returns how many frames the link took, or was to take.
  private handOver(frames: Frames): number {
    const { counters, link } = this
    const { count, lengths } = frames
    if (link === null || !this.up) {
      counters.transmitUnlinked += count
      return count
    }
    let taken = 0
    try {
      taken = link.transmit(frames)
      if (!Number.isInteger(taken) || taken < 0 || taken > count) throw refuseAnswer(this.name, taken, count)
    } catch (error) {
      counters.transmitFailed += count
      this.hostThrew('link.transmit', error)
      return count
    }
    let bytes = 0
    for (let i = 0; i < taken; i++) bytes += lengths[i]
    counters.transmitted += taken
    counters.transmittedBytes += bytes
    this.refused = taken < count
    return taken
  }

  private drop(queue: DeviceQueue, status: number, head: number, length: number): void {
    if (status === OFFLOAD) {
      this.counters.transmitMalformed++
      this.badRequest(queue, 'offload', head, length)
    } else if (length < 0) {
      this.counters.transmitMalformed++
      this.badRequest(queue, 'short-header', head, length + HEADER)
    } else {
      this.counters.transmitOversize++
      this.badRequest(queue, 'frame-size', head, length)
    }
  }

  // Frames that need one chain each, as usual. Returns how many of the next ones those were.
  private deliverPlain(queue: DeviceQueue, frames: Frames, from: number, to: number): number {
    const { counters, delivery } = this
    const { walker } = queue
    this.checkTaken(queue, this.port.epoch)
    // What a longer frame found too short is left to it.
    if (this.held > 0) return 0
    if (this.at === this.rows && this.receiveWork < RECEIVE_WORK) this.takeMore(walker, 0, to - from)
    const { at } = this
    const count = delivery.deliver(walker.chains, at, this.rows, frames, from, to, this.longest)
    if (count === 0) return 0
    walker.pushRows(at, count, delivery.written)
    this.at = at + count
    counters.received += count
    counters.receivedBytes += delivery.bytes
    return count
  }

  // Whether a frame can be delivered. Counted where it is dropped.
  private mayReceive(frames: Frames, i: number): boolean {
    if (frames.lengths[i] === 0 || tooLong(frames, i, this.longest)) this.counters.receiveOversize++
    else if (!this.up) this.counters.receiveUnlinked++
    else return true
    return false
  }

  // How many of the next chains a frame takes that needs so many bytes: 0 where there are too few now, and -1 where it is
  // dropped, since they hold no more.
  private findRoom(queue: DeviceQueue, needed: number): number {
    const { walker } = queue
    const { chains } = walker
    const most = this.mergeable ? queue.size : 1
    this.checkTaken(queue, this.port.epoch)
    // Those that were held for a longer frame may be more than this one needs.
    let { held, room } = this
    if (room >= needed) held = room = 0
    while (room < needed) {
      if (held === most) {
        this.counters.receiveTooSmall++
        break
      }
      if (this.at + held === this.rows) {
        if (held > 0 && this.at > 0) {
          // Rows begin with the first chain of the frame.
          walker.untake(held)
          held = room = this.at = this.rows = 0
        }
        if (this.receiveWork >= RECEIVE_WORK) {
          // The rest is this driver's own time.
          this.wake()
          break
        }
        if (!this.takeMore(walker, held, 1)) {
          this.noBuffer(queue)
          break
        }
      }
      const row = this.at + held
      const writable = chains.writable(row)
      if (writable < HEADER) {
        // §5.1.9.3.1. Without MRG_RXBUF it could not hold a frame either.
        walker.fail('receive-buffer', chains.head(row), writable, HEADER)
        this.noBuffer(queue)
        break
      }
      // One chain for each frame is not counted: that is what a budget of frames pays for.
      if (held > 0) this.receiveWork++
      room += writable
      held++
    }
    if (room >= needed) {
      this.held = this.room = 0
      return held
    }
    this.held = held
    this.room = room
    return held === most ? -1 : 0
  }

  // Takes chains behind those of rows `at` to `rows` - 1, which are `held`; where there are none, as many as are wanted, or a
  // batch where the last ones were all used before the port granted them anew.
  private takeMore(walker: RingWalker, held: number, wanted: number): boolean {
    if (held > 0) {
      if (walker.takeMore() === NO_CHAIN && (walker.update() === 0 || walker.takeMore() === NO_CHAIN)) return false
      this.rows++
    } else {
      const limit = this.rows > 0 || wanted > FRAMES ? FRAMES : wanted
      this.at = 0
      this.rows = walker.takeBatch(limit)
      if (this.rows === 0 && walker.update() > 0) this.rows = walker.takeBatch(limit)
      if (this.rows === 0) return false
    }
    this.receiveWork += walker.extra
    return true
  }

  // Are the chains that were taken still what the walker and the port said of them?
  private checkTaken(queue: DeviceQueue, epoch: number): void {
    if (this.takenGeneration === queue.generation) {
      if (this.takenEpoch === epoch) return
      if (this.rows > this.at) queue.walker.untake(this.rows - this.at)
    }
    this.at = this.rows = this.held = this.room = 0
    this.takenGeneration = queue.generation
    this.takenEpoch = epoch
  }

  // Writes header and frame over the next `rows` chains, in order, and marks them used. Returns whether somebody was told.
  private fill(queue: DeviceQueue, { lengths, offsets, region }: Frames, i: number, rows: number): boolean {
    const { counters } = this
    const { walker } = queue
    const { chains } = walker
    const first = this.at
    const length = lengths[i]
    let at = offsets[i]
    let left = length
    let listened = this.delivery.putHeader(chains, first, rows, this.staging.header)
    for (let row = first; row < first + rows; row++) {
      const skip = row === first ? HEADER : 0
      const piece = Math.min(left, chains.writable(row) - skip) | 0
      if (chains.scatter(row, skip, region, at, piece)) listened = true
      at = (at + piece) | 0
      left = (left - piece) | 0
      walker.push(chains.head(row), skip + piece, skip + piece === chains.writable(row))
    }
    this.at += rows
    counters.received++
    counters.receivedBytes += length
    if (listened) this.reportFrame(queue, first, HEADER + length)
    return listened
  }

  // What listens may grow the memory that the frame itself is in, so this comes last.
  private reportFrame(queue: DeviceQueue, first: number, bytes: number): void {
    const { chains } = queue.walker
    const { generation } = queue
    this.reporting = true
    for (let row = first; bytes > 0 && queue.generation === generation; row++) {
      const written = Math.min(bytes, chains.writable(row))
      this.reportWritten(queue, row, 0, written)
      bytes -= written
    }
    this.reporting = false
  }

  private noBuffer(queue: DeviceQueue): void {
    const { walker } = queue
    // There is one, and the port does not know yet where.
    if (walker.broken === null && walker.ready > 0) return
    this.counters.receiveNoBuffer++
    // Let the driver say when it adds buffers. Where it has done so already, the next poll offers the frame again.
    if (this.checkQueue(queue) && walker.rearm()) this.wake()
  }
}

function refuseAnswer(name: string, taken: number, count: number): DeviceError {
  const message = `link.transmit() of a batch of ${count} returned ${String(taken)}: must be how many frames it took`
  return new DeviceError('LINK_ANSWER', name, message, { taken, count })
}
