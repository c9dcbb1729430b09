import { type BufferPool, DMA_EXHAUSTED } from '@guestdma/dma'
import { type GuestAddress, guestAddress, observe } from '@guestdma/memory'
import {
  BLK_CONFIG_BLK_SIZE,
  BLK_CONFIG_CAPACITY,
  BLK_CONFIG_SIZE_MAX,
  BLK_ID_BYTES,
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  DEVICE_ID_BLOCK,
  FeatureSet,
  SECTOR_SIZE,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
} from '@guestdma/spec'
import { QUEUE_FULL } from '@guestdma/virtqueue'
import { type BufferMode, NO_BUFFER } from '../driver/buffer-mode.ts'
import { type DeviceBrokenError, DriverError, type WarningObserver, warn } from '../driver/errors.ts'
import { type DeviceSession, QUEUE_FEATURES } from '../driver/session.ts'
import { VirtioDriver, type WaitingOptions } from '../driver/virtio-driver.ts'
import {
  BLK_S_CORRUPT,
  BLK_S_SHORT,
  BLK_S_UNWRITTEN,
  BlkQueue,
  type CompletedRequests,
  RequestBatch,
} from './blk-queue.ts'

/** What {@link BlkDriver} understands. Bits that decide the DMA backend are added when it is chosen. */
export const BLK_FEATURES: FeatureSet = FeatureSet.of(
  ...QUEUE_FEATURES,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_FLUSH,
)

export interface BlkObserver extends WarningObserver {
  /** The device broke the rules or asked for a reset; everything in flight failed. */
  broken?(error: DeviceBrokenError): void
}

export interface BlkDriverOptions extends WaitingOptions {
  readonly mode?: BufferMode
  /** Entries wanted for the queue; the device may allow fewer. Default 128. */
  readonly queueSize?: number
  readonly observer?: BlkObserver
}

/** Running totals. */
export interface BlkDriverCounters {
  requests: number
  sectorsRead: number
  sectorsWritten: number
  failed: number
}

// A request of the user's is cut into requests of at most this size, so that one of them cannot fill a device's staging
// memory.
const MAX_REQUEST = 1 << 20
// Pool mode: at most a megabyte for a queue's buffers, and requests no longer than one of them.
const POOL_BUFFER = 16 << 10
const POOL_BYTES = 1 << 20

// The largest block that devices are made with; a power of two, as every block size.
const MAX_BLOCK_SIZE = 64 << 10

// More sectors than that would not have exact byte offsets.
const MAX_CAPACITY = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR_SIZE)

/** One request of the user's: cut into device requests, settled when the last of them is back. */
interface Transfer {
  readonly type: number
  readonly sector: number
  readonly address: number
  readonly length: number
  /** Bytes handed to the device so far; for a request without data, 1 once it was. */
  submitted: number
  inFlight: number
  error: DriverError | null
  /** With a deadline: when the user asked for it. */
  readonly since: number
  readonly resolve: () => void
  readonly reject: (error: DriverError) => void
}

/**
 * virtio-blk (virtio 1.4 §5.2) over whatever DMA backend was negotiated: promises for users over the synchronous {@link
 * BlkQueue}. Data lies in guest memory; sectors are 512 bytes. Any number of requests may be in flight; they are
 * submitted together at the end of the current task or at the next `poll`, whichever comes first.
 *
 * A promise that rejects with `DRIVER_DEVICE_BROKEN` leaves its memory lent until the device was reset.
 *
 * @example
 * await disk.read(0, address, 4096)
 */
export class BlkDriver extends VirtioDriver {
  declare readonly queue: BlkQueue
  /** Sectors of 512 bytes, as the device says now. */
  capacity = 0
  declare readonly readOnly: boolean
  /**
   * Bytes of the device's block, a power of two from 512 to 65,536: the unit of all requests, since devices answer to
   * others with an I/O error.
   */
  declare readonly blockSize: number
  /** Bytes of the largest request to the device; longer ones are cut. */
  declare readonly maxRequest: number
  readonly counters: BlkDriverCounters = { requests: 0, sectorsRead: 0, sectorsWritten: 0, failed: 0 }

