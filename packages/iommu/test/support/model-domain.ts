import { DMA_EXHAUSTED, DMA_FAILED, DMA_OK, DmaMappings, type DmaStatus } from '@guestdma/dma'
import { GuestMemory, guestAddress, type MemorySource, SpanAllocator } from '@guestdma/memory'
import {
  DOMAIN_READ,
  DOMAIN_WRITE,
  IommuBackend,
  type IommuBackendOptions,
  type IommuDomain,
  REQUEST_GUEST,
  REQUEST_IOVA,
  REQUEST_LENGTH,
} from '../../src/index.ts'

/** Above 2^32, and a multiple of every granule. */
export const BASE = 0x1_4000_0000
/** What is lent; as much again is for allocations. */
export const LENDABLE = 4 << 20
export const RAM = 2 * LENDABLE

export const GRANULES = [1, 16, 4096, 65_536] as const
export const MODES = ['strict', 'lazy'] as const
export const EDGES = ['share', 'bounce'] as const

export interface Mapping {
  readonly iova: number
  readonly length: number
  readonly guest: number
  readonly access: number
}

export type Request = ({ readonly kind: 'map' } & Mapping) | { kind: 'unmap'; readonly iova: number; length: number }

interface Space {
  readonly granule?: number
  readonly leastLength?: number
  readonly identity?: boolean
  readonly inputStart?: number
  readonly inputEnd?: number
  readonly reserved?: readonly { readonly start: number; readonly end: number }[]
  readonly gaps?: boolean
  readonly ringsReadWrite?: boolean
  readonly exclusive?: boolean
}

const overlaps = (a: { iova: number; length: number }, b: { iova: number; length: number }): boolean =>
  a.iova < b.iova + b.length && b.iova < a.iova + a.length

const sharesRam = (a: Mapping) => (b: Mapping) => a.guest < b.guest + b.length && b.guest < a.guest + a.length

/** An address space as an exact list of mappings. What is queued takes effect at commit and not before. */
class ModelDomain implements IommuDomain {
  readonly name = 'model'
  readonly granule: number
  readonly leastLength: number
  readonly identity: boolean
  readonly inputStart: number
  readonly inputEnd: number
  readonly reserved: readonly { readonly start: number; readonly end: number }[]
  readonly gaps: boolean
  readonly ringsReadWrite: boolean
  readonly exclusive: boolean
  readonly request = new Float64Array(3)

  mapped: Mapping[] = []
  queued: Request[] = []
  /** What no user of a domain may do, in words. */
  readonly violations: string[] = []
  /** Every request of the last commit. */
  sent: Request[] = []
  commits = 0
  broken = false
  disposed = false
  /** Says what becomes of a request. A removal that is not Ok breaks the domain for good. */
  answer: (request: Request) => DmaStatus = () => DMA_OK

  constructor(space: Space = {}) {
    const { granule = 4096, leastLength = Math.max(2, granule), identity = false } = space
    this.granule = granule
    this.leastLength = leastLength
    this.identity = identity
    this.inputStart = space.inputStart ?? 0
    this.inputEnd = space.inputEnd ?? 2 ** 48 - 1
    this.reserved = space.reserved ?? []
    this.gaps = space.gaps ?? false
    this.ringsReadWrite = space.ringsReadWrite ?? false
    this.exclusive = space.exclusive ?? false
  }

  map(access: number): void {
    const mapping = { ...this.wanted(), guest: this.request[REQUEST_GUEST], access }
    if (mapping.guest % this.granule !== 0) this.violations.push(`guest address ${mapping.guest} in mid-granule`)
    if (mapping.length < this.leastLength) this.violations.push(`a mapping of ${mapping.length} bytes`)
    if (access < 1 || access > 3) this.violations.push(`access ${access}`)
    if (this.identity && (mapping.iova !== mapping.guest || mapping.length !== this.granule))
      this.violations.push(`not one shared page: ${JSON.stringify(mapping)}`)
    if (mapping.iova < this.inputStart || mapping.iova + mapping.length - 1 > this.inputEnd)
      this.violations.push(`outside of the input range: ${mapping.iova} + ${mapping.length}`)
    for (const { start, end } of this.reserved)
      if (overlaps(mapping, { iova: start, length: end + 1 - start })) this.violations.push(`reserved: ${mapping.iova}`)
    // Not even over what a queued removal covers: until that is committed the device still has the old mapping.
    if (!this.identity && [...this.mapped, ...this.queued.filter(isMap)].some((other) => overlaps(mapping, other)))
      this.violations.push(`a mapping over what is not known to be removed: ${mapping.iova} + ${mapping.length}`)
    const [before, after] = [mapping.iova, mapping.iova + mapping.length]
    if (this.gaps && this.mapped.some(({ iova, length }) => iova === after || iova + length === before))
      this.violations.push(`neighbours: ${mapping.iova} + ${mapping.length}`)
    // Slots and allocations belong to one mapping, and until its removal is committed to the device.
    if (mapping.guest >= BASE + LENDABLE && [...this.mapped, ...this.queued.filter(isMap)].some(sharesRam(mapping)))
      this.violations.push(`memory of the backend's own mapped twice: ${mapping.guest} + ${mapping.length}`)
    this.queued.push({ kind: 'map', ...mapping })
  }

