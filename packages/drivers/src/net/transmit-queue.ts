import { BUFFER_ACQUIRED, BUFFER_LENT, type Buffers, DMA_EXHAUSTED, DMA_OK, TO_DEVICE } from '@guestdma/dma'
import type { GuestMemory } from '@guestdma/memory'
import {
  ETHERNET_HEADER_SIZE,
  ETHERTYPE_VLAN,
  ETHERTYPE_VLAN_STACKED,
  NET_HEADER_SIZE,
  VLAN_TAG_SIZE,
  VLAN_TAGS_MAX,
} from '@guestdma/spec'
import { SEGMENT_DEVICE, SEGMENT_GUEST, type Virtqueue } from '@guestdma/virtqueue'
import { NO_BUFFER } from '../driver/buffer-mode.ts'
import { DriverError } from '../driver/errors.ts'
import { type FrameBuffers, HEADROOM } from './frame-buffers.ts'
import type { FrameBatch } from './frames.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEADER = NET_HEADER_SIZE
const NONE = NO_BUFFER
const OK = DMA_OK
const ACQUIRED = BUFFER_ACQUIRED
const LENT = BUFFER_LENT

// In `sent`: a frame in the caller's memory, whose token is to be told.
const CALLERS = -2

/** Bytes of the VLAN tags that a frame may carry beyond the MTU. */
export const TAGS: number = VLAN_TAG_SIZE * VLAN_TAGS_MAX
const ETHERTYPE_OFFSET = 12

/** What a transmit queue is made of. */
export interface TransmitOptions {
  /** Of the device, for messages. */
  readonly name: string
  readonly memory: GuestMemory
  readonly mtu: number
  /** `SEGMENT_DEVICE` in `pool` mode, where every frame lies in a buffer of the driver's; otherwise `SEGMENT_GUEST`. */
  readonly place: number
}

/** The transmit queue of a driver, its buffers, and the account of what is in flight. */
export class TransmitQueue {
  declare readonly queue: Virtqueue
  declare readonly buffers: Buffers
  /** Of the last {@link settle} or {@link drop}: whose frames are not in flight any more. */
  declare readonly tokens: Uint32Array
  /** Of the last {@link send}: why it took less than all, or `DMA_OK`, and the bytes of those that it took. */
  status: number = OK
  bytes = 0

  // An armed queue stays so until something completes.
  private armed = false
  declare private readonly name: string
  declare private readonly memory: GuestMemory
  declare private readonly mtu: number
  declare private readonly maxFrame: number
  // The kind of a segment in a buffer of the driver's, and of one for the header of a frame in the caller's memory.
  declare private readonly place: number
  declare private readonly headers: number
  // By buffer: where its frame begins.
  declare private readonly base: Float64Array
  declare private readonly staged: Float64Array
  // Pairs by id: the frame's buffer and its token.
  declare private readonly sent: Int32Array
  // Frames in flight for which `sent` keeps an account. The entries of all others are `NO_BUFFER`.
  private accounted = 0
  // Buffers of the driver's among the frames that a poll completes.
  declare private readonly sentBuffers: Uint32Array

  constructor(queue: Virtqueue, { buffers, address }: FrameBuffers, options: TransmitOptions) {
    const { name, memory, mtu, place } = options
    const { size } = queue
    this.queue = queue
    this.buffers = buffers
    this.name = name
    this.memory = memory
    this.mtu = mtu
    this.maxFrame = mtu + ETHERNET_HEADER_SIZE
    this.place = place
    // Only a frame in the caller's own memory has its header elsewhere. With no offload agreed it is all zero (virtio
    // 1.4 §5.1.9.2), as its cell is from the start.
    this.headers = place === SEGMENT_DEVICE ? SEGMENT_DEVICE : queue.cells(HEADER, TO_DEVICE).kind
    this.base = address
    this.staged = new Float64Array(size)
    this.sent = new Int32Array(2 * size).fill(NONE)
    this.tokens = new Uint32Array(size)
    this.sentBuffers = new Uint32Array(size)
  }

  /** Asks for an interrupt at the next completion. Returns whether there is one already. */
  arm(): boolean {
    if (this.armed) return false
    this.armed = true
    return this.queue.arm()
  }