  declare private readonly observer: BlkObserver
  declare private readonly canFlush: boolean
  declare private readonly pooled: boolean
  declare private readonly batch: RequestBatch
  private readonly batchOwner: Transfer[] = []
  private readonly waiting: Transfer[] = []
  // By token: who the device request belongs to, and what of it.
  private readonly owner: (Transfer | null)[]
  declare private readonly chunk: {
    readonly at: Float64Array
    readonly length: Uint32Array
    readonly buffer: Int32Array
    /** With a deadline: when it was handed over. */
    readonly since: Float64Array
  }
  declare private readonly freeTokens: number[]
  // With a deadline: when a device request was last handed over or came back.
  private progressAt = 0
  private scheduled = false
  private armed = false

  /**
   * Sets the device up and starts it. On an error the caller closes the session.
   *
   * @throws DriverError `BLK_CAPACITY`, `BLK_SIZE_MAX`, `DRIVER_NO_QUEUE`, `DRIVER_DEVICE_TYPE`; QueueTooSmallError; DmaError
   *   `DMA_ALLOC`
   */
  constructor(session: DeviceSession, options: BlkDriverOptions = {}) {
    super(session, DEVICE_ID_BLOCK, options)
    const { mode = 'map', queueSize = 128, observer = {} } = options
    const { features, backend, transport } = session
    this.observer = observer
    this.pooled = mode === 'pool'
    this.readOnly = features.has(VIRTIO_BLK_F_RO)
    this.canFlush = features.has(VIRTIO_BLK_F_FLUSH)
    const config = transport.readConfig((fields) => ({
      sizeMax: features.has(VIRTIO_BLK_F_SIZE_MAX) ? fields.read32(BLK_CONFIG_SIZE_MAX) : MAX_REQUEST,
      blockSize: features.has(VIRTIO_BLK_F_BLK_SIZE) ? fields.read32(BLK_CONFIG_BLK_SIZE) : SECTOR_SIZE,
    }))
    this.capacity = this.readCapacity()
    this.blockSize = this.usableBlockSize(config.blockSize)
    const sizeMax = this.usableSizeMax(config.sizeMax)
    const poolBuffer = Math.max(POOL_BUFFER, this.blockSize)
    const bound = Math.min(MAX_REQUEST, sizeMax, this.pooled ? poolBuffer : backend.limits.maxMappingLength)
    this.maxRequest = Math.floor(bound / this.blockSize) * this.blockSize
    if (this.maxRequest === 0) {
      throw new DriverError(
        'BLK_SIZE_MAX',
        this.name,
        `segments of at most ${bound} bytes cannot hold a block of ${this.blockSize}`,
        { bound, blockSize: this.blockSize },
      )
    }
    this.queue = new BlkQueue(session, {
      mode,
      queueSize,
      buffers: { count: Math.min(Math.floor(POOL_BYTES / poolBuffer), queueSize), bytes: this.maxRequest },
      completed: (batch) => this.settle(batch),
    })
    const size = this.queue.queue.size
    this.batch = new RequestBatch(size)
    this.owner = new Array<Transfer | null>(size).fill(null)
    this.chunk = {
      at: new Float64Array(size),
      length: new Uint32Array(size),
      buffer: new Int32Array(size),
      since: new Float64Array(size),
    }
    this.freeTokens = Array.from({ length: size }, (_, i) => size - 1 - i)
    session.start()
    this.queue.queue.disarm()
    // Nothing is armed yet.
    this.wake()
  }

  /**
   * Reads `length` bytes from `sector` on into guest memory, in whole blocks of the device ({@link blockSize}). Rejects:
   * `BLK_RANGE`, `BLK_LENGTH`, `BLK_ALIGNMENT`, `BLK_IOERR`, `BLK_SHORT`, `BLK_CORRUPT`, `BLK_DMA`, `BLK_RESET`, `BLK_TIMEOUT`,
   * `DRIVER_DEVICE_BROKEN`, `DRIVER_CLOSED`.
   */
  read(sector: number, address: GuestAddress, length: number): Promise<void> {
    return this.checkRange(sector, length) ?? this.enqueue(BLK_T_IN, sector, address, length)
  }

