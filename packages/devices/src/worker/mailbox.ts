/**
 * The words that a driver's side and a worker share beside memory, as 32-bit words of a small SharedArrayBuffer.
 *
 * A register access is one at a time: the driver's side writes ACCESS, SPACE, OFFSET and VALUE and then a new number to
 * REQUEST; the worker's side writes ANSWER and then that number to ANSWERED. A doorbell is not answered: its width goes to
 * WIDTHS, its value to POSITIONS and then a bit to DOORBELLS, so that of several only the last one counts, which says where
 * the driver stands (virtio 1.4 §2.9).
 *
 * The worker sleeps on BELL. It writes 1 to ASLEEP before it looks for the last time, and who has something for it
 * looks at ASLEEP after that was written: with both stores and both loads atomic, one of them sees the other.
 *
 * Each side believes a word of the other's only after a check, and keeps its own numbers to itself.
 */
export const MAILBOX_BYTES = 512

// Written on the driver's side, but for BELL, which both bump.
export const BELL = 0
export const REQUEST = 1
export const ACCESS = 2
export const OFFSET = 3
export const VALUE = 4
export const DOORBELLS = 5
export const SPACE = 6
export const POSITIONS = 16
export const WIDTHS = 48

// Written by the worker, in a cache line of their own.
export const ASLEEP = 96
export const ANSWERED = 97
export const ANSWER = 98
export const INTERRUPTS = 99
/** 1 while the device's interrupt line is up. */
export const LINE = 100

/** Queues that have a doorbell of their own; one bit each. Those of others are ordinary writes. */
export const DOORBELL_QUEUES = 32

// ACCESS: the width in bytes, and one of these.
export const WIDTH = 7
export const ACCESS_READS = 0
export const ACCESS_WRITES = 8
/** Resets the device and ends the worker's loop for good. */
export const ACCESS_STOPS = 16
/** Resets registers and device, as a reset of the machine does. */
export const ACCESS_RESETS = 32

/** What a thread that slept away `BELL` is woken with, once there is something for it. */
export function ringBell(words: Int32Array): void {
  Atomics.add(words, BELL, 1)
  Atomics.notify(words, BELL)
}
