import { type BlockRequest, MemoryBlockStore } from '@guestdma/devices'

/** A disk in memory that counts what is read from it and written to it. */
export class CountingStore extends MemoryBlockStore {
  bytesRead = 0
  bytesWritten = 0

  override read(request: BlockRequest): void {
    this.bytesRead += request.data.length
    super.read(request)
  }

  override write(request: BlockRequest): void {
    this.bytesWritten += request.data.length
    super.write(request)
  }
}