  /** Writes `length` bytes of guest memory to `sector` on. Rejects as {@link read} does, and with `BLK_READ_ONLY`. */
  write(sector: number, address: GuestAddress, length: number): Promise<void> {
    if (this.readOnly)
      return Promise.reject(new DriverError('BLK_READ_ONLY', this.name, 'the device is read-only', { sector, length }))
    return this.checkRange(sector, length) ?? this.enqueue(BLK_T_OUT, sector, address, length)
  }

  /** Makes completed writes durable. A device without FLUSH writes through: nothing to do (virtio 1.4 §5.2.6.2). */
  flush(): Promise<void> {
    return this.canFlush ? this.enqueue(BLK_T_FLUSH, 0, 0, 0) : Promise.resolve()
  }

  /**
   * The device's identification string, at most 20 characters. Rejects with `BLK_UNSUPPORTED` where the device has
   * none.
   */
  async id(): Promise<string> {
    const bytes = await this.withMemory(BLK_ID_BYTES, (address) => this.enqueue(BLK_T_GET_ID, 0, address, BLK_ID_BYTES))
    const end = bytes.indexOf(0)
    return String.fromCharCode(...bytes.subarray(0, end < 0 ? BLK_ID_BYTES : end))
  }

  /** Reads sectors through guest memory of the driver's into fresh bytes. For convenience. */
  readBytes(sector: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.checkRange(sector, length) ?? this.withMemory(length, (address) => this.read(sector, address, length))
  }

  /** Writes bytes through guest memory of the driver's. For convenience. */
  async writeBytes(sector: number, bytes: Uint8Array): Promise<void> {
    await (this.checkRange(sector, bytes.length) ??
      this.withMemory(bytes.length, (address) => {
        this.session.memory.write(address, bytes)
        return this.write(sector, address, bytes.length)
      }))
  }

  /**
   * Resets the request queue alone (virtio 1.4 §2.6.1); nothing that was agreed changes. What is in flight rejects with
   * `BLK_RESET`, and what waits goes on.
   *
   * @throws what `DeviceSession.resetQueue` throws; the device is broken then, unless RING_RESET was not agreed
   */
  resetQueue(): Promise<void> {
    return this.restart(this.queue.queue, () => {
      this.armed = false
      for (let token = 0; token < this.owner.length; token++) {
        const transfer = this.owner[token]
        if (transfer === null) continue
        this.owner[token] = null
        this.giveBack(token)
        transfer.inFlight--
        const why = 'the request queue was reset while the request was in flight'
        this.fail(transfer, new DriverError('BLK_RESET', this.name, why, plain(transfer)))
      }
    })
  }

  /** Resets the device and gives all memory back. What is in flight rejects with `DRIVER_CLOSED`. */
  override async close(): Promise<void> {
    try {
      await super.close()
    } finally {
      this.failAll(
        () => new DriverError('DRIVER_CLOSED', this.name, 'the device was reset while the request was in flight'),
      )
    }
  }

  protected override work(budget: number): number {
    const submitted = this.advance()
    const completed = this.queue.poll(budget)
    if (completed === 0) return submitted
    this.armed = false
    return submitted + completed + this.advance()
  }

  protected override arm(): boolean {
    if (this.armed) return false
    this.armed = true
    return this.queue.queue.arm()
  }

  // The capacity may change while the device runs (virtio 1.4 §5.2.6.1).
  protected override configurationChanged(): void {
    this.capacity = this.readCapacity()
    // What waits may not be submitted beyond a smaller capacity.
    for (const transfer of [...this.waiting]) {
      const error = this.rangeError(transfer.sector, transfer.length)
      if (error !== null) this.fail(transfer, error)
    }
  }

  protected override onBroken(error: DeviceBrokenError): void {
    this.failAll(() => error)
    observe(() => this.observer.broken?.(error), undefined)
  }

