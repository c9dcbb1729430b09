import { setImmediate as turn } from 'node:timers/promises'
import { NetDevice, nothing } from '@guestdma/devices'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { DeviceLoop } from '../src/worker/device-loop.ts'
import {
  ACCESS,
  ACCESS_STOPS,
  ANSWERED,
  ASLEEP,
  BELL,
  DOORBELLS,
  MAILBOX_BYTES,
  REQUEST,
  ringBell,
} from '../src/worker/mailbox.ts'
import { MMIO_LAYOUT } from '../src/worker/register-layout.ts'

afterEach(() => vi.restoreAllMocks())

/** Atomic loads and stores of a loop that goes to sleep and is woken, at most. */
const STEPS = 6
const PATIENCE_TURNS = 200

type Act = (words: Int32Array) => void

/**
 * Runs a loop until it goes to sleep. The other side stores what it wants right before step `first` of that, and looks
 * whether the loop sleeps right before step `second`. Returns the words once `done`, or after a while.
 */
async function history(
  first: number,
  second: number,
  act: Act,
  done: (words: Int32Array) => boolean,
): Promise<Int32Array> {
  const words = new Int32Array(new SharedArrayBuffer(MAILBOX_BYTES))
  const device = new NetDevice({ name: 'net', port: nothing('net') })
  const bus = { read: () => 0, write: () => {} }
  const loop = new DeviceLoop(words, device, { spaces: [bus], doorbells: MMIO_LAYOUT.doorbells, reset: () => {} })
  const { load, store } = Atomics
  let step = Number.NEGATIVE_INFINITY
  const before = (): void => {
    if (step === first) act(words)
    if (step === second && load(words, ASLEEP) !== 0) ringBell(words)
    step++
  }
  vi.spyOn(Atomics, 'load').mockImplementation(((array: Int32Array, index: number) => {
    // Nothing else looks at the bell.
    if (index === BELL && step < 0) step = 0
    before()
    return load(array, index)
  }) as typeof Atomics.load)
  vi.spyOn(Atomics, 'store').mockImplementation(((array: Int32Array, index: number, value: number) => {
    before()
    return store(array, index, value)
  }) as typeof Atomics.store)
  const ended = loop.run()
  await turn()
  vi.restoreAllMocks()
  // What it does while the loop sleeps already.
  while (step < STEPS) before()
  for (let turns = 0; turns < PATIENCE_TURNS && !done(words); turns++) await turn()
  const result = words.slice()
  Atomics.store(words, ACCESS, ACCESS_STOPS)
  Atomics.store(words, REQUEST, -1)
  ringBell(words)
  await ended
  return result
}

const PAIRS = Array.from({ length: STEPS }, (_, first) =>
  Array.from({ length: STEPS - first }, (_, more) => [first, first + more] as const),
).flat()

describe('a worker that goes to sleep loses nothing, whatever the order of its loads and stores and of the other side', () => {
  it.each(PAIRS)(
    'an access is stored before step %i, and its sleep looked at before step %i',
    async (first, second) => {
      const access: Act = (words) => void Atomics.add(words, REQUEST, 1)
      const words = await history(first, second, access, (now) => Atomics.load(now, ANSWERED) === 1)
      expect(words[ANSWERED]).toBe(1)
    },
  )

  it.each(PAIRS)(
    'a doorbell is stored before step %i, and its sleep looked at before step %i',
    async (first, second) => {
      const doorbell: Act = (words) => void Atomics.or(words, DOORBELLS, 1)
      const words = await history(first, second, doorbell, (now) => Atomics.load(now, DOORBELLS) === 0)
      expect(words[DOORBELLS]).toBe(0)
    },
  )
})
