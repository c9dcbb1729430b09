import { Region } from '@guestdma/memory'

/** Distinct buffers that frames came from; a link uses few. */
const KEPT_SOURCES = 8

/**
 * Regions over the buffers that incoming frames lie in, so that the one copy routine can read them. Keeps the last few.
 */
export class FrameSources {
  private readonly kept: Region[] = []
  private next = 0
  private last: Region = new Region(new ArrayBuffer(0), 'no frame')

  region(frame: Uint8Array<ArrayBuffer>): Region {
    const { buffer } = frame
    if (this.last.source !== buffer) this.last = this.find(buffer)
    return this.last
  }

  // Apart from what runs for each frame: a variable that a closure holds is allocated when its function begins.
  private find(buffer: ArrayBuffer): Region {
    const known = this.kept.find((candidate) => candidate.source === buffer)
    if (known !== undefined) return known
    const region = new Region(buffer, 'frame')
    this.kept[this.next] = region
    this.next = (this.next + 1) % KEPT_SOURCES
    return region
  }
}
