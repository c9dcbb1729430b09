import { ADDRESS_HIGH_LIMIT, ADDRESS_LIMIT, hex } from '@guestdma/memory'
import { TransportError } from '../contract/errors.ts'
import { type AddressSpan, Devicetree, DevicetreeNode } from './devicetree.ts'

/** Bytes of a header of version 17 (Devicetree Specification v0.4 §5.2). No blob is shorter. */
const HEADER_BYTES = 40
const MAGIC = 0xd00dfeed
/** The version that the specification describes; later ones say themselves whether it may read them. */
const VERSION = 17
/** Its header ends before the size of the structure block; nothing else differs. Old firmware still writes it. */
const VERSION_WITHOUT_SIZE = 16

// Byte offsets of the header's fields.
const TOTAL_SIZE = 4
const STRUCTURE_OFFSET = 8
const STRINGS_OFFSET = 12
const RESERVATIONS_OFFSET = 16
const VERSION_FIELD = 20
const LAST_COMPATIBLE_VERSION = 24
const STRINGS_SIZE = 32
const STRUCTURE_SIZE = 36

// Tokens (§5.4.1).
const BEGIN_NODE = 1
const END_NODE = 2
const PROPERTY = 3
const NOP = 4
const END = 9

/** Nodes one inside the other, the root included. Linux stops at 64 as well; whoever walks up a tree relies on it. */
const DEPTH_LIMIT = 64

/**
 * Bytes of a name. §2.2.1 and §2.2.4.1 say 31 and real trees have more. Without a limit, properties that point into one
 * long string at many offsets would take time in the square of the blob's length.
 */
const NAME_LIMIT = 255

const PART = 'devicetree'

/**
 * Reads a flattened devicetree (Devicetree Specification v0.4 chapter 5), which may come from an untrusted side: it is
 * copied first, and read in a time that is linear in its length. Bytes behind `totalsize` are ignored. Versions 16 and
 * 17 are read, and later ones that say that they are compatible with 17.
 *
 * @throws TransportError with `offset`, in bytes from the start of the blob, in `details`: `TRANSPORT_FDT_MAGIC`;
 * `TRANSPORT_FDT_VERSION`; `TRANSPORT_FDT_TRUNCATED`, something runs beyond its end; `TRANSPORT_FDT_OFFSET`, a block
 * lies outside the blob or is misaligned; `TRANSPORT_FDT_STRUCTURE`, a token where it may not be; `TRANSPORT_FDT_NAME`,
 * a name that is none or occurs twice; `TRANSPORT_FDT_DEPTH`. With `node` and `property` instead:
 * `TRANSPORT_FDT_PHANDLE`, no phandle or one that another node has; `TRANSPORT_FDT_PROPERTY`, a phandle's format.
 */
export function readDevicetree(blob: Uint8Array): Devicetree {
  const { bytes, view } = copyOf(blob)
  const version = view.getUint32(VERSION_FIELD)
  const lastCompatible = view.getUint32(LAST_COMPATIBLE_VERSION)
  if (version < VERSION_WITHOUT_SIZE || lastCompatible > VERSION) {
    throw new TransportError(
      'TRANSPORT_FDT_VERSION',
      PART,
      `version ${version}, compatible down to ${lastCompatible}, is not readable as version ${VERSION}`,
      { offset: VERSION_FIELD, version, lastCompatible },
    )
  }
  const sized = version > VERSION_WITHOUT_SIZE
  const structure = blockAt(view, 'structure', STRUCTURE_OFFSET, 4, sized ? view.getUint32(STRUCTURE_SIZE) : 0)
  const strings = blockAt(view, 'strings', STRINGS_OFFSET, 1, view.getUint32(STRINGS_SIZE))
  const reservations = blockAt(view, 'memory reservation', RESERVATIONS_OFFSET, 8, 0)
  const nodes = new StructureReader(bytes, view, structure, strings, sized).nodes()
  return new Devicetree(nodes, readReservations(view, reservations.begin), phandlesOf(nodes))
}

/** Where a block lies: bytes from the start of the blob. */
interface Block {
  readonly begin: number
  readonly end: number
}

