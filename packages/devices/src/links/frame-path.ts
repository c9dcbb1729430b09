import { observe } from '@guestdma/memory'
import { DeviceError } from '../faults/errors.ts'
import { type FifoOptions, FrameFifo } from './frame-fifo.ts'
import type { Frames } from './frames.ts'
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

  get full(): boolean {
    return this.fifo.full && !this.unplugged()
  }

  /**
   * Sends frames `from` to `to` - 1 of a batch on their way. Returns with how many it is done: fewer where the queue is
   * full.
   */
  send(frames: Frames, from: number, to: number): number {
    const { counters, fifo, receiver } = this
    if (receiver === null || this.unplugged()) {
      counters.dropped += to - from
      return to - from
    }
    let i = from
    if (fifo.length === 0) i += this.offer(receiver, frames, from, to)
    for (; i < to; i++) {
      if (frames.lengths[i] > fifo.frameBytes) counters.oversize++
      else if (!fifo.push(frames, i)) break
    }
    return i - from
  }

  /** Hands over up to `budget` frames that waited. Returns how many. */
  deliver(budget: number): number {
    const { fifo, receiver } = this
    if (receiver === null) return 0
    const wasFull = fifo.full
    let done = 0
    while (done < budget && fifo.length > 0) {
      const frames = fifo.front(budget - done)
      const taken = this.offer(receiver, frames, 0, frames.count)
      // What was plugged in may have been reset meanwhile: then nothing waits any more.
      fifo.drop(Math.min(taken, fifo.length))
      done += taken
      if (taken < frames.count) break
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

  // With how many frames the receiver is done. One that throws lost them all; others, and what follows, are not concerned.
  private offer(receiver: FrameReceiver, frames: Frames, from: number, to: number): number {
    const { counters } = this
    try {
      const done = receiver.receiveEach(frames, from, to)
      counters.delivered += done
      return done
    } catch (error) {
      counters.dropped += to - from
      observe(rethrow, error)
      return to - from
    }
  }
}

function rethrow(error: unknown): void {
  throw error
}
