import type { BlockRequest, BlockStore } from '@guestdma/devices'
import { BLK_S_OK } from '@guestdma/spec'

/** A store that answers each request a little later, as a file or a network does. */
export class LateStore implements BlockStore {
  readonly capacity: number
  private readonly bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.capacity = bytes.length
  }

  read(request: BlockRequest): void {
    this.later(request, (at) => request.data.set(this.bytes.subarray(at, at + request.data.length)))
  }

  write(request: BlockRequest): void {
    this.later(request, (at) => this.bytes.set(request.data, at))
  }

  flush(request: BlockRequest): void {
    this.later(request, () => {})
  }

  private later(request: BlockRequest, act: (at: number) => void): void {
    setTimeout(() => {
      act(request.sector * 512)
      request.done(BLK_S_OK)
    }, 1)
  }
}
