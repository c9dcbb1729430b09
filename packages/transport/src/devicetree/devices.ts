import { hex } from '@guestdma/memory'
import { TransportError } from '../contract/errors.ts'
import type { AddressSpan, Devicetree, DevicetreeNode } from './devicetree.ts'
import { cellsBelow, claimsOf, cpuBaseOf, overlap, spansOf } from './reg.ts'

/** A `restricted-dma-pool` of the platform: where the CPU sees it, in bytes, and the node that says so. */
export interface RestrictedDmaPool extends AddressSpan {
  readonly path: string
}

/** An IOMMU's node, and the number by which its driver names a device. */
export interface IommuSpecifier {
  readonly iommu: DevicetreeNode
  readonly endpoint: number
}

/** One entry of `interrupts-extended`: a controller, and the interrupt as its `#interrupt-cells` cells name it. */
export interface ExtendedInterrupt {
  readonly controller: DevicetreeNode
  readonly cells: readonly number[]
}

/** A device behind virtio-mmio registers. */
export interface VirtioMmioNode {
  readonly node: DevicetreeNode
  readonly path: string
  /** Where the CPU sees the registers, and their bytes. */
  readonly base: number
  readonly length: number
  /**
   * The cells of `interrupts`; how many make one interrupt is up to the interrupt controller. Empty where the node has
   * `interrupts-extended`, which takes precedence (Devicetree Specification v0.4 §2.4.1.1).
   */
  readonly interrupts: readonly number[]
  /** What `interrupts-extended` says; empty where there is none. */
  readonly interruptsExtended: readonly ExtendedInterrupt[]
  /** The nearest `dma-coherent` or `dma-noncoherent` on the way to the root says so. */
  readonly coherent: boolean
  /** The nodes that `memory-region` names, unchecked: {@link restrictedDmaPool} checks. */
  readonly memoryRegions: readonly DevicetreeNode[]
}

/** Granularity of pools: reserving part of a page would leave the rest to others. */
const PAGE = 4096

/** Memory that these mark is taken by others or not mapped, and Linux refuses such pools as well. */
const NOT_FOR_POOLS = ['reusable', 'no-map', 'linux,cma-default', 'linux,dma-default'] as const

/** A PCI requester ID is bus, device and function in 16 bits. */
const REQUESTER_LIMIT = 0x10000
/** Cells of an entry of `iommu-map`: requester ID, phandle, endpoint ID, length. */
const MAP_STRIDE = 4

/**
 * The pool for a device's DMA: the first available region in its `memory-region` that is compatible with
 * `restricted-dma-pool` (Linux' reserved-memory binding; SWIOTLB RFC 2/3). For a PCI function pass the host bridge's
 * node. `null` where there is none. Linux takes no pool for a device behind an IOMMU; here that is up to the caller.
 *
 * @throws TransportError with `node` in `details`: `TRANSPORT_FDT_PHANDLE`, a region that does not exist;
 * `TRANSPORT_FDT_POOL_PLACE`, a pool outside of `/reserved-memory`, or that node's addresses are not the root's;
 * `TRANSPORT_FDT_POOL_DYNAMIC`, a size without a place: somebody has to choose one first; `TRANSPORT_FDT_POOL_USE`,
 * memory marked for another use; `TRANSPORT_FDT_POOL_EMPTY`; `TRANSPORT_FDT_POOL_ALIGNMENT`, no whole pages of 4096
 * bytes; `TRANSPORT_FDT_POOL_OVERLAP`, with another region or a memory reservation; and as `spansOf`
 */
export function restrictedDmaPool(tree: Devicetree, device: DevicetreeNode): RestrictedDmaPool | null {
  for (const region of memoryRegionsOf(tree, device)) {
    if (region.isCompatible('restricted-dma-pool') && region.available) return checkedPool(tree, region)
  }
  return null
}

/**
 * The IOMMUs in a node's `iommus` and the device's endpoint IDs there; a device may have several. Empty where nothing
 * translates: no such property, or IOMMUs that are disabled.
 *
 * @throws TransportError with `node` and `property` in `details`: `TRANSPORT_FDT_PHANDLE`; `TRANSPORT_FDT_CELLS`, an
 * IOMMU whose `#iommu-cells` is not 1; `TRANSPORT_FDT_PROPERTY`, no pairs of cells
 */
