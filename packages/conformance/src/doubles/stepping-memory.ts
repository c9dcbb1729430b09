import { Region } from '@guestdma/memory'

const VIEWS = ['u8', 'u16', 'u32', 'u64'] as const
const STORING_METHODS = new Set(['fill', 'set', 'copyWithin', 'sort', 'reverse'])
type View = Region[(typeof VIEWS)[number]]

/**
 * Turns the stores and loads of a region into steps, so that the other side can act between any two of them: in one
 * process nothing else makes an order of publication, or a second load of the same word, visible. It replaces the
 * region's views by proxies; whoever took a view before it was made is not stepped.
 *
 * Steps are taken while {@link run} runs, and not inside of the callbacks, which may thus use the region themselves.
 *
 * @example
 * const stepping = new SteppingMemory(region)
 * stepping.onStore = () => peer.peek()
 * stepping.run(() => queue.publish())
 */
export class SteppingMemory {
  /** Called after each store, with the bytes that it changed. A `fill` or `set` is one store. */
  onStore: ((offset: number, bytes: number) => void) | null = null
  /**
   * Called before each load. `nth` counts the loads of the byte at `offset` since `run` began, from 1 on: an adversary
   * changes the bytes where it is 2, and catches who fetches twice for one decision.
   */
  onLoad: ((offset: number, bytes: number, nth: number) => void) | null = null
  /** Stores since the last `run` began. */
  stores = 0
  readonly region: Region
  /** The same bytes, without steps. */
  readonly raw: Region

  private readonly counts = new Map<number, number>()
  private stepping = false

  constructor(region: Region) {
    this.region = region
    this.raw = new Region(region.source, `${region.name} (raw)`)
    const { raw } = this
    region.u8 = this.proxy(raw.u8)
    region.u16 = this.proxy(raw.u16)
    region.u32 = this.proxy(raw.u32)
    region.u64 = this.proxy(raw.u64)
    region.view = this.proxyView(raw.view)
    // Atomics take no proxies.
    region.storeThenLoad = (half, value, other, otherHalf) => {
      region.u16[half] = value
      return other.loadShared(otherHalf)
    }
    region.loadShared = (half) => region.u16[half]
    region.storeWordThenLoad = (word, value, other, otherWord) => {
      region.u32[word] = value
      return other.loadSharedWord(otherWord)
    }
    region.loadSharedWord = (word) => region.u32[word]
  }

  /** Runs `body` step by step and returns what it returns. */
  run<T>(body: () => T): T {
    this.stores = 0
    this.counts.clear()
    this.stepping = true
    try {
      return body()
    } finally {
      this.stepping = false
    }
  }

  /** How often the byte at `offset` was loaded since the last `run` began. */
  loadsOf(offset: number): number {
    return this.counts.get(offset) ?? 0
  }

  /** Gives the region its plain views back. */
  restore(): void {
    const { region, raw } = this
    region.u8 = raw.u8
    region.u16 = raw.u16
    region.u32 = raw.u32
    region.u64 = raw.u64
    region.view = raw.view
    Reflect.deleteProperty(region, 'storeThenLoad')
    Reflect.deleteProperty(region, 'loadShared')
    Reflect.deleteProperty(region, 'storeWordThenLoad')
    Reflect.deleteProperty(region, 'loadSharedWord')
  }

  private stored(offset: number, bytes: number): void {
    if (!this.stepping) return
    this.stores++
    this.outside(() => this.onStore?.(offset, bytes))
  }

  private loading(offset: number, bytes: number): void {
    if (!this.stepping) return
    for (let i = offset; i < offset + bytes; i++) this.counts.set(i, this.loadsOf(i) + 1)
    this.outside(() => this.onLoad?.(offset, bytes, this.loadsOf(offset)))
  }

  private outside(callback: () => void): void {
    this.stepping = false
    try {
      callback()
    } finally {
      this.stepping = true
    }
  }

  private proxy<T extends View>(view: T): T {
    const width = view.BYTES_PER_ELEMENT
    return new Proxy(view, {
      get: (target, key) => {
        const index = indexOf(key)
        if (index >= 0) {
          if (index < target.length) this.loading(index * width, width)
          return target[index]
        }
        const value = Reflect.get(target, key, target) as unknown
        if (typeof value !== 'function') return value
        if (typeof key !== 'string' || !STORING_METHODS.has(key)) return value.bind(target) as unknown
        return (...args: unknown[]): unknown => {
          const result = (value as (...args: unknown[]) => unknown).apply(target, args)
          this.stored(0, target.byteLength)
          return result
        }
      },
      set: (target, key, value) => {
        const index = indexOf(key)
        if (index < 0 || index >= target.length) return true
        target[index] = value as never
        this.stored(index * width, width)
        return true
      },
    })
  }

  private proxyView(view: DataView): DataView {
    return new Proxy(view, {
      get: (target, key) => {
        const value = Reflect.get(target, key, target) as unknown
        if (typeof value !== 'function' || typeof key !== 'string') return value
        const bytes = Number(/\d+$/.exec(key)?.[0] ?? 0) / 8
        return (offset: number, ...args: unknown[]): unknown => {
          const stores = key.startsWith('set')
          if (!stores) this.loading(offset, bytes)
          const result = (value as (...args: unknown[]) => unknown).call(target, offset, ...args)
          if (stores) this.stored(offset, bytes)
          return result
        }
      },
    })
  }
}

function indexOf(key: string | symbol): number {
  return typeof key === 'string' && /^\d+$/.test(key) ? Number(key) : -1
}
