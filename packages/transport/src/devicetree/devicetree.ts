// Own reader: no FDT reader was found for npm. kaitai-struct 0.11.0 (Apache-2.0, code generated from dtb.ksy) and
// binspector 1.1.1 (MIT, FDT as an example only) parse records: no phandles, no limits on depth, errors of their own.
import { TransportError } from '../contract/errors.ts'

/** [base, base + length), both in bytes, ending at or below 2^53. */
export interface AddressSpan {
  readonly base: number
  readonly length: number
}

/** A devicetree as `readDevicetree` found it. It shares no memory with the blob. */
export class Devicetree {
  readonly root: DevicetreeNode
  /** All nodes in the order of the blob: each before its children. */
  readonly nodes: readonly DevicetreeNode[]
  /** What the memory reservation block sets aside below 2^53 (Devicetree Specification v0.4 §5.3). */
  readonly memoryReservations: readonly AddressSpan[]
  private readonly phandles: ReadonlyMap<number, DevicetreeNode>

  constructor(
    nodes: readonly DevicetreeNode[],
    memoryReservations: readonly AddressSpan[],
    phandles: ReadonlyMap<number, DevicetreeNode>,
  ) {
    this.root = nodes[0]
    this.nodes = nodes
    this.memoryReservations = memoryReservations
    this.phandles = phandles
  }

  /**
   * The node at a full path, `/soc/virtio@10001000`. A unit address may be left out where what remains names one child
   * only (§2.2.3).
   */
  node(path: string): DevicetreeNode | undefined {
    if (!path.startsWith('/')) return undefined
    let node: DevicetreeNode | undefined = this.root
    if (path === '/') return node
    for (const part of path.slice(1).split('/')) {
      node = childOf(node, part)
      if (node === undefined) return undefined
    }
    return node
  }

  byPhandle(phandle: number): DevicetreeNode | undefined {
    return this.phandles.get(phandle)
  }

  /**
   * All nodes that are compatible with `model`, disabled ones included, in the order of the blob.
   *
   * @throws TransportError `TRANSPORT_FDT_PROPERTY`: some node's `compatible` is no list of strings
   */
  compatibleWith(model: string): readonly DevicetreeNode[] {
    return this.nodes.filter((node) => node.isCompatible(model))
  }

  /**
   * The node that `phandle`, found in `property` of `node`, refers to.
   *
   * @throws TransportError `TRANSPORT_FDT_PHANDLE`: no node has it
   */
  referred(node: DevicetreeNode, property: string, phandle: number): DevicetreeNode {
    const target = this.phandles.get(phandle)
    if (target !== undefined) return target
    throw new TransportError(
      'TRANSPORT_FDT_PHANDLE',
      node.path,
      `'${property}' names phandle ${phandle}, which no node has`,
      {
        node: node.path,
        property,
        phandle,
      },
    )
  }
}

/**
 * A node. Its readers answer `undefined` where the property is missing and throw TransportError
 * `TRANSPORT_FDT_PROPERTY`, with `node` and `property` in `details`, where it has another format.
 */
export class DevicetreeNode {
  /** With the unit address: `virtio@10001000`. The root's is empty. */
  readonly name: string
  readonly parent: DevicetreeNode | undefined
  /** Values as they are in the blob, in its order. Not to be written to. */
  readonly properties: ReadonlyMap<string, Uint8Array>
  readonly children: readonly DevicetreeNode[]

  constructor(
    name: string,
    parent: DevicetreeNode | undefined,
    properties: ReadonlyMap<string, Uint8Array>,
    children: readonly DevicetreeNode[],
  ) {
    this.name = name
    this.parent = parent
    this.properties = properties
    this.children = children
  }

  /** The full path. Made anew at each call: kept ones would need the square of the blob's length. */
  get path(): string {
    const names: string[] = []
    for (let node: DevicetreeNode = this; node.parent !== undefined; node = node.parent) names.push(node.name)
    return `/${names.reverse().join('/')}`
  }

  /** No `status`, or `okay` (§2.3.4), or `ok` as in old trees. */
  get available(): boolean {
    const value = this.properties.get('status')
    // Longer ones are not decoded: a node that many others refer to is asked each time.
    if (value === undefined || value.length > 'okay'.length + 1) return value === undefined
    return ['okay', 'ok'].includes(this.string('status') as string)
  }

  has(property: string): boolean {
    return this.properties.has(property)
  }

  /** The value as big-endian u32 cells (§2.2.4, prop-encoded-array). */
  cells(property: string): readonly number[] | undefined {
    const value = this.properties.get(property)
    if (value === undefined) return undefined
    if (value.length % 4 !== 0) throw this.malformed(property, `has ${value.length} bytes, which are no u32 cells`)
    const view = new DataView(value.buffer, value.byteOffset, value.length)
    return Array.from({ length: value.length / 4 }, (_, i) => view.getUint32(i * 4))
  }

  /** The value as exactly one u32. */
  cell(property: string): number | undefined {
    const cells = this.cells(property)
    if (cells !== undefined && cells.length !== 1) throw this.malformed(property, `has ${cells.length} cells, not one`)
    return cells?.[0]
  }

  /** The value as a list of NUL-terminated strings. */
  strings(property: string): readonly string[] | undefined {
    const value = this.properties.get(property)
    if (value === undefined) return undefined
    const strings: string[] = []
    for (let begin = 0; begin < value.length; ) {
      const end = value.indexOf(0, begin)
      if (end < 0) throw this.malformed(property, 'does not end with a NUL')
      const characters: string[] = []
      for (let at = begin; at < end; at++) {
        if (value[at] < 0x20 || value[at] > 0x7e) throw this.malformed(property, `has byte ${value[at]} in a string`)
        characters.push(String.fromCharCode(value[at]))
      }
      strings.push(characters.join(''))
      begin = end + 1
    }
    return strings
  }

  /** The value as exactly one NUL-terminated string. */
  string(property: string): string | undefined {
    const strings = this.strings(property)
    if (strings !== undefined && strings.length !== 1) {
      throw this.malformed(property, `has ${strings.length} strings, not one`)
    }
    return strings?.[0]
  }

  isCompatible(model: string): boolean {
    return this.strings('compatible')?.includes(model) ?? false
  }

  /** What to throw where a property has not the format that it should have. */
  malformed(property: string, what: string): TransportError {
    const { path } = this
    return new TransportError('TRANSPORT_FDT_PROPERTY', path, `'${property}' ${what}`, { node: path, property })
  }
}

function childOf(node: DevicetreeNode, name: string): DevicetreeNode | undefined {
  const exact = node.children.find((child) => child.name === name)
  if (exact !== undefined || name === '' || name.includes('@')) return exact
  const similar = node.children.filter((child) => child.name.startsWith(`${name}@`))
  return similar.length === 1 ? similar[0] : undefined
}