  protected override unansweredSince(): number {
    let since = Infinity
    for (let token = 0; token < this.owner.length; token++) {
      if (this.owner[token] !== null && this.chunk.since[token] < since) since = this.chunk.since[token]
    }
    if (since !== Infinity || this.waiting.length === 0) return since
    // Nothing is with the device: what waits, waits for the backend.
    return Math.max(this.progressAt, this.waiting[0].since)
  }

  // A device is not to blame for what it was never given.
  protected override overdue(): string | null {
    if (this.queue.queue.outstanding > 0) return super.overdue()
    const [transfer] = this.waiting
    const why = `the request could not be given to the device within ${this.requestDeadlineMs} ms`
    this.fail(transfer, new DriverError('BLK_TIMEOUT', this.name, why, plain(transfer)))
    return null
  }

  // Segments without a byte cannot be meant; qemu-storage-daemon says so where it has no bound.
  private usableSizeMax(sizeMax: number): number {
    if (sizeMax !== 0) return sizeMax
    const message = 'size_max 0 is no bound for segments; it is ignored'
    warn(this.observer, { code: 'BLK_SIZE_MAX', part: this.name, message, details: { sizeMax } })
    return MAX_REQUEST
  }

  private usableBlockSize(blockSize: number): number {
    if (blockSize >= SECTOR_SIZE && blockSize <= MAX_BLOCK_SIZE && (blockSize & (blockSize - 1)) === 0) return blockSize
    const message = `blk_size ${blockSize} is not a power of two from ${SECTOR_SIZE} to ${MAX_BLOCK_SIZE}; it is ignored`
    warn(this.observer, { code: 'BLK_BLOCK_SIZE', part: this.name, message, details: { blockSize } })
    return SECTOR_SIZE
  }

  private readCapacity(): number {
    const { low, high } = this.session.transport.readConfig((fields) => ({
      low: fields.read32(BLK_CONFIG_CAPACITY),
      high: fields.read32(BLK_CONFIG_CAPACITY + 4),
    }))
    const capacity = high * 2 ** 32 + low
    if (capacity <= MAX_CAPACITY) return capacity
    throw new DriverError('BLK_CAPACITY', this.name, `a capacity of ${capacity} sectors is more than ${MAX_CAPACITY}`, {
      low,
      high,
    })
  }

  private checkRange(sector: number, length: number): Promise<never> | null {
    if (!Number.isInteger(length) || length < SECTOR_SIZE || length % SECTOR_SIZE !== 0) {
      return Promise.reject(
        new DriverError('BLK_LENGTH', this.name, `${length} bytes: must be a positive multiple of ${SECTOR_SIZE}`, {
          length,
        }),
      )
    }
    const error = this.rangeError(sector, length) ?? this.alignmentError(sector, length)
    return error === null ? null : Promise.reject(error)
  }

  private alignmentError(sector: number, length: number): DriverError | null {
    const { blockSize } = this
    if ((sector * SECTOR_SIZE) % blockSize === 0 && length % blockSize === 0) return null
    const message = `sector ${sector} and ${length} bytes: the device's blocks have ${blockSize} bytes, so the sector must be a multiple of ${blockSize / SECTOR_SIZE} and the length one of ${blockSize}`
    return new DriverError('BLK_ALIGNMENT', this.name, message, { sector, length, blockSize })
  }

  private rangeError(sector: number, length: number): DriverError | null {
    const { capacity } = this
    const end = sector + length / SECTOR_SIZE
    if (Number.isInteger(sector) && sector >= 0 && end <= capacity) return null
    return new DriverError(
      'BLK_RANGE',
      this.name,
      `sectors ${sector} to ${end} do not lie within the capacity of ${capacity}`,
      { sector, length, capacity },
    )
  }