export function iommuEndpoints(tree: Devicetree, device: DevicetreeNode): readonly IommuSpecifier[] {
  const cells = device.cells('iommus') ?? []
  const endpoints: IommuSpecifier[] = []
  for (let at = 0; at < cells.length; at += 2) {
    const iommu = iommuAt(tree, device, 'iommus', cells[at])
    if (at + 1 === cells.length) throw device.malformed('iommus', 'ends behind a phandle')
    if (iommu.available) endpoints.push({ iommu, endpoint: cells[at + 1] })
  }
  return endpoints
}

/**
 * The IOMMU of a PCI requester ID and its endpoint ID there, by the `iommu-map` and `iommu-map-mask` of the host bridge
 * (Linux' pci-iommu binding): the first entry that has the masked ID. `null` where nothing translates: no map, no such
 * entry, or a disabled IOMMU. All entries are checked, whichever is asked for.
 *
 * @throws TransportError as {@link iommuEndpoints}; `TRANSPORT_FDT_REQUESTER` where `requesterId` is none;
 * `TRANSPORT_FDT_PROPERTY` too for an entry that the mask never lets match, or that leads beyond 32 bits
 */
export function iommuForRequester(
  tree: Devicetree,
  bridge: DevicetreeNode,
  requesterId: number,
): IommuSpecifier | null {
  if (!Number.isInteger(requesterId) || requesterId < 0 || requesterId >= REQUESTER_LIMIT) {
    const { path } = bridge
    throw new TransportError('TRANSPORT_FDT_REQUESTER', path, `${requesterId} is no PCI requester ID of 16 bits`, {
      node: path,
      requesterId,
    })
  }
  const map = bridge.cells('iommu-map')
  if (map === undefined) return null
  if (map.length % MAP_STRIDE !== 0) {
    throw bridge.malformed('iommu-map', `has ${map.length} cells, which are no entries of ${MAP_STRIDE}`)
  }
  const mask = bridge.cell('iommu-map-mask') ?? 0xffff_ffff
  const masked = (requesterId & mask) >>> 0
  let match: IommuSpecifier | undefined
  for (let at = 0; at < map.length; at += MAP_STRIDE) {
    const [first, phandle, endpoint, length] = map.slice(at, at + MAP_STRIDE)
    const iommu = iommuAt(tree, bridge, 'iommu-map', phandle)
    if ((first & ~mask) !== 0) {
      throw bridge.malformed('iommu-map', `has an entry at ${hex(first)}, which 'iommu-map-mask' ${hex(mask)} excludes`)
    }
    if (endpoint + length > 2 ** 32) throw bridge.malformed('iommu-map', `leads beyond 32 bits at ${hex(endpoint)}`)
    if (masked >= first && masked < first + length) match ??= { iommu, endpoint: endpoint + masked - first }
  }
  return match?.iommu.available ? match : null
}

/**
 * The available nodes that are compatible with `virtio,mmio`, in the order of the blob. Whether a device is there only
 * its registers tell: empty slots have nodes too. One that cannot be read fails the list; where the others are wanted
 * then, ask {@link virtioMmioNode} for each of `tree.compatibleWith('virtio,mmio')`.
 *
 * @throws TransportError as {@link virtioMmioNode}
 */
export function virtioMmioNodes(tree: Devicetree): readonly VirtioMmioNode[] {
  return tree
    .compatibleWith('virtio,mmio')
    .filter((node) => node.available)
    .map((node) => virtioMmioNode(tree, node))
}

/**
 * What one node that is compatible with `virtio,mmio` says.
 *
 * @throws TransportError with `node` and `property` in `details`: `TRANSPORT_FDT_PROPERTY`, no `reg`, say;
 * `TRANSPORT_FDT_PHANDLE`, a region or an interrupt controller that does not exist; `TRANSPORT_FDT_ADDRESS`,
 * `TRANSPORT_FDT_CELLS` as `cpuBaseOf`, and for an interrupt controller without `#interrupt-cells`
 */
export function virtioMmioNode(tree: Devicetree, node: DevicetreeNode): VirtioMmioNode {
  const [registers] = spansOf(node)
  if (registers === undefined || registers.length === 0) throw node.malformed('reg', 'has no registers')
  const interruptsExtended = extendedInterrupts(tree, node)
  return {
    node,
    path: node.path,
    base: cpuBaseOf(node, registers),
    length: registers.length,
    interrupts: node.has(EXTENDED) ? [] : (node.cells('interrupts') ?? []),
    interruptsExtended,
    coherent: isCoherent(node),
    memoryRegions: memoryRegionsOf(tree, node),
  }
}

const EXTENDED = 'interrupts-extended'

