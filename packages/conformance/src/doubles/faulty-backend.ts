import {
  DMA_CORRUPT,
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  type DmaDirection,
  DmaError,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
} from '@guestdma/dma'
import { hex } from '@guestdma/memory'
import { ForwardingBackend } from './forwarding-backend.ts'

/**
 * Fails on demand. Each `fail…` counts down with every call of its kind: 1 fails the next call, 2 the one after it, and
 * so on, once; 0 (the default) fails none.
 *
 * @example
 * const backend = new FaultyBackend(inner)
 * backend.failMap = 2 // the next map works, the one after it is Exhausted
 */
export class FaultyBackend extends ForwardingBackend {
  failAlloc = 0
  failFree = 0
  failMap = 0
  failCommitMaps = 0
  failCommitUnmaps = 0
  failUnmap = 0
  /** What a failing `map` answers. */
  mapStatus: DmaStatus = DMA_EXHAUSTED

  override alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    if (this.failAlloc > 0 && --this.failAlloc === 0) {
      throw new DmaError('DMA_ALLOC', this.name, `told to refuse ${length} bytes`, { length, align })
    }
    return super.alloc(length, align, direction, use)
  }

  override free(region: DmaRegion): void {
    if (this.failFree > 0 && --this.failFree === 0) {
      throw new DmaError('DMA_STILL_REACHABLE', this.name, `told not to confirm that ${hex(region.device)} is free`, {
        device: region.device,
      })
    }
    super.free(region)
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    if (this.failMap > 0 && --this.failMap === 0) return this.mapStatus
    return super.map(m, row)
  }

  /** A failing unmap takes the bytes back without delivering any. */
  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    if (this.failUnmap === 0 || --this.failUnmap > 0) return super.unmap(m, row, written)
    const status = super.unmap(m, row, 0)
    return status === DMA_OK ? DMA_CORRUPT : status
  }

  override commitMaps(): DmaStatus {
    if (this.failCommitMaps > 0 && --this.failCommitMaps === 0) return DMA_FAILED
    return super.commitMaps()
  }

  override commitUnmaps(): DmaStatus {
    if (this.failCommitUnmaps > 0 && --this.failCommitUnmaps === 0) return DMA_FAILED
    return super.commitUnmaps()
  }
}
