import type { VirtioDevice } from '../device/virtio-device.ts'
import {
  ACCESS,
  ACCESS_RESETS,
  ACCESS_STOPS,
  ACCESS_WRITES,
  ANSWER,
  ANSWERED,
  ASLEEP,
  BELL,
  DOORBELLS,
  OFFSET,
  POSITIONS,
  REQUEST,
  ringBell,
  SPACE,
  VALUE,
  WIDTH,
  WIDTHS,
} from './mailbox.ts'
import type { ServedRegisters } from './served-registers.ts'
import type { TranslationReader } from './translation-reader.ts'
import { changed, nextTurn, pause } from './turns.ts'

/** Chains that a poll may take before registers and doorbells are looked at again. */
const BUDGET = 64
/** Looks that find nothing before the worker sleeps: a driver that sends one batch after the other finds it awake. */
const SPINS = 4000
/** How long a store or a link waits for the event loop at most, while there is always something to do. */
const TURN_MS = 4
/** Steps of work between two looks at the clock. */
const STEPS = 64

/**
 * What a worker does: answers register accesses, takes doorbells, polls the device while there is something to do, then
 * spins for a while and then sleeps.
 */
export class DeviceLoop {
  private readonly words: Int32Array
  private readonly device: VirtioDevice
  private readonly registers: ServedRegisters
  private readonly translations: TranslationReader | null
  private served = 0
  private due = true
  private stopped = false

  constructor(
    words: Int32Array,
    device: VirtioDevice,
    registers: ServedRegisters,
    translations: TranslationReader | null = null,
  ) {
    this.words = words
    this.device = device
    this.registers = registers
    this.translations = translations
    const { onWork } = device
    device.onWork = () => {
      this.due = true
      // By a store or a link, while this loop sleeps.
      if (Atomics.load(words, ASLEEP) !== 0) ringBell(words)
      onWork?.()
    }
  }

  /** Resolves once the driver's side stopped it. */
  async run(): Promise<void> {
    while (!this.stopped) {
      this.translations?.enter()
      const idle = this.turn()
      this.translations?.leave()
      await (idle ? this.sleep() : nextTurn())
    }
  }

  // Returns whether there is nothing left to do; false: it is the event loop's turn.
  private turn(): boolean {
    const end = performance.now() + TURN_MS
    for (let idle = 0, steps = 0; idle < SPINS && !this.stopped; ) {
      if (this.step()) {
        idle = 0
        if (++steps % STEPS === 0 && performance.now() >= end) return false
      } else {
        idle++
        pause()
      }
    }
    return true
  }

  private step(): boolean {
    const { translations, words } = this
    let worked = false
    // A doorbell that was rung before an access is taken before it: after a reset nobody would want it.
    const request = Atomics.load(words, REQUEST)
    // After that load: what was mapped before the access was asked for is mapped when it is done.
    if (translations !== null) translations.pass()
    if (Atomics.load(words, DOORBELLS) !== 0) {
      this.takeDoorbells()
      worked = true
    }
    if (request !== this.served) {
      this.answer(request)
      worked = true
    }
    if (this.due) {
      this.due = false
      if (this.device.poll(BUDGET) > 0) this.due = true
      worked = true
    }
    return worked
  }

  private async sleep(): Promise<void> {
    const { words } = this
    const bell = Atomics.load(words, BELL)
    Atomics.store(words, ASLEEP, 1)
    const pending = Atomics.load(words, REQUEST) !== this.served || Atomics.load(words, DOORBELLS) !== 0
    if (!pending && !this.stopped) await changed(words, BELL, bell)
    Atomics.store(words, ASLEEP, 0)
  }

  // Of what the driver's side wrote each word is loaded once. What it must not do the register file records.
  private answer(request: number): void {
    const { words, registers } = this
    this.served = request
    const access = Atomics.load(words, ACCESS)
    const space = registers.spaces[Atomics.load(words, SPACE)]
    const offset = Atomics.load(words, OFFSET) >>> 0
    const value = Atomics.load(words, VALUE) >>> 0
    const size = access & WIDTH
    let answer = 0
    if ((access & ACCESS_STOPS) !== 0) this.stop()
    else if ((access & ACCESS_RESETS) !== 0) registers.reset()
    else if (isWidth(size) && space !== undefined && space !== null) {
      if ((access & ACCESS_WRITES) !== 0) space.write(offset, size, value)
      else answer = space.read(offset, size)
    }
    Atomics.store(words, ANSWER, answer)
    Atomics.store(words, ANSWERED, request)
    Atomics.notify(words, ANSWERED)
  }

  private takeDoorbells(): void {
    const { words } = this
    const { space, offset, stride } = this.registers.doorbells
    const bus = this.registers.spaces[space]
    let bits = Atomics.exchange(words, DOORBELLS, 0)
    while (bits !== 0) {
      const queue = 31 - Math.clz32(bits)
      bits &= ~(1 << queue)
      const width = Atomics.load(words, WIDTHS + queue)
      const value = Atomics.load(words, POSITIONS + queue) >>> 0
      if (isWidth(width)) bus?.write(offset + queue * stride, width, value)
    }
  }

  private stop(): void {
    this.stopped = true
    this.due = false
    this.device.reset()
  }
}

function isWidth(size: number): size is 1 | 2 | 4 {
  return size === 1 || size === 2 || size === 4
}
