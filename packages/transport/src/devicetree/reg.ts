import { ADDRESS_HIGH_LIMIT, ADDRESS_LIMIT, hex } from '@guestdma/memory'
import { TransportError } from '../contract/errors.ts'
import type { AddressSpan, DevicetreeNode } from './devicetree.ts'

/** What holds below a node that says nothing (Devicetree Specification v0.4 §2.3.5). */
const DEFAULT_ADDRESS_CELLS = 2
const DEFAULT_SIZE_CELLS = 1

/** More cells than two are no plain address: PCI's three begin with the kind of space. */
const CELLS_LIMIT = 2

/**
 * Entries of a bus's `ranges` that are searched; real buses have some dozens. Without a limit, many devices on a bus
 * with many ranges would take time in the square of the blob's length.
 */
const RANGES_LIMIT = 256

/**
 * The spans in a node's `reg`, as its parent's `#address-cells` and `#size-cells` divide it (§2.3.6), in addresses of
 * its parent's bus. Empty where there is no `reg`. A span may have length 0.
 *
 * @throws TransportError with `node` and `property` in `details`: `TRANSPORT_FDT_CELLS`, other than one or two cells
 * for an address or a length; `TRANSPORT_FDT_PROPERTY`, not a whole number of entries; `TRANSPORT_FDT_ADDRESS`, a span
 * that does not end at or below 2^53 and within its bus's addresses
 */
export function spansOf(node: DevicetreeNode): readonly AddressSpan[] {
  const limit = cellsBelow(node.parent ?? node).address === 1 ? 2 ** 32 : ADDRESS_LIMIT
  const spans = claimsOf(node)
  for (const { base, length } of spans) {
    if (!(length <= limit - base)) {
      throw beyond(node, 'reg', `has ${bytes(length)} bytes at ${bytes(base)}, which end beyond ${hex(limit)}`)
    }
  }
  return spans
}

/**
 * The spans in a node's `reg` as {@link spansOf} has them, wherever they end: a base or length from 2^53 on is Infinity.
 * Enough to tell what collides with them.
 *
 * @throws TransportError `TRANSPORT_FDT_CELLS`, `TRANSPORT_FDT_PROPERTY` as {@link spansOf}
 */
export function claimsOf(node: DevicetreeNode): readonly AddressSpan[] {
  const cells = node.cells('reg')
  if (cells === undefined) return []
  const { address, size } = cellsBelow(node.parent ?? node)
  const stride = address + size
  if (cells.length % stride !== 0) {
    throw node.malformed('reg', `has ${cells.length} cells, which are no entries of ${stride}`)
  }
  const spans: AddressSpan[] = []
  for (let at = 0; at < cells.length; at += stride) {
    spans.push({ base: number(cells, at, address), length: number(cells, at + address, size) })
  }
  return spans
}

/**
 * Where the CPU sees a span of a node's `reg`: the `ranges` of every bus on the way to the root are applied (§2.3.8).
 *
 * @throws TransportError as {@link spansOf}; `TRANSPORT_FDT_ADDRESS` too where a bus does not pass the span on
 */
export function cpuBaseOf(node: DevicetreeNode, span: AddressSpan): number {
  let base = span.base
  for (let bus = node.parent; bus?.parent !== undefined; bus = bus.parent) {
    const ranges = bus.cells('ranges')
    if (ranges === undefined) throw unreachable(node, bus, base)
    if (ranges.length > 0) base = throughRanges(node, bus, bus.parent, ranges, { base, length: span.length })
  }
  return base
}

/** Do two spans have a byte in common? */
export function overlap(a: AddressSpan, b: AddressSpan): boolean {
  return a.base < b.base + b.length && b.base < a.base + a.length && a.length > 0 && b.length > 0
}

/** What a node says of the cells below it, 1 or 2. Throws `TRANSPORT_FDT_CELLS` where it is another number. */
function cellCount(node: DevicetreeNode, property: string, unsaid: number): number {
  const count = node.cell(property) ?? unsaid
  if (count >= 1 && count <= CELLS_LIMIT) return count
  const { path } = node
  throw new TransportError(
    'TRANSPORT_FDT_CELLS',
    path,
    `'${property}' is ${count}; 1 and ${CELLS_LIMIT} are supported`,
    {
      node: path,
      property,
      count,
    },
  )
}

/** The cells of a bus's children: of their addresses and of their lengths. */
export function cellsBelow(bus: DevicetreeNode): { readonly address: number; readonly size: number } {
  return {
    address: cellCount(bus, '#address-cells', DEFAULT_ADDRESS_CELLS),
    size: cellCount(bus, '#size-cells', DEFAULT_SIZE_CELLS),
  }
}

function throughRanges(
  node: DevicetreeNode,
  bus: DevicetreeNode,
  above: DevicetreeNode,
  ranges: readonly number[],
  span: AddressSpan,
): number {
  const below = cellsBelow(bus)
  const aboveCells = cellCount(above, '#address-cells', DEFAULT_ADDRESS_CELLS)
  const stride = below.address + aboveCells + below.size
  if (ranges.length % stride !== 0 || ranges.length / stride > RANGES_LIMIT) {
    throw bus.malformed(
      'ranges',
      `has ${ranges.length} cells, which are no ${RANGES_LIMIT} or fewer entries of ${stride}`,
    )
  }
  for (let at = 0; at < ranges.length; at += stride) {
    const childBase = number(ranges, at, below.address)
    const parentBase = number(ranges, at + below.address, aboveCells)
    const length = number(ranges, at + below.address + aboveCells, below.size)
    const offset = span.base - childBase
    if (!(offset >= 0 && span.length <= length - offset)) continue
    const base = parentBase + offset
    if (!(span.length <= ADDRESS_LIMIT - base)) throw beyond(bus, 'ranges', 'leads to addresses beyond 2^53')
    return base
  }
  throw unreachable(node, bus, span.base)
}

// One cell or two; Infinity from 2^53 on, where numbers are no longer exact.
function number(cells: readonly number[], at: number, count: number): number {
  if (count === 1) return cells[at]
  return cells[at] < ADDRESS_HIGH_LIMIT ? cells[at] * 2 ** 32 + cells[at + 1] : Number.POSITIVE_INFINITY
}

function bytes(value: number): string {
  return Number.isFinite(value) ? hex(value) : '2^53 or more'
}

function unreachable(node: DevicetreeNode, bus: DevicetreeNode, base: number): TransportError {
  const { path } = node
  return new TransportError(
    'TRANSPORT_FDT_ADDRESS',
    path,
    `${bus.path} does not pass ${hex(base)} on to its parent in 'ranges'`,
    { node: path, property: 'reg', bus: bus.path, base },
  )
}

function beyond(node: DevicetreeNode, property: string, what: string): TransportError {
  const { path } = node
  return new TransportError('TRANSPORT_FDT_ADDRESS', path, `'${property}' ${what}`, { node: path, property })
}
