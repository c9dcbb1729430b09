import type { DmaDirection, DmaMappings, DmaRegion } from '@guestdma/dma'
import type { DeviceAddress, Region } from '@guestdma/memory'
import type { ChainAccount } from './account.ts'
import type { Completions } from './virtqueue.ts'

/** What a ring of the driver's half is made of. */
export interface DriverRingSetup {
  readonly size: number
  readonly eventIndex: boolean
  readonly account: ChainAccount
  /** By row: the address and the length that a descriptor has. */
  readonly mappings: DmaMappings
  /** Memory that both sides see, zeroed. The queue gives it back. Throws DmaError `DMA_ALLOC`. */
  alloc(length: number, align: number, direction: DmaDirection): DmaRegion
}

/**
 * Descriptors on their way into a ring: each is its row, and from bit {@link LISTED_FLAGS} on its flags. Address and
 * length stand in columns `device` and `deviceLength` of that row of the mappings. The flags are NEXT (1: another one of
 * the same chain follows), WRITE (2) and INDIRECT (4), as both formats have them. The row of a chain's first descriptor
 * is the chain's id. There is room for one more than are there.
 */
export type DescriptorList = Int32Array
export const LISTED_FLAGS: number = 16

/**
 * A ring format, on the driver's side: where descriptors lie, how they are made available, and how used ones are found.
 * Whole batches move between the ring and private memory; every shared word is loaded once. It believes nothing of what
 * it collects: the queue judges ids and lengths.
 */
export interface DriverRing {
  readonly areas: { readonly descriptor: DeviceAddress; readonly driver: DeviceAddress; readonly device: DeviceAddress }
  /** Where the next chain will go, as a doorbell says it (virtio 1.4 §2.9). */
  readonly position: number
  /** Whether there may be something to collect, by a plain look. */
  readonly hasUsed: boolean
  /** Writes `n` descriptors of whole chains. The device does not see them yet. */
  write(list: DescriptorList, n: number): void
  /**
   * Makes what was written available, behind all of it and before a full barrier, and asks behind that whether the
   * device wants a doorbell. Returns the answer.
   */
  publish(): boolean
  /**
   * Writes the `n` descriptors of one chain to an indirect table at word `at` of a region: rows `first` and up, with the
   * flags of the list.
   */
  describe(region: Region, at: number, first: number, list: DescriptorList, n: number): void
  /**
   * Copies id and length of up to `limit` used chains to `id` and `written`, and returns how many. A batch that an
   * in-order device completed with one element is taken whole: there is room for all that are outstanding.
   */
  collect(into: Completions, limit: number): number
  /** Asks for an interrupt at the next used chain. Returns whether one is there already. */
  arm(): boolean
  /** Asks for none. */
  disarm(): void
  /** As it was made, its memory zeroed: the device was told to forget it, and has. */
  reset(): void
}

/** Makes the driver's half of rings of one format. */
export interface RingFormat {
  /** `null`: there can be a ring of this size. Otherwise what would be right. */
  refuseSize(size: number): string | null
  ring(setup: DriverRingSetup): DriverRing
}
