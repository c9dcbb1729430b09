import { copy, type Region } from '@guestdma/memory'
import {
  DEVICE_ID_NET,
  ETHERNET_HEADER_SIZE,
  ETHERNET_MTU,
  ETHERTYPE_VLAN,
  ETHERTYPE_VLAN_STACKED,
  NET_CONFIG_STATUS,
  NET_HDR_GSO_NONE,
  NET_HEADER_FLAGS,
  NET_HEADER_GSO_TYPE,
  NET_HEADER_NUM_BUFFERS,
  NET_HEADER_SIZE,
  NET_RECEIVE_QUEUE,
  NET_S_LINK_UP,
  NET_TRANSMIT_QUEUE,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
  VLAN_TAG_SIZE,
  VLAN_TAGS_MAX,
} from '@guestdma/spec'
import type { DeviceQueue } from '../device/device-queue.ts'
import { VirtioDevice } from '../device/virtio-device.ts'
import type { FrameReceiver, NetLink } from '../links/net-link.ts'
import type { ChainTable } from '../ring/chain-table.ts'
import {
  NO_CHAIN,
  PLAIN_LAST,
  PLAIN_LEFT,
  PLAIN_TAKEN,
  PLAIN_VOID,
  type PlainTaker,
} from '../ring/split-ring-walker.ts'
import {
  checkNetOptions,
  longestFrame,
  NET_DEPENDENCIES,
  type NetDeviceCounters,
  type NetDeviceOptions,
  netConfig,
  netFeatures,
} from './config.ts'
import { FrameSources, FrameStaging } from './frame-views.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const FLAGS_AT = NET_HEADER_FLAGS
const GSO_AT = NET_HEADER_GSO_TYPE
const GSO_NONE = NET_HDR_GSO_NONE
const TAG = VLAN_TAG_SIZE
const TAGS = VLAN_TAG_SIZE * VLAN_TAGS_MAX

// Flags of a transmit header that ask for what is never negotiated here: NEEDS_CSUM, and UDP_TUNNEL_CSUM, which without
// a tunnel the device must not accept (§5.1.9.2.2). Other flags are ignored, as that section demands.
const OFFLOAD_FLAGS = 1 | 8
// The same as one 16-bit field: those flags, and any gso_type, which is the next byte.
const OFFLOADS = OFFLOAD_FLAGS | 0xff00
const ETHERTYPE_OFFSET = 12
// Below this an offset is an integer to the engine, with room for a header.
const NEAR = 0x7fff0000
// What the driver's receive chains may cost, in chains, between two polls of the device's own: frames are delivered
// within the polls of other devices as well.
const RECEIVE_WORK = 1024
// Chains that are taken and given back together.
const TRANSMIT_BATCH = 32

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
export class NetDevice extends VirtioDevice implements FrameReceiver, PlainTaker {
  declare readonly counters: NetDeviceCounters
  declare readonly link: NetLink | null

