import { NO_CHAIN, type RingWalker } from '@guestdma/devices/ring'
import { SEGMENT_DEVICE, type Virtqueue } from '@guestdma/virtqueue'
import type { Turns } from './side.ts'

/** How much happens in one history. */
export interface History {
  /** `transmit`: the device uses what it gets. `receive`: it uses chains when a frame arrives; one always does. */
  readonly direction: 'transmit' | 'receive'
  /** Chains in all. */
  readonly chains: number
  /** Chains that the driver publishes together. */
  readonly batch: number
  /** Receiving: chains that the device needs for one frame; until there are so many it takes none. Default 1. */
  readonly needs?: number
}

/**
 * A driver that never polls: it fills the ring, takes what is used, and when nothing is left it arms and sleeps. It
 * ends when all chains are back.
 */
export function driverProgram(
  queue: Virtqueue,
  { direction, chains, batch }: History,
  payload: number,
): (turns: Turns) => void {
  return (turns: Turns): void => {
    let added = 0
    let back = 0
    while (back < chains) {
      turns.pause?.()
      for (let room = true; room && added < chains; ) {
        room = false
        for (let n = 0; n < batch && added < chains && queue.free > 0; n++) {
          queue.segments.kind[0] = SEGMENT_DEVICE
          queue.segments.address[0] = payload
          queue.segments.length[0] = 1
          queue.add(direction === 'transmit' ? 1 : 0, direction === 'transmit' ? 0 : 1)
          added++
          room = true
        }
        queue.publish()
        turns.pause?.()
      }
      const n = queue.reap(queue.size)
      queue.recycle()
      back += n
      turns.pause?.()
      if (n > 0 || back === chains || queue.arm()) continue
      turns.sleep()
      queue.disarm()
    }
  }
}

/** A device that never polls: it works until there is nothing left, re-arms, and sleeps. It never ends. */
export function deviceProgram(walker: RingWalker, { direction, needs = 1 }: History): (turns: Turns) => void {
  const publish = (turns: Turns): void => {
    if (walker.flush()) turns.signal()
  }
  const transmit = (turns: Turns): void => {
    for (;;) {
      turns.sleep()
      do {
        turns.pause?.()
        for (walker.update(); walker.take() !== NO_CHAIN; ) walker.push(walker.chains.head(0), 0, true)
        if (walker.flushAndRearm()) turns.signal()
      } while (walker.more)
    }
  }
  const receive = (turns: Turns): void => {
    for (;;) {
      turns.pause?.()
      for (let rows = 0; rows < needs; ) {
        let row = rows === 0 ? walker.take() : walker.takeMore()
        if (row === NO_CHAIN && walker.update() > 0) row = rows === 0 ? walker.take() : walker.takeMore()
        if (row !== NO_CHAIN) {
          rows++
          continue
        }
        walker.untake(rows)
        rows = 0
        if (!walker.rearm()) turns.sleep()
      }
      for (let row = 0; row < needs; row++) walker.push(walker.chains.head(row), 1, true)
      publish(turns)
    }
  }
  return direction === 'transmit' ? transmit : receive
}
