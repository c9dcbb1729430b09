import type { BlockRequest, BlockStore, MemoryBlockStore } from '@guestdma/devices'

/** Sectors in memory that answer a little later, as a file or a network does. */
export class LateStore implements BlockStore {
  readonly capacity: number
  private readonly sectors: MemoryBlockStore

  constructor(sectors: MemoryBlockStore) {
    this.sectors = sectors
    this.capacity = sectors.capacity
  }

  read(request: BlockRequest): void {
    setTimeout(() => this.sectors.read(request), 1)
  }

  write(request: BlockRequest): void {
    setTimeout(() => this.sectors.write(request), 1)
  }

  flush(request: BlockRequest): void {
    setTimeout(() => this.sectors.flush(request), 1)
  }
}