  /**
   * Sends frames of a batch as `NetDriver.send` says. Returns how many were taken. `telling`: somebody wants the tokens of
   * those that lie in the caller's memory.
   */
  send(batch: FrameBatch, telling: boolean): number {
    const { queue } = this
    const { count, length } = batch
    const borrowed = this.check(batch)
    const whole = borrowed === count || batch.headed
    let most = count
    let n: number
    do {
      this.status = OK
      n =
        whole && most <= queue.size
          ? this.addFramed(batch, most, borrowed > 0, telling)
          : this.addUnframed(batch, most, telling)
      const published = n === 0 ? OK : queue.publish()
      if (published === OK) break
      this.forget()
      this.status = published
      // The backend had no room for all of them, and may have it for some.
      most = published === DMA_EXHAUSTED ? n >> 1 : 0
      n = 0
    } while (most > 0)
    if (most < count && most > 0) this.status = DMA_EXHAUSTED
    if (n < count) {
      this.keep(batch, n, count)
      for (let i = n; i < count; i++) this.bytes -= length[i]
    }
    return n
  }

  /** Takes up to `budget` completed frames back, and their buffers. Returns how many; {@link settle} follows. */
  reap(budget: number): number {
    const n = this.queue.reap(budget)
    if (n > 0) this.armed = false
    return n
  }

  /** Gives the buffers of `n` frames that were reaped back. Returns how many {@link tokens} there are. */
  settle(n: number): number {
    const told = this.accounted > 0 ? this.release(n) : 0
    this.queue.recycle()
    return told
  }

  /** The queue was reset alone: gives back what was in flight, sent or not. Returns how many {@link tokens} there are. */
  drop(): number {
    const { buffers, sent, tokens } = this
    this.armed = false
    let told = 0
    for (let at = 0; at < sent.length; at += 2) {
      if (sent[at] === NONE) continue
      if (sent[at] !== CALLERS) buffers.release(sent[at])
      sent[at] = NONE
      tokens[told++] = sent[at + 1]
    }
    this.accounted = 0
    return told
  }

  /** Throws `NET_FRAME_LENGTH` where a frame of `length` bytes that begins at `bytes[at]` is empty or above the MTU. */
  checkLength(length: number, bytes: Uint8Array, at: number): void {
    if (!this.fits(length, bytes, at)) throw this.badLength(length)
  }

  // Frames with their header right before them, as in all buffers of the driver's: one segment.
  private addFramed(
    { address, buffer, length, token }: FrameBatch,
    count: number,
    borrowed: boolean,
    telling: boolean,
  ): number {
    const { queue, sent, base, place, staged } = this
    if (borrowed) for (let i = 0; i < count; i++) staged[i] = buffer[i] === NONE ? address[i] : base[buffer[i]]
    const n = queue.addEach(count, borrowed ? staged : address, length, HEADER, place, false)
    this.status = queue.addStatus
    // Nothing to give back, nobody to tell: no account is kept, and completing the frame costs nothing either.
    if (!borrowed && !telling) return n
    const ids = queue.added
    for (let i = 0; i < n; i++) {
      const at = 2 * ids[i]
      sent[at] = buffer[i] === NONE ? CALLERS : buffer[i]
      sent[at + 1] = token[i]
    }
    this.accounted += n
    return n
  }

  // Frames some of which have no room for a header before them: it is a segment of its own.
  private addUnframed({ address, buffer, length, token }: FrameBatch, count: number, telling: boolean): number {
    const { queue, sent, base, headers, place } = this
    const { segments } = queue
    for (let i = 0; i < count; i++) {
      const own = buffer[i]
      if (own === NONE) {
        segments.kind[0] = headers
        segments.address[0] = 0
        segments.length[0] = HEADER
        segments.kind[1] = SEGMENT_GUEST
        segments.address[1] = address[i]
        segments.length[1] = length[i]
      } else {
        segments.kind[0] = place
        segments.address[0] = base[own] - HEADER
        segments.length[0] = length[i] + HEADER
      }
      const id = queue.add(own === NONE ? 2 : 1, 0)
      if (id < 0) {
        this.status = id
        return i
      }
      if (own === NONE && !telling) continue
      sent[2 * id] = own === NONE ? CALLERS : own
      sent[2 * id + 1] = token[i]
      this.accounted++
    }
    return count
  }