// Whoever wrote the blob may go on writing to it, so nothing is read twice from where they can.
function copyOf(blob: Uint8Array): { bytes: Uint8Array; view: DataView } {
  if (blob.length < HEADER_BYTES) {
    throw truncated(blob.length, `the blob of ${blob.length} bytes ends within the header`)
  }
  const header = new Uint8Array(HEADER_BYTES)
  header.set(blob.subarray(0, HEADER_BYTES))
  const fields = new DataView(header.buffer)
  const magic = fields.getUint32(0)
  if (magic !== MAGIC) {
    throw new TransportError('TRANSPORT_FDT_MAGIC', PART, `magic ${hex(magic)} is not ${hex(MAGIC)}`, {
      offset: 0,
      magic,
    })
  }
  const total = fields.getUint32(TOTAL_SIZE)
  if (total > blob.length || total < HEADER_BYTES) {
    throw truncated(TOTAL_SIZE, `the total size is ${total} in a blob of ${blob.length} bytes`)
  }
  const bytes = new Uint8Array(total)
  bytes.set(blob.subarray(0, total))
  bytes.set(header)
  return { bytes, view: new DataView(bytes.buffer) }
}

function blockAt(view: DataView, name: string, field: number, alignment: number, size: number): Block {
  const begin = view.getUint32(field)
  if (begin < HEADER_BYTES || begin + size > view.byteLength || begin % alignment !== 0) {
    throw new TransportError(
      'TRANSPORT_FDT_OFFSET',
      PART,
      `the ${name} block of ${size} bytes at ${begin} is not between the header and ${view.byteLength}, ` +
        `at a multiple of ${alignment}`,
      { offset: field, block: name, begin, size },
    )
  }
  return { begin, end: begin + size }
}

function readReservations(view: DataView, begin: number): AddressSpan[] {
  const spans: AddressSpan[] = []
  for (let offset = begin; ; offset += 16) {
    if (offset + 16 > view.byteLength) throw truncated(offset, 'the memory reservation block does not end')
    const [high, low, lengthHigh, lengthLow] = [0, 4, 8, 12].map((at) => view.getUint32(offset + at))
    if ((high | low | lengthHigh | lengthLow) === 0) return spans
    // Nothing here has an address from 2^53 on, so what is reserved there is left out.
    if (high >= ADDRESS_HIGH_LIMIT) continue
    const base = high * 2 ** 32 + low
    spans.push({ base, length: Math.min(lengthHigh * 2 ** 32 + lengthLow, ADDRESS_LIMIT - base) })
  }
}

/** A node whose END_NODE has not come yet. */
interface OpenNode {
  readonly node: DevicetreeNode
  readonly properties: Map<string, Uint8Array>
  readonly children: DevicetreeNode[]
  readonly childNames: Set<string>
}

/** One pass over the tokens, with the open nodes on a stack of its own. */
class StructureReader {
  private readonly bytes: Uint8Array
  private readonly view: DataView
  private readonly end: number
  /** Whether `end` is where the block ends, or only the blob. */
  private readonly sized: boolean
  private readonly strings: Block
  private readonly propertyNames = new Map<number, string>()
  private readonly found: DevicetreeNode[] = []
  private readonly open: OpenNode[] = []
  private at: number

  constructor(bytes: Uint8Array, view: DataView, structure: Block, strings: Block, sized: boolean) {
    this.bytes = bytes
    this.view = view
    this.at = structure.begin
    this.end = sized ? structure.end : bytes.length
    this.sized = sized
    this.strings = strings
  }

  nodes(): readonly DevicetreeNode[] {
    for (;;) {
      const offset = this.at
      const token = this.word()
      if (token === BEGIN_NODE) this.beginNode(offset)
      else if (token === PROPERTY) this.property(offset)
      else if (token === END_NODE) {
        if (this.open.pop() === undefined) throw misplaced(offset, 'END_NODE without BEGIN_NODE')
      } else if (token === END) {
        if (this.open.length > 0) throw misplaced(offset, `END within ${this.open.length} nodes`)
        if (this.found.length === 0) throw misplaced(offset, 'END without a root node')
        if (this.sized && this.at !== this.end)
          throw misplaced(offset, `END ${this.end - this.at} bytes before the end of its block`)
        return this.found
      } else if (token !== NOP) throw misplaced(offset, `unknown token ${hex(token)}`)
    }
  }

