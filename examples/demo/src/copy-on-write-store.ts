import type { BlockRequest, BlockStatus, BlockStore } from '@guestdma/devices'
import { BLK_S_OK, SECTOR_SIZE } from '@guestdma/spec'

/** Shows another store's sectors; what is written stays here, so that a user's file is left alone. */
export class CopyOnWriteStore implements BlockStore {
  readonly capacity: number
  private readonly below: BlockStore
  private readonly written = new Map<number, Uint8Array>()

  constructor(below: BlockStore) {
    this.below = below
    this.capacity = below.capacity
  }

  read(request: BlockRequest): void {
    const { sector, data } = request
    const done = (status: BlockStatus): void => {
      for (let at = 0; at < data.length; at += SECTOR_SIZE) {
        const own = this.written.get(sector + at / SECTOR_SIZE)
        if (own !== undefined && status === BLK_S_OK) data.set(own, at)
      }
      request.done(status)
    }
    this.below.read({ sector, data, done })
  }

  write(request: BlockRequest): void {
    const { sector, data } = request
    for (let at = 0; at < data.length; at += SECTOR_SIZE) {
      this.written.set(sector + at / SECTOR_SIZE, data.slice(at, at + SECTOR_SIZE))
    }
    request.done(BLK_S_OK)
  }

  flush(request: BlockRequest): void {
    request.done(BLK_S_OK)
  }
}