  private enqueue(type: number, sector: number, address: number, length: number): Promise<void> {
    if (this.session.closed) return Promise.reject(new DriverError('DRIVER_CLOSED', this.name, 'the device was closed'))
    if (this.broken !== null) return Promise.reject(this.broken)
    if (length > 0) {
      try {
        this.session.memory.window(guestAddress(address), length)
      } catch (error) {
        return Promise.reject(
          new DriverError(
            'BLK_DMA',
            this.name,
            `the data cannot be lent to the device: ${(error as Error).message}`,
            {
              address,
              length,
            },
            { cause: error },
          ),
        )
      }
    }
    this.counters.requests++
    return new Promise((resolve, reject) => {
      const since = this.timed ? this.now() : 0
      this.waiting.push({
        type,
        sector,
        address,
        length,
        submitted: 0,
        inFlight: 0,
        error: null,
        since,
        resolve,
        reject,
      })
      this.watch()
      if (this.scheduled) return
      this.scheduled = true
      queueMicrotask(() => {
        this.scheduled = false
        this.advance()
      })
    })
  }

  // Cuts waiting transfers into device requests and submits as many as there is room for.
  private advance(): number {
    let moved = 0
    while (this.waiting.length > 0 && this.broken === null && !this.paused && !this.session.closed) {
      const planned = this.plan()
      if (planned === 0) break
      this.batch.count = planned
      const taken = this.queue.submit(this.batch)
      if (this.timed && taken > 0) this.progressAt = this.now()
      moved += taken
      for (let i = 0; i < planned; i++) this.account(i, i < taken)
      while (this.waiting.length > 0 && isSubmitted(this.waiting[0])) this.waiting.shift()
      if (taken === planned) continue
      const status = this.queue.submitStatus
      if (status === QUEUE_FULL || status === DMA_EXHAUSTED) break
      const cause = this.queue.queue.broken
      if (cause !== null) {
        this.break(cause.message, cause.details, { cause })
        break
      }
      const transfer = this.batchOwner[taken]
      this.fail(
        transfer,
        new DriverError(
          'BLK_DMA',
          this.name,
          `the data at ${transfer.address} could not be lent to the device (status ${status})`,
          { ...plain(transfer), status },
        ),
      )
    }
    return moved
  }

  private plan(): number {
    const { batch, freeTokens } = this
    const { buffers } = this.queue
    let rows = 0
    for (const transfer of this.waiting) {
      let at = transfer.submitted
      do {
        if (freeTokens.length === 0 || rows === batch.capacity) return rows
        const length = Math.min(this.maxRequest, transfer.length - at)
        const buffer = buffers === null || length === 0 ? NO_BUFFER : buffers.acquire()
        if (buffers !== null && length > 0 && buffer < 0) return rows
        const token = freeTokens.pop() as number
        batch.type[rows] = transfer.type
        batch.sector[rows] = transfer.sector + at / SECTOR_SIZE
        batch.address[rows] = transfer.address + at
        batch.buffer[rows] = buffer
        batch.length[rows] = length
        batch.token[rows] = token
        this.chunk.at[token] = at
        this.chunk.length[token] = length
        this.chunk.buffer[token] = buffer
        if (buffer >= 0) this.fillPool(transfer, token)
        this.batchOwner[rows++] = transfer
        at += length
      } while (at < transfer.length)
    }
    return rows
  }

  private account(row: number, taken: boolean): void {
    const transfer = this.batchOwner[row]
    const token = this.batch.token[row]
    if (!taken) {
      this.giveBack(token)
      return
    }
    this.owner[token] = transfer
    this.chunk.since[token] = this.progressAt
    transfer.submitted += Math.max(1, this.batch.length[row])
    transfer.inFlight++
  }

  private settle(done: CompletedRequests): void {
    if (this.timed) this.progressAt = this.now()
    for (let i = 0; i < done.count; i++) {
      const token = done.token[i]
      const transfer = this.owner[token]
      if (transfer === null) continue
      this.owner[token] = null
      const status = done.status[i]
      if (status !== BLK_S_OK) transfer.error ??= this.statusError(status, transfer)
      else if (transfer.type === BLK_T_OUT) this.counters.sectorsWritten += this.chunk.length[token] / SECTOR_SIZE
      else if (transfer.type !== BLK_T_FLUSH) {
        if (this.chunk.buffer[token] >= 0) this.emptyPool(transfer, token)
        if (transfer.type === BLK_T_IN) this.counters.sectorsRead += this.chunk.length[token] / SECTOR_SIZE
      }
      this.giveBack(token)
      transfer.inFlight--
      if (transfer.error !== null) this.fail(transfer, transfer.error)
      else if (transfer.inFlight === 0 && isSubmitted(transfer)) transfer.resolve()
    }
  }

