import type { Region } from './region.ts'

/**
 * A block of device registers. A device model implements it and the machine's bus calls it; a driver's transport calls
 * it and the machine implements it. `size` is the width of the access in bytes; values are unsigned.
 */
export interface RegisterBus {
  read(offset: number, size: 1 | 2 | 4): number
  write(offset: number, size: 1 | 2 | 4, value: number): void
}

/** Where a device's interrupts go: a level, and for message-signalled interrupts an address and data. */
export interface InterruptSink {
  level(asserted: boolean): void
  message?(address: number, data: number): void
}

/** Access kinds of {@link BusPort.resolve}, from the device's point of view. */
export const ACCESS_READ = 1
export const ACCESS_WRITE = 2

/**
 * What one device can reach. The platform makes it; every access of a device goes through it. The address is passed in
 * `request[0]` and the answer in `region` and `offset`, since an address that travels as an argument becomes a heap
 * number.
 */
export interface BusPort {
  /** Changes whenever an earlier answer may have become wrong: unmap, detach, reset, growth of a memory. */
  readonly epoch: number
  /** [0]: the device address that the next `resolve` asks for. */
  readonly request: Float64Array
  /**
   * Resolves up to `length` bytes at `request[0]`. Returns how many contiguous bytes are granted (at most `length`), or
   * 0 with a fault recorded. `region` and `offset` hold where they are, for as long as `epoch` stays the same.
   */
  resolve(length: number, access: 1 | 2): number
  /**
   * Whether the last `resolve` returned 0 since the answer is not known yet. Nothing was recorded then: the device leaves
   * the chain in its ring, and whoever owns the port notifies the device of its queues when the answer is there. A port
   * without it always knows.
   */
  readonly pending?: boolean
  /**
   * Records an access to an address at or beyond 2^53, which `request[0]` could not hold exactly, as the two halves
   * that stood in memory.
   */
  outOfReach?(high: number, low: number, length: number, access: 1 | 2): void
  readonly region: Region
  readonly offset: number
  /**
   * The span around the last grant, for as long as `epoch` stays the same: [0] the device address where it begins, [1]
   * its bytes, [2] the offset of its first byte in `region`, [3] the permitted access kinds. A caller may answer
   * requests inside it by itself. [1] is 0 where a port does not say.
   */
  readonly window: Float64Array
  /**
   * Delivers a message-signalled interrupt: a device's write of the 32-bit `data` to `request[0]`. False, or no such
   * method: that address is no doorbell of the platform, and the message is a write to memory like any other.
   */
  message?(data: number): boolean
  /** Re-derives views that growth of a memory detached; called by a device at the head of each poll. */
  refresh(): void
}
