import { MemoryError } from './errors.ts'
import type { Meter } from './meter.ts'

/** A `WebAssembly.Memory`, by the one property that is used: its declaration is not in every TypeScript library. */
export interface WasmMemory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer
}

/**
 * What can hold guest-visible bytes. Resizable and growable buffers are refused: access to their views is slower.
 */
export type MemorySource = WasmMemory | ArrayBuffer | SharedArrayBuffer

/**
 * One buffer with a view of each width, all starting at byte 0, so that a byte offset `o` is element `o >>> 2` of
 * `u32`. There is one `Region` per buffer; addresses live in the ranges, windows and ports that refer to it.
 *
 * The fields are replaced by {@link Region.refresh} when a `WebAssembly.Memory` grew, so nobody keeps a view beyond a
 * batch.
 */
export class Region {
  declare u8: Uint8Array
  declare u16: Uint16Array
  declare u32: Uint32Array
  /** For atomic accesses: what they give back is a small integer, where an unsigned one may be allocated. */
  declare i32: Int32Array
  declare u64: BigUint64Array
  /** For unaligned and cold accesses. */
  declare view: DataView

  /** Counts accesses where set; `null` costs nothing. */
  meter: Meter | null = null
  /**
   * Called after a device wrote `length` bytes at `offset` (for a JIT's invalidation or a dirty log). It does not throw,
   * and leaves no detached views behind if it grew a memory: {@link GuestMemory} sees to both for the hook that it is
   * given.
   */
  onDeviceWrite: ((offset: number, length: number) => void) | null = null

  declare readonly source: MemorySource
  declare readonly name: string

  constructor(source: MemorySource, name: string) {
    this.source = source
    this.name = name
    if (!hostIsLittleEndian) {
      throw new MemoryError(
        'MEMORY_ENDIAN',
        name,
        'virtio memory is little-endian and this host is not; guestdma needs a little-endian host',
      )
    }
    const buffer = bufferOf(source)
    if (buffer === undefined) {
      throw new MemoryError(
        'MEMORY_SOURCE',
        name,
        'memory must be a WebAssembly.Memory, an ArrayBuffer or a SharedArrayBuffer',
        { source: typeof source },
      )
    }
    const { resizable, growable } = buffer as { resizable?: boolean; growable?: boolean }
    if (resizable === true || growable === true) {
      throw new MemoryError(
        'MEMORY_RESIZABLE',
        name,
        'resizable and growable buffers are not supported; use a fixed-length buffer or a WebAssembly.Memory',
        {
          byteLength: buffer.byteLength,
        },
      )
    }
    this.derive(buffer)
  }

  /** Bytes in the buffer as of the last refresh. */
  get length(): number {
    return this.u8.length
  }

  /**
   * Re-derives the views if growth of a `WebAssembly.Memory` detached them; called at the head of each batch. Offsets
   * stay valid, since such a memory only grows. Returns whether anything changed.
   */
  refresh(): boolean {
    // A shared memory's views survive growth and still cover every range that was declared over them.
    if (this.u8.length !== 0) return false
    this.derive(bufferOf(this.source) as ArrayBuffer | SharedArrayBuffer)
    return true
  }

  /**
   * Stores the 16-bit word `half` of this region and then loads word `otherHalf` of `other`, with a full barrier between
   * the two: the way in which a ring's index or event field is stored (virtio 1.4 §2.7.7.2, §2.7.10.1, §2.7.13).
   * Both sides do so; if a load could overtake the store before it, each could read the old word of the other, and both
   * would sleep.
   */
  storeThenLoad(half: number, value: number, other: Region, otherHalf: number): number {
    Atomics.store(this.u16, half, value)
    return Atomics.load(other.u16, otherHalf)
  }

  /**
   * Stores a ring's event field right before a {@link storeThenLoad} of the same side, whose barrier is behind both: one
   * barrier for a side that publishes and goes to sleep.
   */
  storeAhead(half: number, value: number): void {
    this.u16[half] = value
  }

  /** Loads a ring's index or event field: what the other side stored before it is visible afterwards. */
  loadShared(half: number): number {
    return Atomics.load(this.u16, half)
  }

  /**
   * Stores the 32-bit word `word` of this region and then loads word `otherWord` of `other`, with a full barrier between
   * the two: as {@link storeThenLoad}, for a packed ring, whose descriptors say themselves whether they are available or
   * used, and whose event suppression structures are read and written whole (virtio 1.4 §2.8.14). Words are 32 bits with
   * a sign.
   */
  storeWordThenLoad(word: number, value: number, other: Region, otherWord: number): number {
    Atomics.store(this.i32, word, value)
    return Atomics.load(other.i32, otherWord)
  }

  /**
   * A barrier between loads: what is loaded after it is no older than what was loaded before it. One for a batch of
   * descriptors costs less than {@link loadSharedWord} for each: first the words that say which of them are the reader's,
   * then this, then what those speak of.
   */
  readBarrier(): void {
    // There is no fence in the language. A store and a load that are sequentially consistent are one, on all processors.
    Atomics.store(fence, 0, 0)
    Atomics.load(fence, 0)
  }

  /** As {@link loadShared}, for 32 bits with a sign: the id and the flags of a descriptor. */
  loadSharedWord(word: number): number {
    return Atomics.load(this.i32, word)
  }

  private derive(buffer: ArrayBuffer | SharedArrayBuffer): void {
    if ((buffer as { detached?: boolean }).detached === true) {
      const message = 'the buffer was detached: shared memory that was closed, or a buffer that was transferred'
      throw new MemoryError('MEMORY_DETACHED', this.name, message)
    }
    const bytes = buffer.byteLength
    this.u8 = new Uint8Array(buffer)
    this.u16 = new Uint16Array(buffer, 0, Math.floor(bytes / 2))
    this.u32 = new Uint32Array(buffer, 0, Math.floor(bytes / 4))
    this.i32 = new Int32Array(buffer, 0, Math.floor(bytes / 4))
    this.u64 = new BigUint64Array(buffer, 0, Math.floor(bytes / 8))
    this.view = new DataView(buffer)
  }
}

/** Bytes [offset, offset + length) of a region: memory without an address. */
export interface MemoryWindow {
  readonly region: Region
  readonly offset: number
  readonly length: number
}

const fence = new Int32Array(1)

const hostIsLittleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

// By tag and not by `instanceof`: a SharedArrayBuffer may come from another realm, and naming the class throws where
// pages are not isolated.
function bufferOf(source: MemorySource): ArrayBuffer | SharedArrayBuffer | undefined {
  const tag = (value: unknown): string => Object.prototype.toString.call(value).slice(8, -1)
  const kind = tag(source)
  if (kind === 'ArrayBuffer' || kind === 'SharedArrayBuffer') return source as ArrayBuffer | SharedArrayBuffer
  return kind === 'WebAssembly.Memory' ? (source as WasmMemory).buffer : undefined
}
