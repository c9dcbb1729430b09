import { hex, type RegisterBus } from '@guestdma/memory'
import { STATUS_DRIVER_OK } from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import {
  ACCESS,
  ACCESS_READS,
  ACCESS_RESETS,
  ACCESS_STOPS,
  ACCESS_WRITES,
  ANSWER,
  ANSWERED,
  ASLEEP,
  DOORBELLS,
  MAILBOX_BYTES,
  OFFSET,
  POSITIONS,
  REQUEST,
  ringBell,
  SPACE,
  VALUE,
  WIDTHS,
} from './mailbox.ts'
import { doorbellOf, MMIO_LAYOUT, type RegisterLayout } from './register-layout.ts'
import { awaitWord, mayBlock } from './turns.ts'

/** How long the status of a live device counts as known: a driver that spins asks all the time. */
const STATUS_MS = 1

/**
 * The registers of a device in a worker, over its mailbox. An access waits for its answer: the thread blocks, or spins
 * where it may not block. A doorbell waits for nothing.
 *
 * Every access throws once the worker is gone: `WORKER_ENDED`, or `WORKER_DEADLINE` where it did not answer in time. A
 * transport makes a `TransportLostError` of that.
 */
export class WorkerRegisters {
  declare readonly name: string
  declare readonly deadlineMs: number
  /** What every access throws; `null` while the worker is there. */
  lost: DeviceError | null = null
  /** Called once when {@link lost} is set by an access that got no answer. */
  onLost: (() => void) | null = null
  declare words: Int32Array
  layout: RegisterLayout = MMIO_LAYOUT

  declare private readonly blocks: boolean
  private sequence = 0
  // The status that was read last, and until when that will do.
  private status = 0
  private statusUntil = 0

  constructor(name: string, deadlineMs: number) {
    this.name = name
    this.deadlineMs = deadlineMs
    this.blocks = mayBlock()
    this.renew()
  }

  /** The registers of one space, as a bus. */
  space(space: number): RegisterBus {
    return {
      read: (offset, size) => this.read(space, offset, size),
      write: (offset, size, value) => this.write(space, offset, size, value),
    }
  }

  read(space: number, offset: number, size: 1 | 2 | 4): number {
    const { status } = this.layout
    const isStatus = offset === status.offset && space === status.space && size === status.size
    if (isStatus && this.statusUntil !== 0 && performance.now() < this.statusUntil) {
      if (this.lost !== null) throw this.lost
      return this.status
    }
    const value = this.access(ACCESS_READS | size, space, offset, 0) >>> 0
    if (isStatus && (value & STATUS_DRIVER_OK) !== 0) {
      this.status = value
      this.statusUntil = performance.now() + STATUS_MS
    }
    return value
  }

  write(space: number, offset: number, size: 1 | 2 | 4, value: number): void {
    const queue = doorbellOf(this.layout.doorbells, space, offset, value)
    if (queue >= 0) this.ring(queue, size, value)
    else this.access(ACCESS_WRITES | size, space, offset, value)
  }

  /** The device interrupts: its status may have changed. */
  interrupted(): void {
    this.statusUntil = 0
  }

  /** Resets registers and device, as a reset of the machine does. */
  reset(): void {
    this.access(ACCESS_RESETS, 0, 0, 0)
  }

  /** Resets the device and ends the worker's loop. Returns whether it said that it did. */
  stop(): boolean {
    try {
      this.access(ACCESS_STOPS, 0, 0, 0)
      return true
    } catch {
      return false
    }
  }

  /** A new mailbox, for the next worker: the last one may still write to the old one. */
  renew(): Int32Array {
    this.sequence = this.statusUntil = 0
    this.words = new Int32Array(new SharedArrayBuffer(MAILBOX_BYTES))
    return this.words
  }

  private ring(queue: number, size: number, value: number): void {
    const { words, lost } = this
    if (lost !== null) throw lost
    words[WIDTHS + queue] = size
    Atomics.store(words, POSITIONS + queue, value)
    Atomics.or(words, DOORBELLS, 1 << queue)
    if (Atomics.load(words, ASLEEP) !== 0) ringBell(words)
  }

  private access(kind: number, space: number, offset: number, value: number): number {
    const { words, lost } = this
    if (lost !== null) throw lost
    // Whoever does anything else, such as looking why the device interrupts, wants to know the status as it is then.
    this.statusUntil = 0
    const number = (this.sequence + 1) | 0
    this.sequence = number
    words[ACCESS] = kind
    words[SPACE] = space
    words[OFFSET] = offset
    words[VALUE] = value
    Atomics.store(words, REQUEST, number)
    if (Atomics.load(words, ASLEEP) !== 0) ringBell(words)
    if (!awaitWord(words, ANSWERED, number, this.deadlineMs, this.blocks)) throw this.lose(offset)
    return Atomics.load(words, ANSWER)
  }

  private lose(offset: number): DeviceError {
    const { deadlineMs } = this
    const message = `the worker did not answer an access to register ${hex(offset)} within ${deadlineMs} ms`
    const error = new DeviceError('WORKER_DEADLINE', this.name, message, { offset, deadlineMs })
    this.lost = error
    this.onLost?.()
    return error
  }
}
