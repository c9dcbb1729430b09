import { checkSpan, type GuestAddress } from './address.ts'
import { hex, MemoryError } from './errors.ts'

interface Span {
  base: number
  length: number
}

/**
 * Hands out spans of guest addresses, first fit, for set-up time: rings, pools, a driver's buffers. It keeps addresses
 * only and touches no byte of memory.
 *
 * @throws MemoryError `MEMORY_EXHAUSTED` where no span fits, `MEMORY_FREE` for a span that was not handed out
 */
export class SpanAllocator {
  readonly name: string
  private readonly base: GuestAddress
  private readonly length: number
  private readonly free: Span[] = []
  private readonly taken = new Map<number, number>()
  private parent: SpanAllocator | null = null

  /** Manages [base, base + length). */
  constructor(base: GuestAddress, length: number, name = 'guest RAM') {
    checkSpan(base, length, name)
    this.name = name
    this.base = base
    this.length = length
    this.free.push({ base, length })
  }

  /**
   * An allocator over the same spans that keeps an account of its own: `live` and `allocated` count what was handed out
   * through it, and it takes back nothing else.
   */
  account(): SpanAllocator {
    const account = new SpanAllocator(this.base, this.length, this.name)
    account.parent = this
    return account
  }

  /** Bytes that are not handed out. */
  get available(): number {
    return this.parent?.available ?? this.free.reduce((sum, span) => sum + span.length, 0)
  }

  /** Bytes that are handed out. */
  get allocated(): number {
    return [...this.taken.values()].reduce((sum, length) => sum + length, 0)
  }

  /** Spans that are handed out. */
  get live(): number {
    return this.taken.size
  }

  /** A span of `length` bytes whose base is a multiple of `align` (a power of two). */
  allocate(length: number, align = 8): GuestAddress {
    if (this.parent !== null) {
      const base = this.parent.allocate(length, align)
      this.taken.set(base, length)
      return base
    }
    if (!Number.isInteger(length) || length < 1)
      throw new MemoryError('MEMORY_LENGTH', this.name, `cannot allocate ${length} bytes`, { length })
    if (!Number.isInteger(align) || align < 1 || align > 2 ** 30 || (align & (align - 1)) !== 0) {
      throw new MemoryError('MEMORY_ALIGN', this.name, `alignment ${align} is not a power of two up to 2^30`, { align })
    }
    for (const [i, span] of this.free.entries()) {
      const base = Math.ceil(span.base / align) * align
      const end = span.base + span.length
      if (base + length > end) continue
      const rest = [
        { base: span.base, length: base - span.base },
        { base: base + length, length: end - base - length },
      ]
      this.free.splice(i, 1, ...rest.filter((piece) => piece.length > 0))
      this.taken.set(base, length)
      return base as GuestAddress
    }
    throw new MemoryError(
      'MEMORY_EXHAUSTED',
      this.name,
      `no ${length} bytes free at alignment ${align} (${this.available} bytes free in ${this.free.length} spans)`,
      {
        length,
        align,
        available: this.available,
      },
    )
  }

  /** Takes back a span that {@link allocate} returned. */
  release(base: GuestAddress): void {
    const length = this.taken.get(base)
    if (length === undefined)
      throw new MemoryError('MEMORY_FREE', this.name, `${hex(base)} was not handed out`, { base })
    this.taken.delete(base)
    if (this.parent !== null) {
      this.parent.release(base)
      return
    }
    const after = this.free.findIndex((span) => span.base > base)
    const at = after === -1 ? this.free.length : after
    this.free.splice(at, 0, { base, length })
    this.merge(at)
    if (at > 0) this.merge(at - 1)
  }

  private merge(i: number): void {
    const span = this.free[i]
    const next = this.free[i + 1]
    if (span === undefined || next === undefined || span.base + span.length !== next.base) return
    span.length += next.length
    this.free.splice(i + 1, 1)
  }
}
