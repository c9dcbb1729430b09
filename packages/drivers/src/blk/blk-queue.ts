import { BIDIRECTIONAL, BufferPool, DMA_EXHAUSTED, DMA_OK, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { observe } from '@guestdma/memory'
import { BLK_REQUEST_HEADER_SIZE, BLK_REQUEST_QUEUE, BLK_S_OK, BLK_T_FLUSH, BLK_T_OUT } from '@guestdma/spec'
import { type CellArea, SEGMENT_DEVICE, SEGMENT_GUEST, type Virtqueue } from '@guestdma/virtqueue'
import { type BufferMode, NO_BUFFER } from '../driver/buffer-mode.ts'
import type { DeviceSession } from '../driver/session.ts'

/** Header, data, status: virtio 1.4 §5.2.6. */
const LONGEST_CHAIN = 3

/** What a status byte is before the device writes it: no status of the specification. */
export const BLK_S_UNWRITTEN = 0xff
/** No byte, so that no device can write it: the device claimed success but wrote less than was asked for. */
export const BLK_S_SHORT = 0x100
/** No byte either: the backend could not take the data back intact, and delivered none of it. */
export const BLK_S_CORRUPT = 0x101

/** A batch of requests: rows 0 to count - 1. Make one and reuse it. */
export class RequestBatch {
  declare readonly capacity: number
  /** `BLK_T_IN`, `BLK_T_OUT`, `BLK_T_FLUSH`, `BLK_T_GET_ID`. */
  declare readonly type: Uint32Array
  /** In units of 512 bytes; 0 where there is no data. */
  declare readonly sector: Float64Array
  /** Guest address of the data, where `buffer` is -1. */
  declare readonly address: Float64Array
  /** A buffer of the queue's pool, or -1. */
  declare readonly buffer: Int32Array
  /** Bytes of data; 0 for a flush. */
  declare readonly length: Uint32Array
  /** The caller's own number; handed back on completion. */
  declare readonly token: Uint32Array
  count = 0

  constructor(capacity: number) {
    this.capacity = capacity
    this.type = new Uint32Array(capacity)
    this.sector = new Float64Array(capacity)
    this.address = new Float64Array(capacity)
    this.buffer = new Int32Array(capacity).fill(NO_BUFFER)
    this.length = new Uint32Array(capacity)
    this.token = new Uint32Array(capacity)
  }
}

/** Requests that completed in one `poll`: rows 0 to count - 1. */
export class CompletedRequests {
  declare readonly token: Uint32Array
  /**
   * `BLK_S_OK`, `BLK_S_IOERR`, `BLK_S_UNSUPP`, `BLK_S_UNWRITTEN`, what else the device wrote; `BLK_S_SHORT`,
   * `BLK_S_CORRUPT`.
   */
  declare readonly status: Uint16Array
  count = 0

  constructor(capacity: number) {
    this.token = new Uint32Array(capacity)
    this.status = new Uint16Array(capacity)
  }
}

export interface BlkQueueOptions {
  readonly mode: BufferMode
  readonly queueSize: number
  /** The buffers of `pool` mode. */
  readonly buffers: { readonly count: number; readonly bytes: number }
  completed(batch: CompletedRequests): void
}

/**
 * The synchronous core of the block driver: batches of requests in, batches of completions out, nothing allocated on
 * the way. It trusts its caller with sectors and lengths; `BlkDriver` checks them.
 */
export class BlkQueue {
  declare readonly queue: Virtqueue
  /** `pool` mode: the buffers that `RequestBatch.buffer` names. */
  declare readonly buffers: BufferPool | null
  /** Why the last `submit` took less than it was given. */
  submitStatus: number = DMA_OK

  declare private readonly headers: CellArea
  declare private readonly statuses: CellArea
  declare private readonly token: Uint32Array
  declare private readonly needed: Float64Array
  declare private readonly results: CompletedRequests
  private readonly completed: (batch: CompletedRequests) => void

  constructor(session: DeviceSession, { mode, queueSize, buffers, completed }: BlkQueueOptions) {
    this.queue = session.openQueue({
      index: BLK_REQUEST_QUEUE,
      label: 'requests',
      size: queueSize,
      longestChain: LONGEST_CHAIN,
      indirect: { tables: Math.min(64, queueSize), capacity: LONGEST_CHAIN },
    })
    const size = this.queue.size
    this.headers = this.queue.cells(BLK_REQUEST_HEADER_SIZE, TO_DEVICE)
    this.statuses = this.queue.cells(1, FROM_DEVICE)
    this.buffers =
      mode === 'pool'
        ? new BufferPool(session.backend, { ...buffers, name: `${session.name} data`, direction: BIDIRECTIONAL })
        : null
    this.token = new Uint32Array(size)
    this.needed = new Float64Array(size)
    this.results = new CompletedRequests(size)
    this.completed = completed
    const { segments } = this.queue
    segments.kind[0] = this.headers.kind
    segments.length[0] = BLK_REQUEST_HEADER_SIZE
  }

  /** Submits the requests of a batch with one notification at most. Returns how many were taken, from row 0 on. */
  submit(batch: RequestBatch): number {
    let taken = this.submitUpTo(batch, batch.count)
    // Where the backend has no room for all of them, it may have it for some.
    while (taken < -1 && this.submitStatus === DMA_EXHAUSTED) {
      taken = this.submitUpTo(batch, -taken >> 1)
      if (taken > 0) this.submitStatus = DMA_EXHAUSTED
    }
    return taken > 0 ? taken : 0
  }

  // How many were taken, or less than 0: so many were added and had to be undone.
  private submitUpTo(batch: RequestBatch, most: number): number {
    const { queue, headers, statuses } = this
    const { segments } = queue
    let status: number = DMA_OK
    let n = 0
    for (; n < most; n++) {
      const type = batch.type[n]
      const length = batch.length[n]
      const buffer = batch.buffer[n]
      let at = 1
      if (length > 0) {
        segments.kind[1] = buffer === NO_BUFFER ? SEGMENT_GUEST : SEGMENT_DEVICE
        segments.address[1] = buffer === NO_BUFFER ? batch.address[n] : (this.buffers as BufferPool).device[buffer]
        segments.length[1] = length
        at = 2
      }
      segments.kind[at] = statuses.kind
      segments.address[at] = 0
      segments.length[at] = 1
      const out = type === BLK_T_OUT || type === BLK_T_FLUSH
      const readable = out ? at : 1
      const id = queue.add(readable, at + 1 - readable)
      if (id < 0) {
        status = id
        break
      }
      const u32 = headers.memory.region.u32
      const word = (headers.memory.offset + id * headers.stride) / 4
      const sector = batch.sector[n]
      u32[word] = type
      u32[word + 1] = 0
      u32[word + 2] = sector
      u32[word + 3] = sector * 2 ** -32
      // Success must be written by the device; it is never what happens to lie there.
      statuses.memory.region.u8[statuses.memory.offset + id * statuses.stride] = BLK_S_UNWRITTEN
      this.token[id] = batch.token[n]
      this.needed[id] = out ? 1 : length + 1
    }
    const published = n === 0 ? DMA_OK : queue.publish()
    this.submitStatus = published === DMA_OK ? status : published
    return published === DMA_OK ? n : -n
  }

  /** Takes up to `budget` completions and reports them in one call. Returns how many. */
  poll(budget: number): number {
    const { queue, statuses, results } = this
    const n = queue.reap(budget)
    if (n === 0) return 0
    const { id: ids, written, status } = queue.completed
    for (let i = 0; i < n; i++) {
      const id = ids[i]
      const byte = statuses.memory.region.u8[statuses.memory.offset + id * statuses.stride]
      results.token[i] = this.token[id]
      results.status[i] =
        status[i] !== DMA_OK ? BLK_S_CORRUPT : byte === BLK_S_OK && written[i] < this.needed[id] ? BLK_S_SHORT : byte
    }
    results.count = n
    queue.recycle()
    observe(this.completed, results)
    return n
  }
}
