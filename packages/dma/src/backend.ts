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
   * only that device can find it. `own-writes`: what the same device wrote into earlier mappings is delivered, which it
   * could write again anyway. `own`: what the same device was lent is delivered. `other-devices`: what another device was
   * lent is delivered, or can be read.
   */
  readonly residue: 'none' | 'own-writes' | 'own' | 'other-devices'
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
  /** Bytes by which `deviceLength` of a mapping may exceed `length`, at most. 0 where nothing is added. */
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
  /** Bytes that were zeroed so that nothing old is found. 0 where a backend needs no clearing. */
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
 * The guest half of a scheme: turns guest addresses into device addresses and takes them back. A word in brackets is in
 * the title of the test of `describeDmaScheme` that proves the line.
 *
 * Callers (the virtqueue; a driver only calls `alloc` and `free`) must: map a row at most once before unmapping it;
 * leave lent bytes alone until `unmap` or `syncForCpu`; call `commitMaps` after the last map of a batch and before the
 * device can learn of it; call `commitUnmaps` after the last unmap of a batch and before anyone reads, reuses or
 * releases what was lent.
 *
 * Implementers must: answer expected outcomes with a status and throw a `DmaError` only on misuse, or at set-up; expect
 * that guest memory grows between any two calls, which detaches its views, and so call `refresh` of each region before
 * they use its views [growth]; count what they do in `counters` [counters]; allocate nothing on the JavaScript heap in
 * `map`, `unmap`, the syncs and the commits. A backend need not detect misuse: `checked` of the conformance package does.
 */
export interface DmaBackend {
  readonly name: string
  readonly traits: DmaTraits
  readonly limits: DmaLimits
  readonly counters: Readonly<DmaCounters>

  /**
   * Memory that both sides see. Set-up time. It is zeroed [alloc-zeroed], aligned to `align` on the device's side
   * [alloc-aligned], and consists of whole granules that no other region shares [alloc-granules].
   *
   * `use` says what it holds. The device reads and writes a `ring` as it is, so a backend never transforms it
   * [alloc-plain]. It may transform or place `payload` in another way. The caller owns the region until `free` or
   * `dispose`.
   *
   * @throws DmaError `DMA_ALLOC` where there is no room; nothing is taken then [alloc-refused]
   */
  alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion
  /**
   * Takes a region back, without deferral: the device cannot reach it when this returns.
   *
   * @throws DmaError `DMA_FREE` for a region that is not allocated here, or was freed before: misuse [free-once].
   *   `DMA_STILL_REACHABLE` where the removal was not confirmed: the region stays allocated and out of use until
   *   `dispose`, and the caller leaves it alone [free-unconfirmed].
   */
  free(region: DmaRegion): void

  /**
   * Lends the guest range in `row` and fills in `device`, `deviceLength` and `token` [map-lends]. `deviceLength` is from
   * `length` to `length + limits.overhead` [map-overhead].
   *
   * Returns `DMA_OK`; `DMA_EXHAUSTED` [map-exhausted]; `DMA_TOO_LONG`, only beyond `maxMappingLength`, and for good
   * [map-too-long]; `DMA_UNMAPPABLE` where the range is not guest memory [map-unmappable]; `DMA_FAILED` after a commit
   * that failed. On any status but `DMA_OK` the backend holds nothing of the row [map-undo]. The row is the caller's, is
   * not unmapped, and its `device`, `deviceLength` and `token` mean nothing.
   */
  map(m: DmaMappings, row: number): DmaStatus
  /**
   * Takes the row back. Of what the device wrote, bytes [0, `written`) of the buffer become visible, and the rest of guest
   * memory is untouched [unmap-written]. A caller passes at most `length`. Of more than that a backend delivers at most
   * the buffer, or it refuses with `DMA_CORRUPT` and delivers nothing [unmap-clamped].
   *
   * Returns `DMA_OK` or `DMA_CORRUPT`. In both cases the row is no longer live and is not unmapped again. The caller
   * calls `commitUnmaps` as usual; the queue completes the chain with the status.
   *
   * A backend that transforms payload returns `DMA_CORRUPT` where its check of bytes [0, `written`) fails. It delivers
   * nothing then, and counts it in `corrupt` [unmap-corrupt]. Where `written` is 0, or only the device reads the row,
   * there is nothing to check and it returns `DMA_OK` [unmap-unchecked]. A backend with `plain` payload has no check.
   *
   * A tag of such a backend lies right behind byte `written`, not behind byte `length` [unmap-written]. `written` counts
   * payload only. Descriptors carry `deviceLength`, so a device that knows nothing of the tag takes it for payload. With
   * devices of type net and block an encrypting backend therefore keeps its tags in memory of its own.
   */
  unmap(m: DmaMappings, row: number, written: number): DmaStatus

