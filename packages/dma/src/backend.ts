import type { DeviceAddress, Region } from '@guestdma/memory'
import type { DmaMappings } from './mappings.ts'
import type { DmaDirection, DmaStatus } from './status.ts'

/** Long-lived memory that driver and device both see. It belongs to whoever called `alloc`, until `free`. */
export interface DmaRegion {
  /** Where the device sees it. */
  readonly device: DeviceAddress
  /** Where the CPU sees it: bytes [offset, offset + length) of `region`. */
  readonly region: Region
  readonly offset: number
  readonly length: number
  readonly direction: DmaDirection
}

/**
 * What a scheme is, in terms that can be tested. `describeDmaScheme` of the conformance package fails a trait that is
 * not true.
 */
export interface DmaTraits {
  /**
   * Does a mapping lend the guest's own bytes, or a copy of them? `mixed`: a copy of what covers a granule only in part,
   * and the guest's own bytes elsewhere.
   */
  readonly streaming: 'in-place' | 'copied' | 'mixed'
  /** Does the device see the payload as it is, or transformed (encrypted, say)? */
  readonly payload: 'plain' | 'transformed'
  /** The type of the memory that the device accesses; never how it was found. */
  readonly home: 'guest-ram' | 'device-memory'
  /**
   * Does what was lent for reading stay as the guest left it, whatever the device writes? `not-enforced`: the guest
   * trusts the device in this.
   */
  readonly readOnly: 'enforced' | 'not-enforced'
  /** What a device can reach around a lent byte. */
  readonly reach: 'all' | 'granule' | 'byte' | 'pool'
  /**
   * When does a lent byte stop being reachable? `strict`: when `commitUnmaps` returns. `deferred`: within
   * `staleEntries` and `staleNs`, which are infinite where a neighbour in the same granule can keep it reachable.
   */
  readonly revocation: 'none' | 'deferred' | 'strict'
  /**
   * What keeps a device inside its reach: `construction`, it has no way to name anything else (another process, a
   * worker that was not given the memory); `trusted-code`, a port or walker of ours; `peer`, the device's own IOMMU or
   * back end; `nothing`. Only the composition knows whose the port is, and tells the backend.
   */
  readonly enforcedBy: 'construction' | 'trusted-code' | 'peer' | 'nothing'
  /**
   * Whose bytes of earlier mappings are left where they can be found. Toward the guest: bytes that are lent for writing
   * still hold them, so that a device that overstates what it wrote has them delivered. Toward a device: they are within
   * its reach although they were taken back. `none`: nobody's, but for what one device was lent itself and is left where
   * only that device can find it. `own`: what the same device was lent is delivered. `other-devices`: what another device
   * was lent is delivered, or can be read.
   */
  readonly residue: 'none' | 'own' | 'other-devices'
}

/** What a backend can do at most. Bytes and counts; `Infinity` where there is no limit. */
export interface DmaLimits {
  /** The unit of reach: lengths and addresses of `alloc` are whole granules. */
  readonly granule: number
  /**
   * Bytes of one mapping that can always be had, whatever the address, once other requests complete. The virtqueue
   * splits what is longer.
   */
  readonly maxMappingLength: number
  readonly maxLiveMappings: number
  /**
   * How many mappings of `maxMappingLength` can always be had at once, once other requests complete. A chain that would
   * be split into more is refused for good.
   */
  readonly assuredMappings: number
  /** The highest address that a device may be asked to use. */
  readonly maxDeviceAddress: number
  /** Bytes that a mapping needs beyond the payload. */
  readonly overhead: number
  /** The unit of `syncForCpu` and `syncForDevice`. */
  readonly syncGranule: number
  /** Unmapped entries that may still be reachable, at most. */
  readonly staleEntries: number
  /** Nanoseconds for which an unmapped entry may still be reachable, at most. */
  readonly staleNs: number
}

/**
 * Running totals of one backend; `maps - unmaps` mappings are live. Bytes count what was moved by the CPU, not what was
 * lent.
 */
export interface DmaCounters {
  maps: number
  unmaps: number
  commitMaps: number
  commitUnmaps: number
  syncs: number
  bytesCopiedToDevice: number
  bytesCopiedFromDevice: number
  bytesCleared: number
  exhausted: number
  tooLong: number
  unmappable: number
  corrupt: number
  /** Bytes handed out by `alloc` now. */
  allocatedBytes: number
}

/** Counters at zero. */
export function newDmaCounters(): DmaCounters {
  return {
    maps: 0,
    unmaps: 0,
    commitMaps: 0,
    commitUnmaps: 0,
    syncs: 0,
    bytesCopiedToDevice: 0,
    bytesCopiedFromDevice: 0,
    bytesCleared: 0,
    exhausted: 0,
    tooLong: 0,
    unmappable: 0,
    corrupt: 0,
    allocatedBytes: 0,
  }
}

/**
 * The guest half of a scheme: turns guest addresses into device addresses and takes them back.
 *
 * Callers (the virtqueue; a driver only calls `alloc` and `free`) must: map a row at most once before unmapping it;
 * leave lent bytes alone until `unmap` or `syncForCpu`; call `commitMaps` after the last map of a batch and before the
 * device can learn of it; call `commitUnmaps` after the last unmap of a batch and before anyone reads, reuses or
 * releases what was lent.
 *
 * Implementers must: answer expected outcomes with a status and throw only on misuse; make `map` undo itself on any
 * status but `DMA_OK`; never write guest memory outside [guest, guest + min(written, length)) of an unmapped row; zero
 * what `alloc` returns; allocate nothing on the JavaScript heap in `map`, `unmap`, the syncs and the commits.
 */
export interface DmaBackend {
  readonly name: string
  readonly traits: DmaTraits
  readonly limits: DmaLimits
  readonly counters: Readonly<DmaCounters>

  /**
   * Zeroed memory that both sides see, in whole granules that no other direction shares. Set-up time. `use` tells rings
   * from payload for backends that transform payload or place the two differently.
   *
   * @throws DmaError `DMA_ALLOC` where there is no room
   */
  alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion
  /** Throws DmaError `DMA_FREE` for a region that is not allocated here. */
  free(region: DmaRegion): void

  /** Lends the guest range in `row` and fills in its device address. */
  map(m: DmaMappings, row: number): DmaStatus
  /**
   * Takes it back. At most `written` bytes that the device wrote become visible; the rest of the buffer is untouched.
   */
  unmap(m: DmaMappings, row: number, written: number): DmaStatus

  /** Makes what the CPU wrote into [offset, offset + length) of a live mapping visible to the device. */
  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus
  /** Makes what the device wrote into [offset, offset + length) of a live mapping visible to the CPU. */
  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus

  /** Not Ok: no map since the last Ok counts; the caller undoes them and publishes nothing. */
  commitMaps(): DmaStatus
  /**
   * Strict and Ok: the device cannot reach what was unmapped, and no access that began earlier is still running. Not
   * Ok: the caller quarantines what was unmapped and stops using the queue.
   */
  commitUnmaps(): DmaStatus

  /**
   * Revokes everything without deferral and gives back all memory. The device has been reset before. Throws where the
   * device could not be kept from some of it, and gives nothing back then; once the platform cut the device off, the
   * caller calls again, and all goes back.
   */
  dispose(): void
}