  unmap(): void {
    const span = this.wanted()
    const end = span.iova + span.length
    for (const { iova, length } of [...this.mapped, ...this.queued.filter(isMap)])
      if (overlaps(span, { iova, length }) && (iova < span.iova || iova + length > end))
        this.violations.push(`a removal of ${span.iova} + ${span.length} splits ${iova} + ${length}`)
    if (this.gaps && this.mapped.some(({ iova }) => iova === end))
      this.violations.push(`a removal of ${span.iova} + ${span.length} up to its neighbour`)
    this.queued.push({ kind: 'unmap', ...span })
  }

  commit(): DmaStatus {
    this.commits++
    this.sent = this.queued
    this.queued = []
    let worst: DmaStatus = DMA_OK
    for (const request of this.sent) {
      const status = this.broken ? DMA_FAILED : this.answer(request)
      if (status !== DMA_OK) {
        if (request.kind === 'unmap') this.broken = true
        if (worst !== DMA_FAILED) worst = request.kind === 'map' && status === DMA_EXHAUSTED ? status : DMA_FAILED
      } else if (request.kind === 'map') {
        if (this.mapped.some((other) => overlaps(request, other))) this.violations.push(`mapped twice: ${request.iova}`)
        const { iova, length, guest, access } = request
        this.mapped.push({ iova, length, guest, access })
      } else {
        this.mapped = this.mapped.filter((mapping) => !overlaps(request, mapping))
      }
    }
    return this.broken ? DMA_FAILED : worst
  }

  dispose(): void {
    this.disposed = true
    this.mapped = []
    this.queued = []
  }

  /** The guest address that the device reaches at `iova` now, or -1. */
  translate(iova: number, access: number): number {
    for (const mapping of this.mapped)
      if (iova >= mapping.iova && iova < mapping.iova + mapping.length)
        return (mapping.access & access) === access ? mapping.guest + (iova - mapping.iova) : -1
    return -1
  }

  private wanted(): { iova: number; length: number } {
    const [iova, length] = [this.request[REQUEST_IOVA], this.request[REQUEST_LENGTH]]
    if (!Number.isSafeInteger(iova) || !Number.isSafeInteger(length) || iova < 0 || length < 1)
      this.violations.push(`IOVA ${iova}, length ${length}`)
    if (iova % this.granule !== 0 || length % this.granule !== 0)
      this.violations.push(`in mid-granule: ${iova}, ${length}`)
    return { iova, length }
  }
}

export function isMap(request: Request): request is { readonly kind: 'map' } & Mapping {
  return request.kind === 'map'
}

export interface Rig {
  readonly backend: IommuBackend
  readonly domain: ModelDomain
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  /** All guest RAM. */
  readonly bytes: Uint8Array
  /** What `now` says, in milliseconds. */
  readonly clock: { now: number }
}

export type RigOptions = Partial<IommuBackendOptions> & { readonly space?: Space; readonly source?: MemorySource }

export function rig({ space = {}, source, ...options }: RigOptions = {}): Rig {
  const buffer = source ?? new ArrayBuffer(RAM)
  const memory = options.memory ?? new GuestMemory([{ base: BASE, length: RAM, memory: buffer, offset: 0 }])
  const ram = options.ram ?? new SpanAllocator(guestAddress(BASE + LENDABLE), LENDABLE)
  const domain = new ModelDomain(space)
  const clock = { now: 0 }
  const backend = new IommuBackend({
    name: 'test iommu',
    now: () => clock.now,
    ...options,
    memory,
    ram,
    domain,
  })
  return { backend, domain, memory, ram, clock, bytes: memory.ranges[0].region.u8 }
}

/** Rows that start out with what a virtqueue leaves in them. */
export const table = (rows: number, standing = false): DmaMappings => new DmaMappings(rows, standing)

/** Fills in a row and maps it; `at` counts from the first byte of guest RAM. */
export function lend(r: Rig, m: DmaMappings, row: number, at: number, length: number, direction = 3): DmaStatus {
  m.guest[row] = BASE + at
  m.length[row] = length
  m.direction[row] = direction
  return r.backend.map(m, row)
}

/** The byte that the device reads at `iova`, or -1. */
export function peek(r: Rig, iova: number): number {
  const guest = r.domain.translate(iova, DOMAIN_READ)
  return guest < 0 ? -1 : r.memory.ranges[0].region.u8[guest - BASE]
}

/** The device writes a byte. Returns whether it could. */
export function poke(r: Rig, iova: number, value: number): boolean {
  const guest = r.domain.translate(iova, DOMAIN_WRITE)
  if (guest >= 0) r.memory.ranges[0].region.u8[guest - BASE] = value
  return guest >= 0
}

/** What can go wrong lies at the ends of buffers and of granules: offsets of [0, length) near those. */
export function samples(at: number, length: number, granule: number): number[] {
  const near = new Set<number>()
  const edges = [0, length]
  for (let edge = Math.ceil(at / granule) * granule - at; granule > 2 && edge < length; edge += granule)
    edges.push(edge)
  for (const edge of edges.slice(0, 12)) for (let i = edge - 2; i <= edge + 1; i++) near.add(i)
  return [...near, length >> 1].filter((i) => i >= 0 && i < length)
}

/** The code of the error that is thrown. */
export function code(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
  return 'nothing was thrown'
}
