import type { Region } from './region.ts'

// Above this, in one buffer, copyWithin wins over a loop; between two buffers the loop goes on, since set(subarray)
// allocates.
const LOOP_MAX = 256
// Above this the 100 bytes that set(subarray) allocates are small beside the bytes that it moves.
const SET_FROM = 4096
// Below this an offset is an integer to the engine and not a double.
const NEAR = 0x7fff_0000
const FILL_FROM = 129

/**
 * Copies `length` bytes between two regions without allocating (up to 4 KiB between two buffers). This is the one copy
 * routine: 8 bytes at a time, and fastest where both offsets are equal modulo 8. Ranges must lie inside their regions
 * and may not overlap.
 *
 * @param to destination, written from byte `toOffset` on
 * @param from source, read from byte `fromOffset` on
 */
export function copy(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  if (
    (length <= LOOP_MAX || (length <= SET_FROM && to.source !== from.source)) &&
    length >= 8 &&
    ((toOffset ^ fromOffset) & 7) === 0 &&
    toOffset < NEAR &&
    fromOffset < NEAR
  ) {
    if (to.meter !== null || from.meter !== null) meterCopy(to, from, length)
    // Whole aligned words, and where the ends are not aligned one unaligned word each, which may overlap its neighbour:
    // cheaper than single bytes.
    const end = fromOffset + length
    if ((fromOffset & 7) !== 0) to.view.setBigUint64(toOffset, from.view.getBigUint64(fromOffset, true), true)
    const t64 = to.u64
    const f64 = from.u64
    const first = (fromOffset + 7) >>> 3
    const shift = ((toOffset + 7) >>> 3) - first
    const last = end >>> 3
    for (let i = first; i < last; i++) t64[i + shift] = f64[i]
    if ((end & 7) !== 0) to.view.setBigUint64(toOffset + length - 8, from.view.getBigUint64(end - 8, true), true)
    return
  }
  copyOther(to, toOffset, from, fromOffset, length)
}

/**
 * As {@link copy}, for pieces `first` to `end` - 1: piece i is `lengths[i]` bytes, from byte `fromOffsets[i]` to byte
 * `toOffsets[i]`. Offsets are below 0x7fff_0000. Those that are short and aligned alike are moved by one loop.
 */
export function copyEach(
  to: Region,
  toOffsets: Int32Array,
  from: Region,
  fromOffsets: Int32Array,
  lengths: Int32Array,
  first: number,
  end: number,
): void {
  const together = to.meter === null && from.meter === null ? end : first
  let i = first
  for (;;) {
    const t64 = to.u64
    const f64 = from.u64
    const toView = to.view
    const fromView = from.view
    // It calls nothing: the engine then keeps what it knows of the arrays.
    for (; i < together; i++) {
      const toOffset = toOffsets[i]
      const fromOffset = fromOffsets[i]
      const length = lengths[i]
      if (length > LOOP_MAX || length < 8 || ((toOffset ^ fromOffset) & 7) !== 0) break
      const behind = (fromOffset + length) | 0
      if ((fromOffset & 7) !== 0) toView.setBigUint64(toOffset, fromView.getBigUint64(fromOffset, true), true)
      const shift = ((toOffset + 7) >>> 3) - ((fromOffset + 7) >>> 3)
      const last = behind >>> 3
      for (let word = (fromOffset + 7) >>> 3; word < last; word++) t64[word + shift] = f64[word]
      if ((behind & 7) !== 0) toView.setBigUint64(toOffset + length - 8, fromView.getBigUint64(behind - 8, true), true)
    }
    if (i === end) return
    copy(to, toOffsets[i], from, fromOffsets[i], lengths[i])
    i++
  }
}

// What is long, short, not aligned alike, far, or metered.
function copyOther(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  if (to.meter !== null || from.meter !== null) meterCopy(to, from, length)
  if (length > LOOP_MAX && to.u8.buffer === from.u8.buffer) to.u8.copyWithin(toOffset, fromOffset, fromOffset + length)
  else if (length > SET_FROM) to.u8.set(from.u8.subarray(fromOffset, fromOffset + length), toOffset)
  else if (length < 8) copyBytes(to, toOffset, from, fromOffset, length)
  else copyUnaligned(to, toOffset, from, fromOffset, length)
}

function copyBytes(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  const t8 = to.u8
  const f8 = from.u8
  for (let i = 0; i < length; i++) t8[toOffset + i] = f8[fromOffset + i]
}

function copyUnaligned(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  const toView = to.view
  const fromView = from.view
  const last = length - 8
  for (let i = 0; i < last; i += 8) toView.setBigUint64(toOffset + i, fromView.getBigUint64(fromOffset + i, true), true)
  toView.setBigUint64(toOffset + last, fromView.getBigUint64(fromOffset + last, true), true)
}

/** Clears `length` bytes of a region. */
export function clear(region: Region, offset: number, length: number): void {
  if (region.meter !== null) {
    region.meter.store(8, length >>> 3)
    region.meter.store(1, length & 7)
  }
  if (length >= FILL_FROM) {
    region.u8.fill(0, offset, offset + length)
    return
  }
  const u8 = region.u8
  const end = offset + length
  const headEnd = Math.min(end, offset + (-offset & 7))
  let i = offset
  while (i < headEnd) u8[i++] = 0
  const words = (end - i) >>> 3
  if (words > 0) {
    const u64 = region.u64
    const first = i / 8
    for (let w = 0; w < words; w++) u64[first + w] = 0n
    i += words * 8
  }
  while (i < end) u8[i++] = 0
}

// What a copy costs at least: whole words, and single bytes for what is left over.
function meterCopy(to: Region, from: Region, length: number): void {
  const words = length >>> 3
  const bytes = length & 7
  if (from.meter !== null) {
    from.meter.load(8, words)
    from.meter.load(1, bytes)
  }
  if (to.meter !== null) {
    to.meter.store(8, words)
    to.meter.store(1, bytes)
  }
}
