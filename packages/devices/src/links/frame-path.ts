import { observe } from '@guestdma/memory'
import { DeviceError } from '../faults/errors.ts'
import { type FifoOptions, FrameFifo } from './frame-fifo.ts'
import type { FrameReceiver } from './net-link.ts'

/** What a path counted. */
export interface PathCounters {
  /** Handed to the receiver, at once or later. */
  delivered: number
  /** Dropped because nobody was there (no device, or no live driver), or because a receiver threw. */
  dropped: number
  /** Dropped because a frame was longer than the queue's slots while it had to wait. */
  oversize: number
}

/**
 * The way to one receiver: handed over at once while it has buffers, queued otherwise. Order is kept. A receiver that
 * is not live is a cable that is not plugged in: what is sent to it is dropped and counted, and what waited for it as
 * well, so that a stopped peer never blocks a sender.
 */
export class FramePath {
  readonly counters: PathCounters = { delivered: 0, dropped: 0, oversize: 0 }
  declare private readonly part: string
  declare private readonly fifo: FrameFifo
  private receiver: FrameReceiver | null = null
  declare private readonly room: () => void

  /** `room` is called when the path was full and is not any more. */
  constructor(part: string, options: FifoOptions, room: () => void) {
    this.part = part
    this.room = room
    this.fifo = new FrameFifo(part, options)
  }

  /** Throws `LINK_ATTACHED` if another device is attached. */
  attach(receiver: FrameReceiver): void {
    if (this.receiver !== null && this.receiver !== receiver) {
      throw new DeviceError('LINK_ATTACHED', this.part, 'a device is plugged in already; use a further link or port')
    }
    this.receiver = receiver
  }

  get live(): boolean {
    try {
      return this.receiver?.live === true
    } catch (error) {
      observe(rethrow, error)
      return false
    }
  }

  get waiting(): number {
    return this.fifo.length
  }

  get full(): boolean {
    return this.fifo.full && !this.unplugged()
  }

  /**
   * Sends a frame on its way. False: it was dropped, and counted, except where the queue is full, which is the caller's
   * to count.
   */
  send(frame: Uint8Array<ArrayBuffer>): boolean {
    const { fifo, receiver } = this
    if (receiver === null || this.unplugged()) {
      this.counters.dropped++
      return false
    }
    if (fifo.length === 0 && this.offer(receiver, frame)) return true
    if (frame.length > fifo.frameBytes) {
      this.counters.oversize++
      return false
    }
    return fifo.push(frame)
  }

  /** Hands over up to `budget` frames that waited. Returns how many. */
  deliver(budget: number): number {
    const { fifo, receiver } = this
    let done = 0
    if (receiver === null) return 0
    const wasFull = fifo.full
    while (done < budget && fifo.length > 0 && this.offer(receiver, fifo.front())) {
      fifo.pop()
      done++
    }
    if (wasFull && done > 0) this.room()
    return done
  }

  /** Drops and counts what waits, if nobody is there to take it. Returns whether that is so. */
  unplugged(): boolean {
    if (this.live) return false
    const { fifo } = this
    const wasFull = fifo.full
    if (fifo.length > 0) this.counters.dropped += fifo.clear()
    if (wasFull) this.room()
    return true
  }

  // True: the receiver is done with the frame. One that throws lost it; others, and what follows, are not concerned.
  private offer(receiver: FrameReceiver, frame: Uint8Array<ArrayBuffer>): boolean {
    const { counters } = this
    try {
      if (!receiver.receive(frame)) return false
      counters.delivered++
    } catch (error) {
      counters.dropped++
      observe(rethrow, error)
    }
    return true
  }
}

function rethrow(error: unknown): void {
  throw error
}
