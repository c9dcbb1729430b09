import type { Region } from './region.ts'

// Above this, in one buffer, copyWithin wins over a loop; between two buffers the loop goes on, since set(subarray) allocates.
const COPY_WITHIN_FROM = 257
// Above this the 100 bytes that set(subarray) allocates are small beside the bytes that it moves.
const SET_FROM = 4096
const FILL_FROM = 129

/**
 * Copies `length` bytes between two regions without allocating (up to 4 KiB between two buffers). This is the one copy routine: 8 bytes at a
 * time, and above 256 bytes fastest where both offsets are equal modulo 8. Ranges must lie inside their regions and may not overlap.
 *
 * @param to destination, written from byte `toOffset` on
 * @param from source, read from byte `fromOffset` on
 */
export function copy(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  if (to.meter !== null || from.meter !== null) meterCopy(to, from, toOffset, fromOffset, length)
  if (length >= COPY_WITHIN_FROM) {
    if (to.u8.buffer === from.u8.buffer) {
      to.u8.copyWithin(toOffset, fromOffset, fromOffset + length)
      return
    }
    if (length > SET_FROM) {
      to.u8.set(from.u8.subarray(fromOffset, fromOffset + length), toOffset)
      return
    }
  }
  if (length >= 8 && length < COPY_WITHIN_FROM) {
    copySmall(to, toOffset, from, fromOffset, length)
    return
  }
  if (((toOffset ^ fromOffset) & 7) !== 0) {
    copyUnaligned(to, toOffset, from, fromOffset, length)
    return
  }
  const end = fromOffset + length
  const headEnd = Math.min(end, fromOffset + (-fromOffset & 7))
  let t = toOffset
  let f = fromOffset
  if (f < headEnd) {
    const t8 = to.u8
    const f8 = from.u8
    while (f < headEnd) t8[t++] = f8[f++]
  }
  const words = (end - f) >>> 3
  if (words > 0) {
    const t64 = to.u64
    const f64 = from.u64
    // Division, not a shift: offsets may lie beyond 2^32.
    const t0 = t / 8
    const f0 = f / 8
    for (let i = 0; i < words; i++) t64[t0 + i] = f64[f0 + i]
    t += words * 8
    f += words * 8
  }
  if (f < end) {
    const t8 = to.u8
    const f8 = from.u8
    while (f < end) t8[t++] = f8[f++]
  }
}

// 8 to 256 bytes, at any alignment: the last 8 bytes overlap those before them, which costs less than a loop over single bytes.
function copySmall(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  const toView = to.view
  const fromView = from.view
  const last = length - 8
  for (let i = 0; i < last; i += 8) toView.setBigUint64(toOffset + i, fromView.getBigUint64(fromOffset + i, true), true)
  toView.setBigUint64(toOffset + last, fromView.getBigUint64(fromOffset + last, true), true)
}

function copyUnaligned(to: Region, toOffset: number, from: Region, fromOffset: number, length: number): void {
  const toView = to.view
  const fromView = from.view
  const words = length & ~7
  let i = 0
  for (; i < words; i += 8) toView.setBigUint64(toOffset + i, fromView.getBigUint64(fromOffset + i, true), true)
  const t8 = to.u8
  const f8 = from.u8
  for (; i < length; i++) t8[toOffset + i] = f8[fromOffset + i]
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

// A copy costs 8-byte accesses where source and destination align, and single bytes at the edges.
function meterCopy(to: Region, from: Region, toOffset: number, fromOffset: number, length: number): void {
  const head = ((toOffset ^ fromOffset) & 7) === 0 ? Math.min(length, -fromOffset & 7) : 0
  const words = (length - head) >>> 3
  const bytes = length - 8 * words
  if (from.meter !== null) {
    from.meter.load(8, words)
    from.meter.load(1, bytes)
  }
  if (to.meter !== null) {
    to.meter.store(8, words)
    to.meter.store(1, bytes)
  }
}