function extendedInterrupts(tree: Devicetree, node: DevicetreeNode): readonly ExtendedInterrupt[] {
  const cells = node.cells(EXTENDED) ?? []
  const found: ExtendedInterrupt[] = []
  for (let at = 0; at < cells.length; ) {
    const controller = tree.referred(node, EXTENDED, cells[at])
    const count = controller.cell('#interrupt-cells')
    if (count === undefined) throw wrongCells(controller, '#interrupt-cells', count, node, EXTENDED, 'a number')
    at++
    if (count > cells.length - at) throw node.malformed(EXTENDED, `ends within an interrupt of ${controller.path}`)
    found.push({ controller, cells: cells.slice(at, at + count) })
    at += count
  }
  return found
}

// Each region once: a list that repeats one of them would be searched in the square of its length.
function memoryRegionsOf(tree: Devicetree, device: DevicetreeNode): readonly DevicetreeNode[] {
  const phandles = new Set(device.cells('memory-region') ?? [])
  return Array.from(phandles, (phandle) => tree.referred(device, 'memory-region', phandle))
}

type PoolFlaw = 'ALIGNMENT' | 'DYNAMIC' | 'EMPTY' | 'OVERLAP' | 'PLACE' | 'USE'

function checkedPool(tree: Devicetree, region: DevicetreeNode): RestrictedDmaPool {
  const { path } = region
  const refuse = (why: PoolFlaw, message: string, details: Readonly<Record<string, unknown>> = {}): TransportError =>
    new TransportError(`TRANSPORT_FDT_POOL_${why}`, path, message, { node: path, ...details })

  const parent = tree.node('/reserved-memory')
  if (parent === undefined || region.parent !== parent) throw refuse('PLACE', 'the pool is not in /reserved-memory')
  const below = cellsBelow(parent)
  const root = cellsBelow(tree.root)
  if (parent.properties.get('ranges')?.length !== 0 || below.address !== root.address || below.size !== root.size) {
    throw refuse('PLACE', "/reserved-memory has no empty 'ranges', or cells other than the root's")
  }
  for (const mark of NOT_FOR_POOLS) {
    if (region.has(mark)) throw refuse('USE', `the pool is marked '${mark}'`, { property: mark })
  }
  // Further spans of the region are reserved as well, and Linux uses the first only.
  const [pool, ...rest] = spansOf(region)
  if (pool === undefined) {
    throw refuse(
      'DYNAMIC',
      "the pool has no 'reg': its place was left to the operating system, and none was chosen yet",
    )
  }
  const { base, length } = pool
  if (length === 0) throw refuse('EMPTY', 'the pool has no bytes', { base, length })
  if (base % PAGE !== 0 || length % PAGE !== 0) {
    throw refuse('ALIGNMENT', `${hex(length)} bytes at ${hex(base)} are no pages of ${PAGE}`, { base, length })
  }
  const collide = (other: AddressSpan, name: string): void => {
    if (!overlap(pool, other)) return
    const theirs = `${hex(other.length)} bytes at ${hex(other.base)}, ${name}`
    throw refuse('OVERLAP', `${hex(length)} bytes at ${hex(base)} overlap ${theirs}`, { base, length, other })
  }
  for (const span of rest) collide(span, 'of the same region')
  for (const span of tree.memoryReservations) collide(span, 'a memory reservation')
  for (const other of parent.children) {
    if (other === region || !other.available) continue
    // A node that reaches beyond 2^53 spoils nobody's pool but its own.
    for (const span of claimsOf(other)) collide(span, `which is ${other.path}`)
  }
  return { base, length, path }
}

function iommuAt(tree: Devicetree, node: DevicetreeNode, property: string, phandle: number): DevicetreeNode {
  const iommu = tree.referred(node, property, phandle)
  const count = iommu.cell('#iommu-cells')
  if (count === 1) return iommu
  throw wrongCells(iommu, '#iommu-cells', count, node, property, '1')
}

function wrongCells(
  target: DevicetreeNode,
  property: string,
  count: number | undefined,
  referrer: DevicetreeNode,
  from: string,
  needed: string,
): TransportError {
  const { path } = target
  const text = `'${property}' is ${count ?? 'missing'}; '${from}' of ${referrer.path} needs ${needed}`
  return new TransportError('TRANSPORT_FDT_CELLS', path, text, { node: path, property, count, referrer: referrer.path })
}

function isCoherent(device: DevicetreeNode): boolean {
  for (let node: DevicetreeNode | undefined = device; node !== undefined; node = node.parent) {
    if (node.has('dma-coherent')) return true
    if (node.has('dma-noncoherent')) return false
  }
  return false
}
