import { Frames, type VirtioDevice } from '@guestdma/devices'
import { type BufferPool, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { FrameBatch, type ReceivedFrames, RequestBatch } from '@guestdma/drivers'
import { BLK_T_IN, BLK_T_OUT, NET_HEADER_SIZE, SECTOR_SIZE } from '@guestdma/spec'
import type { Machine } from 'guestdma'
import type { Random } from '../contract/random.ts'
import type { Handed, Ledger } from './ledger.ts'
import type { Owner, Secrets } from './secrets.ts'
import { NO_SPANS, union } from './spans.ts'

/** What one device's traffic needs to know. */
export interface TrafficContext {
  readonly machine: Machine
  /** The device's name. */
  readonly name: string
  readonly ledger: Ledger
  readonly secrets: Secrets
  readonly random: Random
  readonly leave: Leave
  /** Whose bytes are sent. */
  readonly owner: Owner
  readonly mode: 'map' | 'pool' | 'pool-header'
  readonly bytes: number
  /** Operations of one batch. */
  readonly size: number
}

/** Whether devices may work at the moment: whoever polls them, they wait for it. */
export interface Leave {
  given: boolean
}

/** There are buffers for so many batches: what was taken back does not come next. */
export const BUFFER_SETS = 4

type Reading = (busy: boolean) => void

/** Batches through a real driver and a real device model, one step at a time. Two are under way at a time. */
export interface Traffic {
  /** Operations of the next batch. Fewer than at first where the driver had no room for two of the size. */
  readonly size: number
  /** The driver lends a batch to the device. */
  begin(): void
  /** The device does the work of all batches that were begun. The driver does not know yet. */
  complete(): void
  /**
   * The driver takes back what completed, and returns how many operations that were. `reading` is called once, while
   * the owner has what it was given: `busy` where it is within a callback of the driver's. Then it uses the memory for
   * something else, or the driver posts it again.
   */
  take(reading: Reading): number
}

const BUDGET = 256
const STRIDE = 2048
// A frame begins 16 bytes into its buffer, right after its virtio header.
const HEADROOM = 16
/** Bytes of a received frame that are copied away before they are read: Ethernet, IPv6 and TCP. */
const HEADERS = 64

/** A driver's buffers in guest RAM, in an order that has nothing to do with where they lie. */
class Arena {
  readonly base: number
  private readonly stride: number
  private readonly order: readonly number[]
  private next = 0

  constructor({ machine, random, secrets, size }: TrafficContext, stride: number) {
    const count = BUFFER_SETS * size
    this.stride = stride
    this.base = machine.ram.allocate(count * stride, 4096)
    const order = Array.from({ length: count }, (_, i) => i)
    for (let i = count - 1; i > 0; i--) {
      const j = random.below(i + 1)
      ;[order[i], order[j]] = [order[j], order[i]]
    }
    this.order = order
    const place = this.base - machine.memory.ranges[0].base
    for (let i = 0; i < count; i++) secrets.fill('guest', secrets.ram, place + i * stride, stride)
  }

  /** The guest address of the next one. */
  take(): number {
    const buffer = this.order[this.next]
    this.next = (this.next + 1) % this.order.length
    return this.base + buffer * this.stride
  }

  /** Those from the `n`th of the last ones on were not used after all. */
  untake(count: number): void {
    this.next = (this.next - count + this.order.length) % this.order.length
  }
}

/** What is under way of a batch: where its operations' bytes lie. */
interface UnderWay {
  readonly taken: number
  /** Places of the bytes, without headers. */
  readonly spans: readonly number[]
  readonly handed: Handed | null
}

/** Frames that are sent. */
export class Transmit implements Traffic {
  private readonly context: TrafficContext
  private readonly arena: Arena | null
  private readonly batch: FrameBatch
  private readonly underWay: UnderWay[] = []
  size: number

  constructor(context: TrafficContext) {
    const { bytes, mode, size } = context
    this.context = context
    this.size = size
    this.arena = mode === 'map' ? new Arena(context, STRIDE) : null
    this.batch = new FrameBatch(size)
    this.batch.headed = mode === 'map'
    this.batch.length.fill(bytes)
  }

  begin(): void {
    const { arena, batch, context, size } = this
    const { bytes, ledger, machine, name, owner, secrets } = context
    const net = machine.net(name)
    const places: number[] = []
    for (let i = 0; i < size; i++) {
      if (arena === null) {
        const buffer = net.acquire()
        if (buffer < 0) break
        batch.buffer[i] = buffer
        places.push(ledger.places.of(net.bufferRegion, net.bufferOffset(buffer)))
        secrets.fill(owner, net.bufferRegion.u8, net.bufferOffset(buffer), bytes)
      } else {
        batch.address[i] = arena.take() + HEADROOM
        places.push(ledger.places.ofGuest(batch.address[i]))
        secrets.clear(places[i] - NET_HEADER_SIZE, NET_HEADER_SIZE)
        secrets.fill(owner, secrets.ram, places[i], bytes)
      }
    }
    batch.count = places.length
    const taken = net.send(batch)
    for (let i = taken; i < batch.count; i++) if (arena === null) net.release(batch.buffer[i])
    arena?.untake(batch.count - taken)
    const spans = places.slice(0, taken).flatMap((place) => [place, place + bytes])
    const withHeaders = spans.map((place, i) => (i % 2 === 0 ? place - NET_HEADER_SIZE : place))
    this.underWay.push({ taken, spans, handed: arena === null ? ledger.hand(withHeaders, TO_DEVICE) : null })
    if (taken < size) this.size = halfOf(this.underWay)
  }

  complete(): void {
    const { leave, machine, name } = this.context
    work(leave, machine.device(name).model)
  }

  take(reading: Reading): number {
    const { bytes, ledger, machine, name, secrets } = this.context
    pollAll(machine.net(name))
    const { handed, spans, taken } = this.underWay.shift() as UnderWay
    if (handed !== null) ledger.takeBack(handed)
    else {
      for (let i = 0; i < spans.length; i += 2)
        secrets.fill('guest', secrets.ram, spans[i] - NET_HEADER_SIZE, NET_HEADER_SIZE + bytes)
    }
    reading(false)
    return taken
  }
}

/** Frames that arrive. The driver has posted all its buffers, and posts them again once they were read. */
export class Receive implements Traffic {
  private readonly context: TrafficContext
  private readonly frames: Frames
  private reading: Reading | null = null
  private failure: { readonly error: unknown } | null = null
  private seen = 0
  // Frames that the next batch has more than it should, since the last one had less.
  private behind = 0
  private begun = false
  private sent = 0
  readonly size: number

  constructor(context: TrafficContext) {
    const { bytes, owner, secrets, size } = context
    this.context = context
    this.size = size
    const frame = new Uint8Array(bytes)
    secrets.fill(owner, frame, 0, bytes)
    this.frames = Frames.of(...new Array<Uint8Array>(2 * size).fill(frame))
  }

  begin(): void {}

  complete(): void {
    const { leave, machine, name, random, size } = this.context
    const device = machine.netModel(name)
    // Uneven batches, in pairs that are even together, but for the first one: otherwise the same buffers would come
    // together again and again.
    const less = this.behind > 0 ? -this.behind : this.begun ? random.below((size >> 2) + 1) : 0
    this.behind = this.behind > 0 ? 0 : less
    this.begun = true
    this.sent = device.receiveEach(this.frames, 0, size - less)
    work(leave, device)
  }

  take(reading: Reading): number {
    const { machine, name } = this.context
    this.reading = reading
    this.seen = 0
    pollAll(machine.net(name))
    if (this.failure !== null) throw this.failure.error
    if (this.seen !== this.sent) throw new Error(`${this.seen} of ${this.sent} frames arrived`)
    return this.seen
  }

  /** For the driver's observer. */
  arrived({ count, length, offset, region }: ReceivedFrames): void {
    const { ledger, mode } = this.context
    const copied = mode === 'pool-header' ? HEADERS : 0
    const { reading } = this
    this.seen += count
    this.reading = null
    if (reading === null) return
    const spans: number[] = []
    for (let i = 0; i < count; i++) {
      const place = ledger.places.of(region, offset[i])
      spans.push(place + Math.min(copied, length[i]), place + length[i])
    }
    // What a listener throws would surface elsewhere.
    try {
      whileDelivered(ledger, spans, () => reading(true))
    } catch (error) {
      this.failure = { error }
    }
  }
}

const DISK_BYTES = 4 << 20

/** Requests to a disk. */
export class Requests implements Traffic {
  private readonly context: TrafficContext
  private readonly reads: boolean
  private readonly arena: Arena | null
  private readonly batch: RequestBatch
  private readonly underWay: (UnderWay & { readonly buffers: readonly number[] })[] = []
  private sector = 0
  size: number

  constructor(context: TrafficContext, operation: 'read' | 'write') {
    const { bytes, mode, size } = context
    this.context = context
    this.size = size
    this.reads = operation === 'read'
    this.arena = mode === 'map' ? new Arena(context, bytes) : null
    this.batch = new RequestBatch(size)
    this.batch.type.fill(this.reads ? BLK_T_IN : BLK_T_OUT)
    this.batch.length.fill(bytes)
  }

  begin(): void {
    const { arena, batch, context, reads, size } = this
    const { bytes, ledger, machine, name, owner, secrets } = context
    const { queue } = machine.blk(name)
    const places: number[] = []
    for (let i = 0; i < size; i++) {
      batch.sector[i] = this.sector
      this.sector += bytes / SECTOR_SIZE
      if (this.sector * SECTOR_SIZE + bytes > DISK_BYTES) this.sector = 0
      if (arena === null) {
        const { offset, region } = queue.buffers as BufferPool
        const buffer = (queue.buffers as BufferPool).acquire()
        if (buffer < 0) break
        batch.buffer[i] = buffer
        places.push(ledger.places.of(region, offset[buffer]))
        if (!reads) secrets.fill(owner, region.u8, offset[buffer], bytes)
      } else {
        batch.address[i] = arena.take()
        places.push(ledger.places.ofGuest(batch.address[i]))
        if (!reads) secrets.fill(owner, secrets.ram, places[i], bytes)
      }
    }
    batch.count = places.length
    const taken = queue.submit(batch)
    for (let i = taken; i < batch.count; i++) queue.buffers?.release(batch.buffer[i])
    arena?.untake(batch.count - taken)
    const spans = places.slice(0, taken).flatMap((place) => [place, place + bytes])
    const handed = arena === null ? ledger.hand(spans, reads ? FROM_DEVICE : TO_DEVICE) : null
    this.underWay.push({ taken, spans, handed, buffers: Array.from(batch.buffer.subarray(0, taken)) })
    if (taken < size) this.size = halfOf(this.underWay)
  }

  complete(): void {
    const { leave, machine, name } = this.context
    work(leave, machine.device(name).model)
  }

  take(reading: Reading): number {
    const { context, reads, underWay } = this
    const { bytes, ledger, machine, name, secrets } = context
    const { queue } = machine.blk(name)
    const done = queue.poll(BUDGET)
    const { buffers, handed, spans, taken } = underWay.shift() as (typeof underWay)[0]
    if (done !== taken) throw new Error(`${done} of ${taken} requests completed`)
    if (handed !== null) ledger.takeBack(handed)
    const reuse = (): void => {
      if (handed !== null) for (const buffer of buffers) queue.buffers?.release(buffer)
      else for (let i = 0; i < spans.length; i += 2) secrets.fill('guest', secrets.ram, spans[i], bytes)
    }
    if (!reads) reuse()
    whileDelivered(ledger, reads ? spans : NO_SPANS, () => reading(false))
    if (reads) reuse()
    return taken
  }
}

/** A disk whose every byte is the device's. */
export function diskOf(secrets: Secrets): Uint8Array<ArrayBuffer> {
  const disk = new Uint8Array(DISK_BYTES)
  for (let at = 0; at < DISK_BYTES; at += STRIDE) secrets.fill('attacked', disk, at, STRIDE)
  return disk
}

// There is no room for more: two batches of the same size share what there is.
function halfOf(underWay: readonly UnderWay[]): number {
  return Math.max(1, Math.floor(underWay.reduce((sum, { taken }) => sum + taken, 0) / 2))
}

function whileDelivered(ledger: Ledger, spans: readonly number[], reading: () => void): void {
  ledger.delivered = union(spans)
  try {
    reading()
  } finally {
    ledger.delivered = NO_SPANS
  }
}

function work(leave: Leave, device: VirtioDevice): void {
  leave.given = true
  try {
    pollAll(device)
  } finally {
    leave.given = false
  }
}

function pollAll(part: { poll(budget: number): number }): void {
  while (part.poll(BUDGET) > 0);
}
