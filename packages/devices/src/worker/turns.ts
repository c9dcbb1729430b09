// What browsers and Node both have and ECMAScript 2023 has not, or has under two names.

type Wait =
  | { readonly async: true; readonly value: Promise<string> }
  | { readonly async: false; readonly value: string }

interface Globals {
  readonly setImmediate?: (callback: () => void) => unknown
  readonly MessageChannel: new () => {
    readonly port1: { onmessage: (() => void) | null }
    readonly port2: { postMessage(message: unknown): void }
  }
}

interface Waiting {
  readonly waitAsync?: (words: Int32Array, index: number, value: number) => Wait
  readonly pause?: () => void
}

const NOTHING = (): void => {}
/** How long a thread that can only wait by blocking keeps its event loop waiting. */
const BLOCKED_MS = 1

/** Can this thread wait for a shared word without blocking? */
export function canWaitAsync(): boolean {
  return typeof (Atomics as Waiting).waitAsync === 'function'
}

/** May this thread block? A browser's main thread may not. */
export function mayBlock(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0)
    return true
  } catch {
    return false
  }
}

/**
 * Resolves after the word is no longer `value` and the event loop had a turn, and now and then before that. For a thread
 * that may block where it cannot wait otherwise.
 */
export function changed(words: Int32Array, index: number, value: number): Promise<unknown> {
  const wait = (Atomics as Waiting).waitAsync?.(words, index, value)
  if (wait?.async === true) return wait.value
  if (wait === undefined) Atomics.wait(words, index, value, BLOCKED_MS)
  return nextTurn()
}

/** Resolves in the next turn of the event loop: timers, messages and answers of stores come before. */
export function nextTurn(): Promise<void> {
  const { setImmediate, MessageChannel } = globalThis as unknown as Globals
  return new Promise<void>((resolve) => {
    if (setImmediate !== undefined) {
      setImmediate(resolve)
      return
    }
    // A timer would take four milliseconds in a page.
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => resolve()
    port2.postMessage(null)
  })
}

/** Tells the processor that this is a loop that waits, where there is a way to. */
export const pause: () => void = (Atomics as Waiting).pause?.bind(Atomics) ?? NOTHING

/** An awake worker answers within a few microseconds; sleeping would take longer. */
const SPINS = 4000

/**
 * Waits until another thread wrote `number` to a word, or a later one modulo 2^32. Blocks where this thread may, and
 * spins otherwise. False: it did not within the deadline.
 */
export function awaitWord(
  words: Int32Array,
  index: number,
  number: number,
  deadlineMs: number,
  blocks: boolean,
): boolean {
  for (let i = 0; i < SPINS; i++) {
    if (((Atomics.load(words, index) - number) | 0) >= 0) return true
    pause()
  }
  const end = performance.now() + deadlineMs
  for (;;) {
    const seen = Atomics.load(words, index)
    if (((seen - number) | 0) >= 0) return true
    const left = end - performance.now()
    if (!(left > 0)) return false
    if (blocks) Atomics.wait(words, index, seen, left)
  }
}