  /**
   * Makes what the CPU wrote into [offset, offset + length) of a live mapping visible to the device [sync-device].
   * Where only the device writes, it changes nothing [sync-direction]. `offset` and `length` are multiples of
   * `limits.syncGranule`, or end where the mapping ends. A backend that can only sync whole mappings declares a
   * `syncGranule` of at least `maxMappingLength`.
   *
   * Returns `DMA_OK`, or `DMA_UNMAPPABLE` for a range that is not within the mapping, in every direction and also where
   * there is nothing to copy. Nothing is copied then [sync-range]. The row stays live.
   */
  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus
  /**
   * Makes what the device wrote into [offset, offset + length) of a live mapping visible to the CPU, and changes nothing
   * else [sync-cpu]. Where only the device reads, it changes nothing [sync-direction]. Ranges and statuses are those of
   * `syncForDevice`, and `DMA_CORRUPT` where the check of a backend that transforms payload fails: nothing is delivered
   * [sync-corrupt]. The row stays live.
   */
  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus

  /**
   * Makes the maps since the last `DMA_OK` count. With nothing to do it returns `DMA_OK` [commit-empty].
   *
   * Any other status: no map since the last `DMA_OK` counts, and earlier ones still do. The caller unmaps those rows
   * with a `written` of 0, calls `commitUnmaps`, and publishes nothing. The backend keeps nothing of them
   * [commit-maps-failed]. The status says whether to try again (`DMA_EXHAUSTED`), to give up (`DMA_TOO_LONG`,
   * `DMA_UNMAPPABLE`) or that the confirming side failed (`DMA_FAILED`).
   */
  commitMaps(): DmaStatus
  /**
   * Completes the unmaps since the last `DMA_OK`. `DMA_OK` where `revocation` is `strict`: the device cannot reach what
   * was unmapped, and no access that began earlier is still running [commit-revokes]. With nothing to do it returns
   * `DMA_OK` [commit-empty].
   *
   * `DMA_FAILED`: the device may still reach it. The caller quarantines what was unmapped (neither reads, reuses nor
   * releases it) and stops using the queue. The backend keeps its own memory and addresses of those rows out of use,
   * until a later call returns `DMA_OK` or until `dispose` [commit-unmaps-failed].
   */
  commitUnmaps(): DmaStatus

  /**
   * Revokes everything without deferral and gives back all memory [dispose-all], also what earlier calls could not
   * revoke. The device has been reset before.
   *
   * Throws where the device could not be kept from some of it, and gives nothing back then. Once the platform cut the
   * device off, the caller calls again. It throws again where somebody still keeps mappings for the device, which the
   * device would find when the platform lets it in again.
   *
   * @throws DmaError `DMA_STILL_REACHABLE`
   */
  dispose(): void
  /**
   * After `dispose` threw: calls `release` once the device can reach nothing any more, and the backend has given its own
   * memory back; at once where that is so already. Without it nobody ever knows that, and what was lent stays out of use.
   */
  whenGone?(release: () => void): void
}
