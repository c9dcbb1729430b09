import { DmaError, type DmaStatus } from '@guestdma/dma'
import { GuestDmaError } from '@guestdma/memory'

/** Elements of {@link IommuDomain.request}. */
export const REQUEST_IOVA = 0
export const REQUEST_GUEST = 1
export const REQUEST_LENGTH = 2

/** What a mapping lets the device do: a bit mask, from the device's point of view. */
export const DOMAIN_READ = 1
export const DOMAIN_WRITE = 2

/**
 * One device's address space, whoever translates it: a virtio-iommu, a vhost-user back end's IOTLB, a host that shares
 * single pages. {@link IommuBackend} works over any of them.
 *
 * Addresses and lengths go through `request`, since as arguments they would become heap numbers. Requests are queued;
 * only `commit` says what became of them.
 *
 * Implementers must: allocate nothing on the JavaScript heap in `map`, `unmap` and `commit`; make `commit` return only
 * when the device can no longer use what was unmapped, or not Ok.
 */
export interface IommuDomain {
  /** For messages: the endpoint's name. */
  readonly name: string
  /** Bytes; a power of two. Everything below is in whole granules, except where it is 1. */
  readonly granule: number
  /** The least length of a mapping in bytes. */
  readonly leastLength: number
  /**
   * Does the device use guest addresses, so that all there is to choose is which pages it may use? Then `map` and
   * `unmap` are asked for at most once per page, with IOVA = guest address.
   */
  readonly identity: boolean
  /** IOVAs that may be used: from `inputStart` to `inputEnd`, both included. */
  readonly inputStart: number
  readonly inputEnd: number
  /** IOVAs that may not, ends included. */
  readonly reserved: readonly { readonly start: number; readonly end: number }[]
  /**
   * Must no two mappings be neighbours? For translators that take neighbouring IOVAs for neighbouring memory, or drop
   * too much when told of a removal: at least a granule is then left unmapped behind each mapping. Default false; it
   * has no meaning for `identity`.
   */
  readonly gaps?: boolean
  /** Are all areas of rings to be readable and writable for the device, whatever it does with them? Default false. */
  readonly ringsReadWrite?: boolean
  /**
   * Is nothing lent through any other domain that shares the room for mappings, so that only this one can give some
   * back? Default false.
   */
  readonly exclusive?: boolean
  /**
   * A removal was refused or no answer came: what the device can reach is not known any more, and every further commit
   * fails.
   */
  readonly broken: boolean
  /** Broken, and known to be cut off: the device reaches nothing of it, so that removals are done. Default false. */
  readonly detached?: boolean
  /** [0] IOVA, [1] guest address, [2] length of the request that is queued next. */
  readonly request: Float64Array

  /** Told by the backend how to ask what is lent through this domain: what the others need to know they are alone. */
  lentBy?(count: () => number): void
  /** Queues a mapping of `request`, with the access bits `DOMAIN_READ` and `DOMAIN_WRITE`. */
  map(access: number): void
  /**
   * Queues the removal of all mappings in [IOVA, IOVA + length) of `request`. It may cover several, and gaps between
   * them; it never cuts one in two.
   */
  unmap(): void
  /**
   * Waits for all that is queued. `DMA_OK`: all of it is in effect. `DMA_EXHAUSTED`: a mapping found no room,
   * which may pass.
   * `DMA_FAILED`: something else was refused, or the domain is {@link broken}.
   */
  commit(): DmaStatus
  /**
   * Takes everything away from the device, without deferral, and gives the address space up, also where the domain is
   * {@link broken}. Throws where that is not known to have happened; what was mapped stays out of use then. Called again
   * where the platform has cut the device off meanwhile. It throws again, unless the mappings are known to be gone, or the
   * device never to come back.
   */
  dispose(): void
  /**
   * After `dispose` threw: calls `release` once the device cannot reach anything of the domain any more, and at once where
   * that is so already.
   */
  whenGone?(release: () => void): void
}

/**
 * Gives a domain up, because of an error (`why`) or without one.
 *
 * @throws DmaError `DMA_STILL_REACHABLE` where its `dispose` throws: the `cause`, with the same details
 */
export function disposeDomain(domain: IommuDomain, why?: unknown): void {
  try {
    domain.dispose()
  } catch (cause) {
    const texts = [cause, ...(why === undefined ? [] : [why])].map((e) => (e instanceof Error ? e.message : String(e)))
    const message = `the device may still reach what is mapped for it, which stays out of use: ${texts.join('; before that: ')}`
    const details = cause instanceof GuestDmaError ? cause.details : {}
    throw new DmaError('DMA_STILL_REACHABLE', domain.name, message, details, { cause })
  }
}
