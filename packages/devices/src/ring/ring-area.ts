import { ADDRESS_HIGH_LIMIT, type BusPort, copy, Region } from '@guestdma/memory'
import type { QueueFaultReason } from '../faults/faults.ts'

/** Elements of `areas` of a queue: the 64-bit addresses of the three areas, as a driver writes them. */
export const AREA_DESC_LOW = 0
export const AREA_DESC_HIGH = 1
export const AREA_DRIVER_LOW = 2
export const AREA_DRIVER_HIGH = 3
export const AREA_DEVICE_LOW = 4
export const AREA_DEVICE_HIGH = 5

const TWO_32 = 2 ** 32
/** Grants for one area. An indirect table of 1 MiB takes 257 of 4 KiB, a ring 129 at most. */
const MAX_GRANTS = 1024
const SMALLEST_COPY = 4096

/** What a ring tells its queue. */
export interface RingOwner {
  readonly port: BusPort
  /** Breaks the queue: the driver did what it must not. `head`: the chain's id, or -1. Returns -1. */
  fail(reason: QueueFaultReason, head: number, value: number, limit: number): number
  /** The port gave nothing: breaks the queue, or does not where the port does not know yet. Returns -1. */
  refused(reason: QueueFaultReason, head: number, length: number): number
}

export interface Piece {
  readonly region: Region
  readonly offset: number
  /** Its first byte in the area, and its bytes. */
  readonly start: number
  length: number
}

/** Where a 16-bit word of an area is in memory. */
export interface RingWord {
  region: Region
  half: number
}

/**
 * One of the three areas of a ring, or an indirect table: bytes at a device address, resolved through a port. In memory
 * it usually is one piece, and {@link region} and {@link offset} say where. What an IOMMU maps page by page may lie in
 * pieces (§2.7 asks for contiguous addresses, of the device's): then they say where a copy in one piece is, which
 * {@link pull} brings up to date and {@link push} writes back.
 */
export class RingArea {
  declare region: Region
  offset = 0
  /** Whether the area is in pieces. */
  scattered = false
  private pieces: Piece[] = []
  private copied: Region | null = null

  constructor(nowhere: Region) {
    this.region = nowhere
  }

  /**
   * The area is `length` bytes from device address `port.request[0]` on. (As an argument a large address would be an
   * allocation.) False: the port refuses a part of it, or grants it in more pieces than anybody maps by the page.
   */
  resolve(port: BusPort, length: number, access: 1 | 2): boolean {
    this.scattered = false
    if (this.pieces.length > 0) this.pieces = []
    const { request } = port
    const address = request[0]
    let granted = port.resolve(length, access)
    if (granted <= 0) return false
    const region = port.region
    const offset = port.offset
    this.region = region
    this.offset = offset
    let grants = 1
    for (let have = granted; have < length; have += granted) {
      if (grants++ === MAX_GRANTS) return false
      request[0] += granted
      granted = port.resolve(length - have, access)
      if (granted <= 0) return false
      if (port.region !== region || port.offset !== offset + have) {
        return this.resolvePieces(port, address, length, access)
      }
    }
    return true
  }

  /** Finds the 16-bit word at a byte of the area. False where it is not one aligned word in memory. */
  find(byte: number, word: RingWord): boolean {
    let at = this.offset + byte
    word.region = this.region
    if (this.scattered) {
      const piece = this.pieces.find(({ start, length }) => byte >= start && byte + 2 <= start + length)
      if (piece === undefined) return false
      word.region = piece.region
      at = piece.offset + byte - piece.start
    }
    word.half = at / 2
    return at % 2 === 0
  }

  /** The piece that has a byte of the area, where it is in pieces. */
  pieceAt(byte: number): Piece {
    return this.pieces.find(({ start, length }) => byte >= start && byte < start + length) as Piece
  }

  /** Copies all of the area from memory, if it is in pieces. Returns how many those are. */
  pull(): number {
    for (const { region, offset, start, length } of this.pieces) {
      if (region.u8.length === 0) region.refresh()
      copy(this.region, start, region, offset, length)
    }
    return this.pieces.length
  }

  /** Copies bytes [from, from + length) of the area to memory, if it is in pieces. */
  push(from: number, length: number): void {
    for (const piece of this.pieces) {
      const { region, offset, start } = piece
      const first = Math.max(from, start)
      const bytes = Math.min(from + length, start + piece.length) - first
      if (bytes <= 0) continue
      if (region.u8.length === 0) region.refresh()
      copy(region, offset + first - start, this.region, first, bytes)
    }
  }

  /** Tells who listens that bytes [from, from + length) of the area were written. */
  report(from: number, length: number): void {
    if (!this.scattered) {
      this.region.onDeviceWrite?.(this.offset + from, length)
      return
    }
    for (const piece of this.pieces) {
      const first = Math.max(from, piece.start)
      const bytes = Math.min(from + length, piece.start + piece.length) - first
      if (bytes > 0) piece.region.onDeviceWrite?.(piece.offset + first - piece.start, bytes)
    }
  }

  private resolvePieces(port: BusPort, address: number, length: number, access: 1 | 2): boolean {
    const pieces: Piece[] = []
    let last: Piece | null = null
    let grants = 0
    for (let have = 0; have < length; ) {
      port.request[0] = address + have
      const granted = port.resolve(length - have, access)
      if (granted <= 0 || grants++ === MAX_GRANTS) return false
      const { region, offset } = port
      if (last !== null && last.region === region && last.offset + last.length === offset) last.length += granted
      else {
        last = { region, offset, start: have, length: granted }
        pieces.push(last)
      }
      have += granted
    }
    if (this.copied === null || this.copied.length < length) {
      let bytes = SMALLEST_COPY
      while (bytes < length) bytes *= 2
      this.copied = new Region(new ArrayBuffer(bytes), 'copy of a ring in pieces')
    }
    this.pieces = pieces
    this.scattered = true
    this.region = this.copied
    this.offset = 0
    return true
  }
}

/**
 * Resolves an area of a ring, whose address stands as two halves from `halves[at]` on. `align`: what its address must be
 * a multiple of, and `needs` its place in memory. False: the owner was told why.
 */
export function resolveArea(
  owner: RingOwner,
  area: RingArea,
  halves: Uint32Array,
  at: number,
  bytes: number,
  align: number,
  needs: number,
  access: 1 | 2,
): boolean {
  const { port } = owner
  port.request[0] = halves[at + 1] * TWO_32 + halves[at]
  if (halves[at] % align !== 0) owner.fail('ring-alignment', -1, halves[at], align)
  else if (!isReachable(port, halves[at], halves[at + 1], bytes, access) || !area.resolve(port, bytes, access))
    owner.refused('ring-unreachable', -1, bytes)
  else if (area.offset % needs !== 0) owner.fail('ring-alignment', -1, area.offset, needs)
  else return true
  return false
}

/** Whether an address has no more bits than a port can reach. If not, the port is told of the attempt. */
export function isReachable(port: BusPort, low: number, high: number, length: number, access: 1 | 2): boolean {
  if (high < ADDRESS_HIGH_LIMIT) return true
  port.outOfReach?.(high, low, length, access)
  return false
}

/**
 * An element index as an integer for the engine too, not as the double that its computation gave. Beyond 2^31 it has to
 * stay one.
 */
export function integer(value: number): number {
  return value <= 0x7fffffff ? value | 0 : value
}
