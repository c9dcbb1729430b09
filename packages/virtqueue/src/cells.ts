import type { DmaRegion } from '@guestdma/dma'
import { VirtqueueError } from './errors.ts'
import { type CellArea, SEGMENT_CELL } from './virtqueue.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const CELL = SEGMENT_CELL

/** Headers and statuses of a request need one area each; eight leave room. */
const MAX_CELL_AREAS = 8

/** The cell areas of a queue: memory that both sides see, with a cell for each chain. */
export class CellAreas {
  declare private readonly name: string
  // Pairs: device address of the first cell, and bytes from one cell to the next.
  private readonly device = new Float64Array(2 * MAX_CELL_AREAS)
  private areas = 0

  constructor(name: string) {
    this.name = name
  }

  /** An area of cells of `bytes`. `alloc`: memory for cells that are so many bytes apart. */
  add(bytes: number, alloc: (stride: number) => DmaRegion): CellArea {
    const slot = this.areas
    if (slot === MAX_CELL_AREAS)
      throw new VirtqueueError('VIRTQUEUE_CELLS', this.name, `there are ${MAX_CELL_AREAS} cell areas already`, { slot })
    const stride = Math.ceil(bytes / 8) * 8
    const memory = alloc(stride)
    this.areas++
    this.device[2 * slot] = memory.device
    this.device[2 * slot + 1] = stride
    return { kind: CELL + slot, stride, memory }
  }

  /** The device address of a chain's cell. */
  address(kind: number, id: number): number {
    const slot = 2 * (kind - CELL)
    return this.device[slot] + id * this.device[slot + 1]
  }
}