  // Rejects once nothing of the transfer is with the device any more; the rest of it is not submitted.
  private fail(transfer: Transfer, error: DriverError): void {
    transfer.error ??= error
    const at = this.waiting.indexOf(transfer)
    if (at >= 0) this.waiting.splice(at, 1)
    if (transfer.inFlight > 0) return
    this.counters.failed++
    transfer.reject(transfer.error)
  }

  private failAll(reason: () => DriverError): void {
    const all = new Set([...this.waiting, ...this.owner.filter((transfer) => transfer !== null)])
    this.waiting.length = 0
    this.owner.fill(null)
    for (const transfer of all) {
      this.counters.failed++
      transfer.reject(transfer.error ?? reason())
    }
  }

  private giveBack(token: number): void {
    const buffer = this.chunk.buffer[token]
    if (buffer >= 0) this.queue.buffers?.release(buffer)
    this.freeTokens.push(token)
  }

  // Pool mode: what is written goes into the buffer that the device sees; what is read must not find an earlier
  // request's bytes there.
  private fillPool(transfer: Transfer, token: number): void {
    const { region, offset } = this.queue.buffers as BufferPool
    const { at, length, buffer } = this.chunk
    const from = offset[buffer[token]]
    region.refresh()
    if (transfer.type === BLK_T_OUT)
      region.u8.set(this.session.memory.read(guestAddress(transfer.address + at[token]), length[token]), from)
    else region.u8.fill(0, from, from + length[token])
  }

  private emptyPool(transfer: Transfer, token: number): void {
    const { region, offset } = this.queue.buffers as BufferPool
    const { at, length, buffer } = this.chunk
    const from = offset[buffer[token]]
    region.refresh()
    const bytes = region.u8.subarray(from, from + length[token])
    this.session.memory.write(guestAddress(transfer.address + at[token]), bytes)
  }

  private async withMemory(
    length: number,
    use: (address: GuestAddress) => Promise<void>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { memory, ram } = this.session
    const address = ram.allocate(length, SECTOR_SIZE)
    try {
      // A device may claim what it did not write, and must not deliver what somebody else left here.
      memory.write(address, new Uint8Array(length))
      await use(address)
      return memory.read(address, length)
    } finally {
      // After a break or during a reset the device may still know the address: it goes back with the session.
      if (this.broken === null && !this.session.closed) ram.release(address)
      else this.session.onRelease(() => ram.release(address))
    }
  }

  private statusError(status: number, transfer: Transfer): DriverError {
    const details = { ...plain(transfer), status }
    switch (status) {
      case BLK_S_IOERR:
        return new DriverError(
          'BLK_IOERR',
          this.name,
          `the device reports an I/O error at sector ${transfer.sector}`,
          details,
        )
      case BLK_S_UNSUPP:
        return new DriverError(
          'BLK_UNSUPPORTED',
          this.name,
          `the device does not support request type ${transfer.type}`,
          details,
        )
      case BLK_S_UNWRITTEN:
        return new DriverError(
          'BLK_NO_STATUS',
          this.name,
          'the device completed the request without writing its status',
          details,
        )
      case BLK_S_CORRUPT:
        return new DriverError(
          'BLK_CORRUPT',
          this.name,
          `${this.session.backend.name} could not take the data back intact; none of it was delivered`,
          details,
        )
      case BLK_S_SHORT:
        return new DriverError(
          'BLK_SHORT',
          this.name,
          `the device claims success but did not deliver ${transfer.length} bytes`,
          details,
        )
      default:
        return new DriverError('BLK_STATUS', this.name, `the device wrote the unknown status ${status}`, details)
    }
  }
}

function isSubmitted(transfer: Transfer): boolean {
  return transfer.submitted >= Math.max(1, transfer.length)
}

function plain({ type, sector, address, length }: Transfer): {
  type: number
  sector: number
  address: number
  length: number
} {
  return { type, sector, address, length }
}
