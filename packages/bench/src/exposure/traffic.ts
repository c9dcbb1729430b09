import { Frames } from '@guestdma/devices'
import { FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { FrameBatch, type ReceivedFrames, RequestBatch } from '@guestdma/drivers'
import { BLK_T_IN, BLK_T_OUT, NET_HEADER_SIZE, SECTOR_SIZE } from '@guestdma/spec'
import type { Machine } from 'guestdma'
import type { Ledger } from './ledger.ts'
import type { Random } from './random.ts'
import type { Owner, Secrets } from './secrets.ts'
import { NO_SPANS } from './spans.ts'

/** What one device's traffic needs to know. */
export interface TrafficContext {
  readonly machine: Machine
  /** The device's name. */
  readonly name: string
  readonly ledger: Ledger
  readonly secrets: Secrets
  readonly random: Random
  /** Whose bytes are sent. */
  readonly owner: Owner
  readonly mode: 'map' | 'pool' | 'pool-header'
  readonly bytes: number
  /** Operations of one batch. */
  readonly size: number
}

type Reading = (busy: boolean) => void

/** Batches through a real driver and a real device model, one step at a time. */
export interface Traffic {
  /** The driver lends a batch to the device. Returns how many operations it took. */
  begin(): number
  /** The device does its work. The driver does not know yet. */
  complete(): void
  /**
   * The driver takes back what completed. `reading` is called once, while the owner has what it was given: `busy` where
   * it is within a callback of the driver's. Then it uses the memory for something else, or the driver posts it again.
   */
  take(reading: Reading): void
}

/** A batch has so many sets of buffers: what was taken back does not come next. */
export const BUFFER_SETS = 4

const BUDGET = 256
const STRIDE = 2048
// A frame begins 16 bytes into its buffer, right after its virtio header.
const HEADROOM = 16
/** Bytes of a received frame that are copied away before they are read: Ethernet, IPv6 and TCP. */
export const HEADERS = 64

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

/** Frames that are sent. */
export class Transmit implements Traffic {
  private readonly context: TrafficContext
  private readonly arena: Arena | null
  private readonly batch: FrameBatch
  private taken = 0

  constructor(context: TrafficContext) {
    const { bytes, mode, size } = context
    this.context = context
    this.arena = mode === 'map' ? new Arena(context, STRIDE) : null
    this.batch = new FrameBatch(size)
    this.batch.headed = mode === 'map'
    this.batch.length.fill(bytes)
  }

  begin(): number {
    const { arena, batch, context } = this
    const { bytes, ledger, machine, name, owner, secrets, size } = context
    const net = machine.net(name)
    let n = 0
    for (; n < size; n++) {
      if (arena !== null) {
        const address = arena.take() + HEADROOM
        const place = ledger.places.ofGuest(address)
        secrets.clear(place - NET_HEADER_SIZE, NET_HEADER_SIZE)
        secrets.fill(owner, secrets.ram, place, bytes)
        batch.address[n] = address
      } else {
        const buffer = net.acquire()
        if (buffer < 0) break
        secrets.fill(owner, net.bufferRegion.u8, net.bufferOffset(buffer), bytes)
        batch.buffer[n] = buffer
      }
    }
    batch.count = n
    this.taken = net.send(batch)
    for (let i = this.taken; i < n; i++) if (arena === null) net.release(batch.buffer[i])
    arena?.untake(n - this.taken)
    if (arena === null) {
      const spans: number[] = []
      for (let i = 0; i < this.taken; i++) {
        const place = ledger.places.of(net.bufferRegion, net.bufferOffset(batch.buffer[i]))
        spans.push(place - NET_HEADER_SIZE, place + bytes)
      }
      ledger.hand(spans, TO_DEVICE)
    }
    return this.taken
  }

  complete(): void {
    pollAll(this.context.machine.device(this.context.name).model)
  }

  take(reading: Reading): void {
    const { arena, batch, context, taken } = this
    const { bytes, ledger, machine, name, secrets } = context
    const net = machine.net(name)
    const before = net.counters.framesSent
    pollAll(net)
    if (net.broken !== null || net.counters.framesSent !== before) throw net.broken ?? new Error('a frame was sent twice')
    ledger.takeBack()
    if (arena !== null) {
      for (let i = 0; i < taken; i++) {
        const place = ledger.places.ofGuest(batch.address[i])
        secrets.fill('guest', secrets.ram, place - NET_HEADER_SIZE, NET_HEADER_SIZE + bytes)
      }
    }
    reading(false)
  }
}

/** Frames that arrive. The driver has posted all its buffers, and posts them again once they were read. */
export class Receive implements Traffic {
  private readonly context: TrafficContext
  private readonly frames: Frames
  private reading: Reading | null = null
  private failure: { readonly error: unknown } | null = null
  private seen = 0

  constructor(context: TrafficContext) {
    const { bytes, owner, secrets, size } = context
    this.context = context
    const frame = new Uint8Array(bytes)
    secrets.fill(owner, frame, 0, bytes)
    this.frames = Frames.of(...new Array<Uint8Array>(size).fill(frame))
  }

  begin(): number {
    return this.context.size
  }

  complete(): void {
    const { machine, name, size } = this.context
    const device = machine.netModel(name)
    const taken = device.receiveEach(this.frames, 0, size)
    if (taken !== size) throw new Error(`${taken} of ${size} frames found a buffer`)
    pollAll(device)
  }

  take(reading: Reading): void {
    const { machine, name, size } = this.context
    this.reading = reading
    this.seen = 0
    pollAll(machine.net(name))
    if (this.failure !== null) throw this.failure.error
    if (this.seen !== size) throw new Error(`${this.seen} of ${size} frames arrived`)
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
  private taken = 0
  private sector = 0

  constructor(context: TrafficContext, operation: 'read' | 'write') {
    const { bytes, mode, size } = context
    this.context = context
    this.reads = operation === 'read'
    this.arena = mode === 'map' ? new Arena(context, bytes) : null
    this.batch = new RequestBatch(size)
    this.batch.type.fill(this.reads ? BLK_T_IN : BLK_T_OUT)
    this.batch.length.fill(bytes)
  }

  begin(): number {
    const { arena, batch, context, reads } = this
    const { bytes, ledger, machine, name, owner, secrets, size } = context
    const { queue } = machine.blk(name)
    let n = 0
    for (; n < size; n++) {
      batch.sector[n] = this.sector
      const next = this.sector + bytes / SECTOR_SIZE
      this.sector = (next * SECTOR_SIZE + bytes > DISK_BYTES ? 0 : next)
      if (queue.buffers === null) {
        batch.address[n] = (arena as Arena).take()
        if (!reads) secrets.fill(owner, secrets.ram, ledger.places.ofGuest(batch.address[n]), bytes)
      } else {
        const buffer = queue.buffers.acquire()
        if (buffer < 0) break
        batch.buffer[n] = buffer
        if (!reads) secrets.fill(owner, queue.buffers.region.u8, queue.buffers.offset[buffer], bytes)
      }
    }
    batch.count = n
    this.taken = queue.submit(batch)
    for (let i = this.taken; i < n; i++) queue.buffers?.release(batch.buffer[i])
    arena?.untake(n - this.taken)
    if (queue.buffers !== null) ledger.hand(this.spans(), reads ? FROM_DEVICE : TO_DEVICE)
    return this.taken
  }

  complete(): void {
    pollAll(this.context.machine.device(this.context.name).model)
  }

  take(reading: Reading): void {
    const { batch, context, reads, taken } = this
    const { bytes, ledger, machine, name, secrets } = context
    const { queue } = machine.blk(name)
    const spans = this.spans()
    const done = queue.poll(BUDGET)
    if (done !== taken) throw new Error(`${done} of ${taken} requests completed`)
    ledger.takeBack()
    const reuse = (): void => {
      if (queue.buffers !== null) for (let i = 0; i < taken; i++) queue.buffers.release(batch.buffer[i])
      else for (let i = 0; i < spans.length; i += 2) secrets.fill('guest', secrets.ram, spans[i], bytes)
    }
    if (!reads) reuse()
    whileDelivered(ledger, reads ? spans : NO_SPANS, () => reading(false))
    if (reads) reuse()
  }

  private spans(): number[] {
    const { batch, context, taken } = this
    const { bytes, ledger, machine, name } = context
    const { buffers } = machine.blk(name).queue
    const spans: number[] = []
    for (let i = 0; i < taken; i++) {
      const place =
        buffers === null
          ? ledger.places.ofGuest(batch.address[i])
          : ledger.places.of(buffers.region, buffers.offset[batch.buffer[i]])
      spans.push(place, place + bytes)
    }
    return spans
  }
}

/** A disk whose every byte is the device's. */
export function diskOf(secrets: Secrets): Uint8Array<ArrayBuffer> {
  const disk = new Uint8Array(DISK_BYTES)
  for (let at = 0; at < DISK_BYTES; at += STRIDE) secrets.fill('attacked', disk, at, STRIDE)
  return disk
}

function whileDelivered(ledger: Ledger, spans: readonly number[], reading: () => void): void {
  ledger.delivered = spans
  ledger.version++
  try {
    reading()
  } finally {
    ledger.delivered = NO_SPANS
    ledger.version++
  }
}

function pollAll(part: { poll(budget: number): number }): void {
  while (part.poll(BUDGET) > 0);
}
