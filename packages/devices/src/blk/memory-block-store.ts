import { BLK_S_OK, SECTOR_SIZE } from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import type { BlockRequest, BlockStore } from './block-store.ts'

/**
 * A block store in memory. Requests end before the call returns. The bytes stay the caller's: changes show at once on
 * both sides.
 *
 * @throws DeviceError `STORE_CAPACITY` unless the length is a positive multiple of 512 bytes
 */
export class MemoryBlockStore implements BlockStore {
  readonly bytes: Uint8Array
  /** How often each operation was asked for. */
  readonly counters: { reads: number; writes: number; flushes: number } = { reads: 0, writes: 0, flushes: 0 }

  constructor(bytes: Uint8Array) {
    if (bytes.length === 0 || bytes.length % SECTOR_SIZE !== 0) {
      const message = `${bytes.length} bytes must be a positive multiple of ${SECTOR_SIZE}`
      throw new DeviceError('STORE_CAPACITY', 'memory block store', message, { length: bytes.length })
    }
    this.bytes = bytes
  }

  get capacity(): number {
    return this.bytes.length
  }

  read(request: BlockRequest): void {
    this.counters.reads++
    const at = request.sector * SECTOR_SIZE
    request.data.set(this.bytes.subarray(at, at + request.data.length))
    request.done(BLK_S_OK)
  }

  write(request: BlockRequest): void {
    this.counters.writes++
    this.bytes.set(request.data, request.sector * SECTOR_SIZE)
    request.done(BLK_S_OK)
  }

  flush(request: BlockRequest): void {
    this.counters.flushes++
    request.done(BLK_S_OK)
  }
}
