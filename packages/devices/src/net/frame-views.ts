import { Region } from '@guestdma/memory'

/** Up to here a frame's view is kept and used again; above, allocating it anew (100 bytes) is small beside the copy. */
const KEPT_LENGTH = 2048
const ALIGNMENTS = 8
/** Distinct buffers that frames came from; a link uses few. */
const KEPT_SOURCES = 8

/**
 * Staging memory for outgoing frames, with views that are made once per length and alignment: making a
 * view costs more than the copy of a small frame, and allocates.
 */
export class FrameStaging {
  declare region: Region
  /** Twelve bytes for a receive header that has to be written piecewise. */
  readonly header: Region = new Region(new ArrayBuffer(16), 'frame header')
  declare private readonly size: number
  declare private buffer: ArrayBuffer
  private readonly views: (Uint8Array<ArrayBuffer> | null)[]

  constructor(longest: number) {
    this.size = longest + 2 * ALIGNMENTS
    this.buffer = new ArrayBuffer(this.size)
    this.region = new Region(this.buffer, 'frame staging')
    this.views = new Array<Uint8Array<ArrayBuffer> | null>(ALIGNMENTS * (KEPT_LENGTH + 1)).fill(null)
  }

  /** After a link took the memory away, by transferring what it was shown. Before anything is copied there. */
  renew(): void {
    this.buffer = new ArrayBuffer(this.size)
    this.region = new Region(this.buffer, 'frame staging')
    this.views.fill(null)
  }

  /**
   * Bytes [align, align + length) of the staging region; `align` is 0 to 7. Memory that a link took away is replaced, so
   * take the view before the region.
   */
  view(align: number, length: number): Uint8Array<ArrayBuffer> {
    const kept = length > KEPT_LENGTH ? null : this.views[align * (KEPT_LENGTH + 1) + length]
    return kept !== null && kept.length === length ? kept : this.newView(align, length)
  }

  private newView(align: number, length: number): Uint8Array<ArrayBuffer> {
    if (this.buffer.byteLength === 0) this.renew()
    const view = new Uint8Array(this.buffer, align, length)
    if (length <= KEPT_LENGTH) this.views[align * (KEPT_LENGTH + 1) + length] = view
    return view
  }
}

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