  private release(n: number): number {
    const { sent, sentBuffers, tokens } = this
    const ids = this.queue.completed.id
    let told = 0
    let own = 0
    for (let i = 0; i < n; i++) {
      const at = ids[i] << 1
      const buffer = sent[at]
      if (buffer === NONE) continue
      sent[at] = NONE
      tokens[told] = sent[(at + 1) | 0]
      told = (told + 1) | 0
      if (buffer === CALLERS) continue
      sentBuffers[own] = buffer
      own = (own + 1) | 0
    }
    this.buffers.releaseEach(sentBuffers, 0, own)
    this.accounted -= told
    return told
  }

  // No account is left of frames that were never published.
  private forget(): void {
    const { queue, sent } = this
    for (let i = 0; i < queue.undone; i++) {
      const at = 2 * queue.undoneId[i]
      if (sent[at] === NONE) continue
      sent[at] = NONE
      this.accounted--
    }
  }

  // Checks a batch and marks its buffers as lent. Returns how many of its frames lie in buffers of the driver's.
  private check(batch: FrameBatch): number {
    const { buffer, length, count } = batch
    const { maxFrame } = this
    const { held } = this.buffers
    let borrowed = 0
    let bytes = 0
    for (let i = 0; i < count; i++) {
      const size = length[i]
      bytes += size
      if ((size === 0 || size > maxFrame) && !this.fitsWithTags(batch, i)) {
        this.keep(batch, 0, i)
        throw this.badLength(size)
      }
      const own = buffer[i]
      if (own === NONE) continue
      borrowed++
      if (held[own] === ACQUIRED) held[own] = LENT
      else {
        this.keep(batch, 0, i)
        const message = `frame ${i} names buffer ${own}, which is not one that acquire() returned`
        throw new DriverError('NET_FRAME_PLACE', this.name, message, { row: i, buffer: own })
      }
    }
    if (borrowed < count && this.place === SEGMENT_DEVICE) {
      this.keep(batch, 0, count)
      const message = "a frame is not in a buffer of the driver's; in pool mode, acquire() one and fill it"
      throw new DriverError('NET_FRAME_PLACE', this.name, message)
    }
    this.bytes = bytes
    return borrowed
  }

  // The buffers of rows that were not sent after all are the caller's again.
  private keep({ buffer }: FrameBatch, from: number, to: number): void {
    const { held } = this.buffers
    for (let i = from; i < to; i++) if (buffer[i] !== NONE) held[buffer[i]] = ACQUIRED
  }

  // Row `i` is longer than a frame without VLAN tags may be.
  private fitsWithTags({ address, buffer, length }: FrameBatch, i: number): boolean {
    const { buffers, memory } = this
    const own = buffer[i]
    if (own !== NONE) {
      buffers.region.refresh()
      return this.fits(length[i], buffers.region.u8, buffers.offset[own] + HEADROOM)
    }
    const least = ETHERNET_HEADER_SIZE + TAGS
    if (memory.locate(address, i, least) < least) return false
    memory.region.refresh()
    return this.fits(length[i], memory.region.u8, memory.offset)
  }

  // Whether a frame is within the MTU, which does not count VLAN tags.
  private fits(length: number, bytes: Uint8Array, at: number): boolean {
    let tags = 0
    while (tags < TAGS && isTag(bytes, at + ETHERTYPE_OFFSET + tags)) tags += VLAN_TAG_SIZE
    return length > 0 && length <= this.maxFrame + tags
  }

  private badLength(length: number): DriverError {
    const { maxFrame, mtu, name } = this
    const message = `a frame of ${length} bytes: must be 1 to ${maxFrame} (MTU ${mtu}), and 4 more for each VLAN tag`
    return new DriverError('NET_FRAME_LENGTH', name, message, { length, maxFrame })
  }
}

function isTag(bytes: Uint8Array, at: number): boolean {
  const type = (bytes[at] << 8) | bytes[at + 1]
  return type === ETHERTYPE_VLAN || type === ETHERTYPE_VLAN_STACKED
}
