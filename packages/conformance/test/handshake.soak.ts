import { Worker } from 'node:worker_threads'
import { describe, expect, inject, test } from 'vitest'
import { CONTROL, type LitmusOptions } from './support/litmus-side.ts'

const { seed, milliseconds } = inject('soak')

/** `LITMUS_WITHOUT=publish` (or `arm`, `flush`, `rearm`) takes that barrier out, to see how soon a chain is lost. */
const without = process.env.LITMUS_WITHOUT

const RUNS = [false, true].flatMap((packed) =>
  [true, false].flatMap((eventIndex) =>
    (['transmit', 'receive'] as const).map((direction) => ({ packed, eventIndex, direction })),
  ),
)

/** Sleeps of each side, and what a run may take where there are fewer. */
const LEAST_SLEEPS = 1000
const MOST_MS = 60_000

const { sleeps: SLEEPS, stop: STOP, chains: CHAINS, lost: LOST, firstLoss: FIRST_LOSS, words: WORDS } = CONTROL

describe('two threads that sleep and wake each other lose no chain', () => {
  test.each(RUNS)('$direction, packed $packed, event index $eventIndex', async ({ packed, eventIndex, direction }) => {
    const options: LitmusOptions = { direction, packed, eventIndex, size: 8, chains: Infinity, batch: 1, seed, without }
    const words = await litmus(options, milliseconds / RUNS.length)
    const sleeps = `${words[SLEEPS]} and ${words[SLEEPS + 1]} sleeps`
    console.log(
      `litmus ${direction}, packed ${packed}, event index ${eventIndex}: ${words[CHAINS]} chains, ${sleeps}, ${words[LOST]} lost`,
    )
    expect({ lost: words[LOST], after: words[FIRST_LOSS] }).toEqual({ lost: 0, after: 0 })
    expect(words[CHAINS]).toBeGreaterThan(1000)
    // Both sides did go to sleep: without that nothing was tried.
    expect(Math.min(words[SLEEPS], words[SLEEPS + 1])).toBeGreaterThan(100)
  })
})

async function litmus(options: LitmusOptions, runMilliseconds: number): Promise<Int32Array> {
  const ram = new SharedArrayBuffer(1 << 16)
  const control = new SharedArrayBuffer(4 * WORDS)
  const words = new Int32Array(control)
  const url = new URL('./support/litmus-side.ts', import.meta.url)
  const workers = (['driver', 'device'] as const).map(
    (side) => new Worker(url, { workerData: { side, ram, control, options } }),
  )
  const ends = workers.map(
    (worker) =>
      new Promise<void>((resolve, reject) => {
        worker.on('error', reject)
        worker.on('exit', () => resolve())
      }),
  )
  const begin = performance.now()
  // A busy machine takes long to start threads, so that the time alone would stop them before they tried anything.
  const clock = setInterval(() => {
    const elapsed = performance.now() - begin
    const tried = Math.min(words[SLEEPS], words[SLEEPS + 1]) > LEAST_SLEEPS
    if (elapsed >= MOST_MS || (elapsed >= runMilliseconds && tried)) Atomics.store(words, STOP, 1)
  }, 10)
  await Promise.all(ends).finally(() => clearInterval(clock))
  return words
}
