/** A value, cut to the width of an access. */
export function cut(value: number, size: 1 | 2 | 4): number {
  return size === 4 ? value >>> 0 : value & (size === 2 ? 0xffff : 0xff)
}

/**
 * Whether a read of `size` bytes at `offset` is an aligned part of a register of `width` bytes that begins at `start`:
 * an emulator may split what its guest read in one piece.
 */
export function isPart(offset: number, size: 1 | 2 | 4, start: number, width: number): boolean {
  return offset >= start && offset + size <= start + width && (offset - start) % size === 0
}

/** The bytes that a read of `size` bytes gives, `into` bytes into a register that holds `value`. */
export function partOf(value: number, into: number, size: 1 | 2 | 4): number {
  return cut(value >>> (8 * into), size)
}