  private beginNode(offset: number): void {
    const above = this.open.at(-1)
    if (above === undefined && this.found.length > 0) throw misplaced(offset, 'a second root node')
    if (this.open.length >= DEPTH_LIMIT) {
      throw new TransportError('TRANSPORT_FDT_DEPTH', PART, `more than ${DEPTH_LIMIT} nodes one inside the other`, {
        offset,
        limit: DEPTH_LIMIT,
      })
    }
    const name = this.name(this.at, this.end)
    this.skip(name.length + 1)
    if ((above === undefined) !== (name === '')) throw unnamed(offset, 'a root node with a name, or another without')
    if (name.includes('/')) throw unnamed(offset, `node name '${name}' has a '/'`)
    if (above?.childNames.has(name)) throw unnamed(offset, `a second node '${name}' below one parent`)

    const properties = new Map<string, Uint8Array>()
    const children: DevicetreeNode[] = []
    const node = new DevicetreeNode(name, above?.node, properties, children)
    above?.childNames.add(name)
    above?.children.push(node)
    this.found.push(node)
    this.open.push({ node, properties, children, childNames: new Set() })
  }

  private property(offset: number): void {
    const length = this.word()
    const nameOffset = this.word()
    const current = this.open.at(-1)
    if (current === undefined) throw misplaced(offset, 'a property outside of any node')
    if (current.children.length > 0) throw misplaced(offset, 'a property behind a child node')
    if (length > this.end - this.at) throw truncated(offset, `a property of ${length} bytes runs beyond its block`)
    const name = this.propertyName(offset, nameOffset)
    if (current.properties.has(name)) throw unnamed(offset, `a second property '${name}' in one node`)
    current.properties.set(name, this.bytes.subarray(this.at, this.at + length))
    this.skip(length)
  }

  private propertyName(offset: number, nameOffset: number): string {
    const known = this.propertyNames.get(nameOffset)
    if (known !== undefined) return known
    const { begin, end } = this.strings
    if (nameOffset >= end - begin) throw truncated(offset, `a property's name at ${nameOffset} is beyond the strings`)
    const name = this.name(begin + nameOffset, end)
    if (name === '') throw unnamed(offset, 'a property without a name')
    this.propertyNames.set(nameOffset, name)
    return name
  }

  private name(begin: number, end: number): string {
    const codes: number[] = []
    for (let at = begin; at < end; at++) {
      const code = this.bytes[at]
      if (code === 0) return String.fromCharCode(...codes)
      // The character sets of §2.2.1 and §2.2.4.1 are narrower, and real trees do not keep to them.
      if (code < 0x21 || code > 0x7e) throw unnamed(at, `byte ${code} in a name`)
      if (codes.push(code) > NAME_LIMIT) throw unnamed(begin, `a name of more than ${NAME_LIMIT} bytes`)
    }
    throw truncated(begin, 'a name does not end within its block')
  }

  private word(): number {
    if (this.end - this.at < 4) throw truncated(this.at, 'the structure block ends without an END token')
    this.at += 4
    return this.view.getUint32(this.at - 4)
  }

  /** Tokens are at multiples of four bytes. What pads is not looked at: libfdt leaves old bytes there. */
  private skip(length: number): void {
    this.at += length
    this.at += -this.at & 3
  }
}

/** What old trees call a phandle, and what all of them call it (§2.3.3). */
const PHANDLE_NAMES = ['linux,phandle', 'phandle'] as const
/** An overlay's references carry it until they are resolved. */
const PHANDLE_UNRESOLVED = 0xffff_ffff

function phandlesOf(nodes: readonly DevicetreeNode[]): Map<number, DevicetreeNode> {
  const phandles = new Map<number, DevicetreeNode>()
  for (const node of nodes) {
    for (const property of PHANDLE_NAMES) {
      const phandle = node.cell(property)
      if (phandle === undefined) continue
      const other = phandles.get(phandle)
      if (phandle === 0 || phandle === PHANDLE_UNRESOLVED || (other !== undefined && other !== node)) {
        const { path } = node
        const why = other === undefined ? 'is none' : `is ${other.path}'s already`
        throw new TransportError('TRANSPORT_FDT_PHANDLE', path, `'${property}' ${phandle} ${why}`, {
          node: path,
          property,
          phandle,
        })
      }
      phandles.set(phandle, node)
    }
  }
  return phandles
}

function truncated(offset: number, what: string): TransportError {
  return new TransportError('TRANSPORT_FDT_TRUNCATED', PART, `${what}, at byte ${offset}`, { offset })
}

function misplaced(offset: number, what: string): TransportError {
  return new TransportError('TRANSPORT_FDT_STRUCTURE', PART, `${what}, at byte ${offset}`, { offset })
}

function unnamed(offset: number, what: string): TransportError {
  return new TransportError('TRANSPORT_FDT_NAME', PART, `${what}, at byte ${offset}`, { offset })
}
