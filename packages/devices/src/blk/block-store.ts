import type { BLK_S_IOERR, BLK_S_OK, BLK_S_UNSUPP } from '@guestdma/spec'

/** How a request ended: `BLK_S_OK` 0, `BLK_S_IOERR` 1, `BLK_S_UNSUPP` 2 (virtio 1.4 §5.2.6). */
export type BlockStatus = typeof BLK_S_OK | typeof BLK_S_IOERR | typeof BLK_S_UNSUPP

/**
 * One request to a store. `data` is staging memory of the device, never guest memory: the store fills it (read) or
 * takes from it (write), and may touch it until it calls `done`, not after: the memory is used again then. A store that
 * transfers it to a worker fails the request; it copies instead.
 */
export interface BlockRequest {
  /** First sector, in units of 512 bytes. The whole request lies inside the store's capacity. */
  readonly sector: number
  /** Length: a positive multiple of 512 bytes; empty for a flush. */
  readonly data: Uint8Array<ArrayBuffer>
  /**
   * Ends the request, now or later, exactly once: a second call is refused and recorded as a fault of the device. A read
   * that ends OK filled all of `data`.
   */
  done(status: BlockStatus): void
}

/**
 * What a block device keeps its sectors in. The device checks bounds, lengths and read-only access before it calls.
 * `flush` ends once all writes that had ended before it are on stable storage.
 */
export interface BlockStore {
  /** Bytes; a multiple of 512. Read before each batch of requests, which are checked against that. */
  readonly capacity: number
  read(request: BlockRequest): void
  write(request: BlockRequest): void
  flush(request: BlockRequest): void
}