  declare private readonly staging: FrameStaging
  private readonly sources = new FrameSources()
  declare private readonly mtu: number
  private mergeable = false
  private reporting = false
  // Chains that a frame was too long for stay in rows 0 and up, so that they are not walked for it again: how many, how
  // many bytes they hold, and for which queue generation and port epoch that is so.
  private held = 0
  private heldRoom = 0
  private heldGeneration = 0
  private heldEpoch = 0
  private receiveWork = 0
  // Of the call of `takePlain` that is under way.
  private plainQueue: DeviceQueue | null = null
  private plainGeneration = 0
  private plainEpoch = 0
  private plainBytes = 0
  private plainFailed = 0
  private up = true
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
    this.changeConfig(() => this.config.write(NET_CONFIG_STATUS, 2, up ? NET_S_LINK_UP : 0))
  }

  /**
   * Copies a frame into receive buffers of the driver: one, or with MRG_RXBUF as many as it takes (§5.1.9.3). They are
   * marked used now and published by the next `poll`. False: no buffer, or no live driver; counted, and the frame is
   * still the caller's. True: done with it. Code that `onDeviceWrite` runs cannot deliver a frame; it gets false, and the
   * device is due.
   */
  receive(frame: Uint8Array<ArrayBuffer>): boolean {
    const { counters } = this
    const queue = this.queues[NET_RECEIVE_QUEUE]
    if (this.reporting) {
      this.wake()
      return false
    }
    if (!this.live || !queue.started || !this.mayAccess) {
      counters.receiveNoBuffer++
      return false
    }
    const length = frame.length
    if (length === 0 || this.tooLong(frame)) {
      counters.receiveOversize++
      return true
    }
    if (!this.up) {
      counters.receiveUnlinked++
      return true
    }
    if (!this.checkPort() || !this.live) return false
    const { walker } = queue
    const { chains } = walker
    const needed = HEADER + length
    let rows = this.held === 0 ? 0 : this.takeHeld(queue)
    let room = rows === 0 ? 0 : this.heldRoom
    const most = this.mergeable ? queue.size : 1
    while (room < needed && rows < most) {
      if (this.receiveWork >= RECEIVE_WORK) {
        // The rest is this driver's own time.
        this.hold(queue, rows, room)
        this.wake()
        return false
      }
      let row = rows === 0 ? walker.take() : walker.takeMore()
      if (row === NO_CHAIN && walker.update() > 0) row = rows === 0 ? walker.take() : walker.takeMore()
      if (row === NO_CHAIN) {
        this.hold(queue, rows, room)
        return this.noBuffer(queue)
      }
      // One chain for each frame is not counted: that is what a budget of frames pays for.
      this.receiveWork += rows === 0 ? walker.extra : 1 + walker.extra
      const writable = chains.writable(row)
      if (writable < HEADER) {
        // §5.1.9.3.1. Without MRG_RXBUF it could not hold a frame either.
        walker.fail('receive-buffer', chains.head(row), writable, HEADER)
        return this.noBuffer(queue)
      }
      room += writable
      rows++
    }
    if (room < needed) {
      this.hold(queue, rows, room)
      counters.receiveTooSmall++
      return true
    }
    if (rows > 1) rows = this.giveRest(queue, rows, needed)
    this.fill(queue, frame, rows)
    this.wake()
    counters.received++
    counters.receivedBytes += length
    return true
  }

  protected override onNegotiated(): void {
    this.mergeable = this.negotiated.has(VIRTIO_NET_F_MRG_RXBUF)
    this.longest = (this.negotiated.has(VIRTIO_NET_F_MTU) ? this.mtu : ETHERNET_MTU) + ETHERNET_HEADER_SIZE
  }

  protected override onRestored(): void {
    if (this.offered.has(VIRTIO_NET_F_STATUS)) this.up = (this.config.read(NET_CONFIG_STATUS, 2) & NET_S_LINK_UP) !== 0
  }

  protected override onSave(): void {
    const queue = this.queues[NET_RECEIVE_QUEUE]
    const rows = this.takeHeld(queue)
    if (rows > 0) queue.walker.untake(rows)
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
    walker.update()
    for (;;) {
      if (walker.ready === 0) {
        this.publishReceived()
        if (queue.generation !== generation || !this.publishAndRearm(queue)) return done
      }
      const left = budget - done
      const plain = this.sendPlain(queue, left)
      if (plain < 0) return done
      if (plain > 0) done += plain + walker.extra
      if (done >= budget || this.linkFull) break
      if (plain > 0) continue
      const rows = walker.takeBatch(left < TRANSMIT_BATCH ? left : TRANSMIT_BATCH)
      // The ring is broken, and whoever asked for this looks.
      if (rows === 0) return done
      const sent = this.send(queue, rows)
      // Of the last chain of the batch.
      const { extra } = walker
      if (!this.giveBack(queue, generation, sent)) return done
      done += sent === rows ? sent + extra : sent
      if (sent < rows) walker.untake(rows - sent)
      if (done >= budget || this.linkFull) break
    }
    // Work is left over.
    queue.marked = true
    return done
  }

  // Frames of one descriptor each, for as long as they come: the common case, without a table in between. -1: the queue
  // is gone.
  private sendPlain(queue: DeviceQueue, limit: number): number {
    if (this.link === null || !this.up) return 0
    const { counters } = this
    const { generation } = queue
    this.plainQueue = queue
    this.plainGeneration = generation
    this.plainEpoch = this.port.epoch
    this.plainBytes = 0
    this.plainFailed = 0
    const rows = queue.walker.takePlain(limit, this)
    counters.transmittedBytes += this.plainBytes
    if (rows < 0) return -1
    counters.transmitted += rows - this.plainFailed
    return rows === 0 || this.giveBack(queue, generation, rows) ? rows : -1
  }

  /** For the walker: sends one frame. What is not plain here goes the general way. */
  plain(region: Region, offset: number, size: number, head: number): number {
    const { link, staging } = this
    const length = size - HEADER
    if (link === null || length <= 0 || length > this.longest) return PLAIN_LEFT
    try {
      if (link.full === true) return PLAIN_LEFT
    } catch {
      // The general way records it.
      return PLAIN_LEFT
    }
    if (asksForOffload(region, offset)) {
      this.plainFailed++
      this.counters.transmitMalformed++
      this.badRequest(this.plainQueue as DeviceQueue, 'offload', head, length)
      return PLAIN_TAKEN
    }
    const payload = offset + HEADER
    const align = payload & 7
    const frame = staging.view(align, length)
    copy(staging.region, align, region, payload, length)
    try {
      link.transmit(frame)
      this.plainBytes += length
    } catch (error) {
      this.plainFailed++
      this.counters.transmitFailed++
      this.hostThrew('link.transmit', error)
    }
    if ((this.plainQueue as DeviceQueue).generation !== this.plainGeneration) return PLAIN_VOID
    // The device may have been stopped, or its cable pulled, by what the frame caused.
    return this.port.epoch === this.plainEpoch && this.live && this.up ? PLAIN_TAKEN : PLAIN_LAST
  }

  // Marks the first `rows` rows used. The link may have run code that reset the queue or the device: then there is
  // nothing to give back, and nobody to tell. It may also have moved memory: the rings come first.
  private giveBack(queue: DeviceQueue, generation: number, rows: number): boolean {
    if (queue.generation !== generation) return false
    if (!this.checkPort() || !this.live) return false
    queue.walker.pushRows(rows)
    return true
  }

  // Hands the frames of rows 0 to `rows` - 1 to the link, or drops and counts them. Returns how many rows that were:
  // fewer where the link is full or memory moved.
  private send(queue: DeviceQueue, rows: number): number {
    const { counters, link, longest, port, staging } = this
    const { chains } = queue.walker
    const { generation } = queue
    const { epoch } = port
    const linked = link !== null && this.up
    let frames = 0
    let bytes = 0
    let row = 0
    for (; row < rows; row++) {
      if (linked && this.isFull(link)) break
      const length = chains.readable(row) - HEADER
      // VLAN tags are looked for in what was staged; two are the most that staging holds.
      if (length <= 0 || length > longest + TAGS) {
        this.dropBadLength(queue, chains.head(row), length)
        continue
      }
      const align = this.stage(chains, row, length)
      if (align < 0) {
        counters.transmitMalformed++
        this.badRequest(queue, 'offload', chains.head(row), length)
        continue
      }
      if (!linked) {
        counters.transmitUnlinked++
        continue
      }
      const frame = staging.view(align, length)
      if (length > longest && this.tooLong(frame)) {
        this.dropBadLength(queue, chains.head(row), length)
        continue
      }
      frames++
      bytes += length
      try {
        link.transmit(frame)
      } catch (error) {
        frames--
        bytes -= length
        counters.transmitFailed++
        this.hostThrew('link.transmit', error)
      }
      if (queue.generation !== generation || port.epoch !== epoch || !this.live || !this.up) {
        row++
        break
      }
    }
    counters.transmitted += frames
    counters.transmittedBytes += bytes
    return row
  }

  private get linkFull(): boolean {
    return this.link !== null && this.up && this.isFull(this.link)
  }

  // A link that cannot say is not full: `transmit` will tell.
  private isFull(link: NetLink): boolean {
    try {
      return link.full === true
    } catch (error) {
      this.hostThrew('link.full', error)
      return false
    }
  }

  // Copies the payload of a row to staging memory, at the offset that is returned: the payload's own modulo 8, since a
  // copy is fastest so. -1: the header asks for an offload, and nothing was copied.
  private stage(chains: ChainTable, row: number, length: number): number {
    if (this.staging.region.u8.length === 0) this.staging.renew()
    const to = this.staging.region
    const segment = chains.first(row)
    const first = chains.lengths[segment]
    const start = chains.offset(segment)
    if (first >= HEADER && start < NEAR) {
      const region = chains.regions[segment]
      // As integers: a double that is passed on is an allocation.
      const header = start | 0
      if (asksForOffload(region, header)) return -1
      // The usual framings, one descriptor or two, without the general walk.
      if (first === HEADER + length) {
        const payload = header + HEADER
        copy(to, payload & 7, region, payload, length)
        return payload & 7
      }
      if (first === HEADER && chains.lengths[segment + 1] === length && chains.offset(segment + 1) < NEAR) {
        const payload = chains.offset(segment + 1) | 0
        copy(to, payload & 7, chains.regions[segment + 1], payload, length)
        return payload & 7
      }
      chains.gather(row, HEADER, to, 0, length)
      return 0
    }
    chains.gather(row, 0, to, 0, HEADER)
    if (asksForOffload(to, 0)) return -1
    chains.gather(row, HEADER, to, 0, length)
    return 0
  }

  private dropBadLength(queue: DeviceQueue, head: number, length: number): void {
    if (length < 0) {
      this.counters.transmitMalformed++
      this.badRequest(queue, 'short-header', head, length + HEADER)
    } else {
      this.counters.transmitOversize++
      this.badRequest(queue, 'frame-size', head, length)
    }
  }

  // Writes header and frame over the first `rows` rows, in order, and marks them used.
  private fill(queue: DeviceQueue, frame: Uint8Array<ArrayBuffer>, rows: number): void {
    const { walker } = queue
    const { chains } = walker
    const source = this.sources.region(frame)
    const { length } = frame
    // As integers: a double that is passed on is an allocation.
    let at = frame.byteOffset | 0
    let left = frame.length | 0
    let listened = this.putHeader(queue, rows)
    for (let row = 0; row < rows; row++) {
      const skip = row === 0 ? HEADER : 0
      const piece = Math.min(left, chains.writable(row) - skip) | 0
      if (chains.scatter(row, skip, source, at, piece)) listened = true
      at += piece
      left -= piece
      walker.push(chains.head(row), skip + piece, skip + piece === chains.writable(row))
    }
    if (listened) this.reportFrame(queue, rows, HEADER + length)
  }

  // What listens may grow the memory that the frame itself is in, so this comes last.
  private reportFrame(queue: DeviceQueue, rows: number, bytes: number): void {
    const { chains } = queue.walker
    const { generation } = queue
    this.reporting = true
    for (let row = 0; row < rows && queue.generation === generation; row++) {
      const written = Math.min(bytes, chains.writable(row))
      this.reportWritten(queue, row, 0, written)
      bytes -= written
    }
    this.reporting = false
  }

  // struct virtio_net_hdr without offloads: zero but for num_buffers.
  private putHeader(queue: DeviceQueue, rows: number): boolean {
    const { chains } = queue.walker
    const segment = chains.write(0)
    if (chains.lengths[segment] < HEADER) {
      const header = this.staging.header
      header.view.setUint16(NET_HEADER_NUM_BUFFERS, rows, true)
      return chains.scatter(0, 0, header, 0, HEADER)
    }
    const region = chains.regions[segment]
    const offset = chains.offset(segment)
    const view = region.view
    view.setUint32(offset, 0, true)
    view.setUint32(offset + 4, 0, true)
    view.setUint32(offset + 8, rows << 16, true)
    if (region.meter !== null) region.meter.store(4, 3)
    return region.onDeviceWrite !== null
  }

  private hold(queue: DeviceQueue, rows: number, room: number): void {
    this.held = rows
    this.heldRoom = room
    this.heldGeneration = queue.generation
    this.heldEpoch = this.port.epoch
  }

  // The rows that were held, if they are still what the walker and the port said of them. They are the caller's now.
  private takeHeld(queue: DeviceQueue): number {
    const rows = this.held
    this.held = 0
    if (rows === 0 || this.heldGeneration !== queue.generation) return 0
    if (this.heldEpoch === this.port.epoch) return rows
    queue.walker.untake(rows)
    return 0
  }

  // Gives back what a frame of `needed` bytes with its header does not need of `rows` rows. Returns how many it needs.
  private giveRest(queue: DeviceQueue, rows: number, needed: number): number {
    const { chains } = queue.walker
    let used = 0
    for (let room = 0; room < needed; used++) room += chains.writable(used)
    if (used < rows) queue.walker.untake(rows - used)
    return used
  }

  private noBuffer(queue: DeviceQueue): false {
    const { walker } = queue
    // There is one, and the port does not know yet where.
    if (walker.broken === null && walker.ready > 0) return false
    this.counters.receiveNoBuffer++
    // Let the driver say when it adds buffers. Where it has done so already, the next poll offers the frame again.
    if (this.checkQueue(queue) && walker.rearm()) this.wake()
    return false
  }

  // Longer than the MTU allows: 4 bytes more with each VLAN tag.
  private tooLong(frame: Uint8Array<ArrayBuffer>): boolean {
    const over = frame.length - this.longest
    if (over <= 0) return false
    if (over > TAGS) return true
    let tags = 0
    while (tags < TAGS && isTag(frame, ETHERTYPE_OFFSET + tags)) tags += TAG
    return over > tags
  }
}

// The header's two fields that matter, each loaded once: together where they lie on an even offset.
function asksForOffload(region: Region, header: number): boolean {
  if ((header & 1) === 0) return (region.u16[header >>> 1] & OFFLOADS) !== 0
  const bytes = region.u8
  return (bytes[header + FLAGS_AT] & OFFLOAD_FLAGS) !== 0 || bytes[header + GSO_AT] !== GSO_NONE
}

function isTag(frame: Uint8Array, at: number): boolean {
  const type = (frame[at] << 8) | frame[at + 1]
  return type === ETHERTYPE_VLAN || type === ETHERTYPE_VLAN_STACKED
}
