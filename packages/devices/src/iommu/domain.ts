import type { MappingPool } from './mapping-pool.ts'
import { Mappings } from './mappings.ts'

/** What a domain knows of an endpoint in it. Ranges are in the keys of the domain's {@link Mappings}. */
export interface DomainEndpoint {
  readonly reserved: readonly { readonly start: number; readonly end: number }[]
  /** Whether a range meets a reserved region. */
  reserves(keys: Float64Array): boolean
  mapped(keys: Float64Array): void
  unmapped(keys: Float64Array): void
  /** Waits until nothing of what went is within its reach. False: it may be. */
  settle(): boolean
}

/**
 * An address space of an IOMMU and the endpoints in it (virtio 1.4 §5.13.6.3). It exists from the first ATTACH to the
 * last DETACH.
 */
export class IommuDomain {
  declare readonly id: number
  /** Null in a bypass domain. */
  declare readonly mappings: Mappings | null
  readonly endpoints: DomainEndpoint[] = []
  /** Whether any endpoint has reserved regions. */
  private reserved = false

  constructor(id: number, pool: MappingPool | null) {
    this.id = id
    this.mappings = pool === null ? null : new Mappings(pool)
  }

  add(port: DomainEndpoint): void {
    this.endpoints.push(port)
    this.reserved ||= port.reserved.length > 0
  }

  remove(port: DomainEndpoint): void {
    this.endpoints.splice(this.endpoints.indexOf(port), 1)
    this.reserved = this.endpoints.some((endpoint) => endpoint.reserved.length > 0)
  }

  /** Whether the range in the keys of `mappings` meets a reserved region of an endpoint. */
  reserves(keys: Float64Array): boolean {
    if (!this.reserved) return false
    const { endpoints } = this
    for (let i = 0; i < endpoints.length; i++) if (endpoints[i].reserves(keys)) return true
    return false
  }

  /** Whether an endpoint's reserved regions leave all mappings alone. */
  admits({ reserved }: DomainEndpoint): boolean {
    const { mappings } = this
    if (mappings === null) return true
    return !reserved.some(({ start, end }) => {
      mappings.keys[0] = start
      mappings.keys[1] = end
      return mappings.overlaps()
    })
  }

  /** Tells the endpoints that the keys of `mappings` were mapped. */
  mapped(keys: Float64Array): void {
    const { endpoints } = this
    for (let i = 0; i < endpoints.length; i++) endpoints[i].mapped(keys)
  }

  /** Tells the endpoints that the mappings in the keys of `mappings` went. */
  unmapped(keys: Float64Array): void {
    const { endpoints } = this
    for (let i = 0; i < endpoints.length; i++) endpoints[i].unmapped(keys)
  }

  /** Waits until nothing of what went is within reach of any endpoint. False: it may be. */
  settle(): boolean {
    const { endpoints } = this
    let settled = true
    for (let i = 0; i < endpoints.length; i++) if (!endpoints[i].settle()) settled = false
    return settled
  }
}
