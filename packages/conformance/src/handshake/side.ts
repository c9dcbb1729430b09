import { Region } from '@guestdma/memory'
import { CheckError } from '../doubles/errors.ts'

/** One store that the other side cannot see yet. */
export interface BufferedStore {
  readonly offset: number
  readonly bytes: number
  readonly value: number
  /** It was made by a method of `Region` for words that the other side may look at at any time. */
  readonly shared: boolean
}

/**
 * What a side is about to do and has to be given its turn for. `store` is the barrier of `Region.storeThenLoad` or
 * `Region.storeWordThenLoad`; its load follows as an event of its own. `signal` is a doorbell or an interrupt.
 */
export type SideEvent =
  | { readonly kind: 'load'; readonly offset: number; readonly bytes: number }
  | ({ readonly kind: 'store' } & BufferedStore)
  | { readonly kind: 'signal' | 'sleep' | 'end' }

/** What a program may do beside touching memory. */
export interface Turns {
  /** Rings the doorbell, or raises the interrupt. */
  signal(): void
  /** Returns once the other side has signalled since the last time. */
  sleep(): void
  /** Between two steps, for threads whose pace is to vary. */
  pause?(): void
}

// Thrown through the code under test, to stop it where it has to wait for its turn.
const SUSPENDED = Symbol('suspended')

/**
 * One side of a ring as a program that can be stopped before every access to memory that is shared. Real code cannot be
 * suspended, so it is run anew from its beginning each time: it is given the answers that it was given before, up to
 * the first event that has none yet. That works for any code whose only inputs are its answers.
 */
export class Side {
  /** The memory as this side sees it. What is touched before the first `run` is not traced. */
  readonly region: Region
  private readonly raw: Region
  private readonly isShared: (offset: number) => boolean
  private program: ((turns: Turns) => void) | null = null
  private restore: (() => void) | null = null
  private tracing = false
  private answers: readonly number[] = []
  private answered = 0
  private stored = 0
  private known = 0
  private fresh: BufferedStore[] = []
  private event: SideEvent = { kind: 'end' }

  /** `isShared`: does an index or an event field lie there, which no plain store may change? */
  constructor(name: string, buffer: ArrayBuffer, isShared: (offset: number) => boolean) {
    this.raw = new Region(buffer, name)
    this.region = new Region(buffer, name)
    this.isShared = isShared
  }

  /** From here on the side is `program`, over objects that are put back to what they are now before each run. */
  begin(program: (turns: Turns) => void, ...state: readonly object[]): void {
    const { raw, region } = this
    this.program = program
    this.restore = snapshot(state)
    region.u8 = this.trace(raw.u8)
    region.u16 = this.trace(raw.u16)
    region.u32 = this.trace(raw.u32)
    region.storeThenLoad = (half, value, other, otherHalf) => {
      if (!this.tracing) return Region.prototype.storeThenLoad.call(raw, half, value, raw, otherHalf)
      this.next({ kind: 'store', offset: half * 2, bytes: 2, value, shared: true })
      return other.loadShared(otherHalf)
    }
    region.storeAhead = (half, value) => {
      if (this.tracing) this.buffer({ offset: half * 2, bytes: 2, value, shared: true })
      else raw.u16[half] = value
    }
    region.loadShared = (half) => region.u16[half]
    region.storeWordThenLoad = (word, value, other, otherWord) => {
      if (!this.tracing) return Region.prototype.storeWordThenLoad.call(raw, word, value, raw, otherWord)
      this.next({ kind: 'store', offset: word * 4, bytes: 4, value: value >>> 0, shared: true })
      return other.loadSharedWord(otherWord)
    }
    region.loadSharedWord = (word) => region.u32[word]
  }

  /**
   * Runs the program with the answers to its events so far. Returns the event that comes next, and the plain stores
   * since the last of the `known` ones.
   */
  run(answers: readonly number[], known: number): { event: SideEvent; stores: readonly BufferedStore[] } {
    this.restore?.()
    this.answers = answers
    this.answered = 0
    this.stored = 0
    this.known = known
    this.fresh = []
    this.event = { kind: 'end' }
    this.tracing = true
    try {
      this.program?.({
        signal: () => void this.next({ kind: 'signal' }),
        sleep: () => void this.next({ kind: 'sleep' }),
      })
    } catch (error) {
      if (error !== SUSPENDED) throw error
    } finally {
      this.tracing = false
    }
    return { event: this.event, stores: this.fresh }
  }

  private next(event: SideEvent): number {
    if (this.answered < this.answers.length) return this.answers[this.answered++]
    this.event = event
    throw SUSPENDED
  }

  private trace<T extends Uint8Array | Uint16Array | Uint32Array>(view: T): T {
    const bytes = view.BYTES_PER_ELEMENT
    return new Proxy(view, {
      get: (target, key) => {
        const index = typeof key === 'string' ? Number(key) : Number.NaN
        if (!Number.isInteger(index)) return Reflect.get(target, key, target) as unknown
        return this.tracing ? this.next({ kind: 'load', offset: index * bytes, bytes }) : target[index]
      },
      set: (target, key, value: number) => {
        const index = Number(key as string)
        if (!this.tracing) target[index] = value
        else this.plainStore({ offset: index * bytes, bytes, value, shared: false })
        return true
      },
    })
  }

  private plainStore(store: BufferedStore): void {
    if (this.isShared(store.offset)) {
      throw new CheckError(
        'CHECK_PLAIN_STORE',
        this.raw.name,
        `a plain store to byte ${store.offset}, where an index or an event field lies`,
        { offset: store.offset, bytes: store.bytes },
      )
    }
    this.buffer(store)
  }

  private buffer(store: BufferedStore): void {
    if (this.stored++ >= this.known) this.fresh.push(store)
  }
}

// Remembers the own properties of objects and of all that they refer to; what is returned puts them back.
function snapshot(roots: readonly object[]): () => void {
  const steps: (() => void)[] = []
  const seen = new Set<object>()
  const visit = (object: object): void => {
    if (seen.has(object) || object instanceof Region) return
    seen.add(object)
    if (ArrayBuffer.isView(object)) {
      const view = object as Uint8Array
      const copy = view.slice()
      steps.push(() => view.set(copy))
      return
    }
    const fields = object as Record<string, unknown>
    for (const [key, value] of Object.entries(fields)) {
      if (typeof value === 'function') continue
      steps.push(() => {
        fields[key] = value
      })
      if (typeof value === 'object' && value !== null) visit(value)
    }
  }
  for (const root of roots) visit(root)
  return () => {
    for (const step of steps) step()
  }
}
