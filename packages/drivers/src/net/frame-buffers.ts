import { BufferPool, type Buffers, type DmaDirection } from '@guestdma/dma'
import type { BufferMode } from '../driver/buffer-mode.ts'
import { RamBuffers } from '../driver/ram-buffers.ts'
import type { DeviceSession } from '../driver/session.ts'

/** Where in a buffer the frame begins: the virtio header sits right before it, and the frame is aligned. */
export const HEADROOM: number = 16

// Bytes of the buffers of one direction. They cost memory although the link is silent, so large MTUs get fewer of them:
// of guest RAM, and of memory that the device sees all the time, of which a pool has 4 MiB by default.
const MAX_RAM_BYTES = 4 << 20
const MAX_POOL_BYTES = 1 << 20

/** Buffers for frames with their headers. */
export interface FrameBuffers {
  readonly buffers: Buffers
  /** By buffer: the address where its frame begins, as a segment names it: of the device in `pool` mode, else of the guest. */
  readonly address: Float64Array
}

/** What {@link frameBuffers} are made of. */
export interface FrameBufferOptions {
  readonly mode: BufferMode
  readonly label: string
  /** How many are wanted, and bytes of a frame. */
  readonly count: number
  readonly bytes: number
  readonly direction: DmaDirection
}

/** Buffers of a driver's for one direction. Throws DmaError `DMA_ALLOC`, MemoryError `MEMORY_EXHAUSTED`. */
export function frameBuffers(session: DeviceSession, options: FrameBufferOptions): FrameBuffers {
  const { mode, direction } = options
  const { backend, memory, ram } = session
  const bytes = HEADROOM + options.bytes
  const count = Math.min(options.count, Math.floor((mode === 'pool' ? MAX_POOL_BYTES : MAX_RAM_BYTES) / bytes))
  const name = `${session.name} ${options.label}`
  const toFrame = (address: number): number => address + HEADROOM
  if (mode === 'pool') {
    const buffers = new BufferPool(backend, { name, count, bytes, direction })
    return { buffers, address: buffers.device.map(toFrame) }
  }
  const buffers = new RamBuffers(memory, ram, { name, count, bytes })
  session.onRelease(() => buffers.dispose())
  return { buffers, address: buffers.guest.map(toFrame) }
}
