import { Region } from '@guestdma/memory'
import {
  BLK_CONFIG_CAPACITY,
  BLK_CONFIG_WRITEBACK,
  BLK_ID_BYTES,
  BLK_REQUEST_HEADER_SIZE,
  BLK_REQUEST_SECTOR,
  BLK_REQUEST_TYPE,
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  DEVICE_ID_BLOCK,
  SECTOR_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_RO,
} from '@guestdma/spec'
import type { DeviceQueue } from '../device/device-queue.ts'
import { VirtioDevice } from '../device/virtio-device.ts'
import type { RequestFaultReason } from '../faults/faults.ts'
import { CHAIN_BYTES, CHAIN_STEPS } from '../ring/work.ts'
import type { BlockStatus, BlockStore } from './block-store.ts'
import {
  type BlkDeviceOptions,
  blkConfig,
  blkFeatures,
  checkBlkOptions,
  checkCapacity,
  DEFAULT_QUEUE_SIZE,
  idBytes,
} from './config.ts'
import { type BlkSlot, BlkTicket, longestData, type SlotPhase, stagingSize } from './request-slot.ts'
import { BlkSlots } from './slots.ts'

// Scratch: the request header, then GET_ID's answer, then the status byte.
const SCRATCH_ID = BLK_REQUEST_HEADER_SIZE
const SCRATCH_STATUS = SCRATCH_ID + BLK_ID_BYTES
const SCRATCH_BYTES = 40
// In place of a row: the chain stands in none any more.
const NO_ROW = -1
// Completions of one poll at least, in chains, whatever its budget: they free what new requests need.
const COMPLETED_PER_POLL = 64

/**
 * A block device: virtio 1.4 §5.2. IN, OUT, FLUSH and GET_ID; everything else is UNSUPP.
 *
 * Framing is arbitrary (§2.7.4): the first 16 device-readable bytes are the header and the rest is OUT data, the last
 * device-writable byte is the status and what stands before it is IN data. A failed request fills its IN data with
 * zeros, so that the used length can cover the status byte truthfully. A chain without a device-writable byte cannot be
 * answered: it is not executed, and used with length 0.
 *
 * A store that ends its requests at once is served within the poll. One that takes its time is completed by a later
 * poll: its data is then copied through the port under the permissions of that moment. What was given to a store cannot
 * be taken back: a reset drops the answers, but a write may still reach the disk. A reset of a queue is complete only
 * when the store has answered all that came from it (§2.6.1); other queues go on. A reset of the device is complete at
 * once, since a store that never answers must not keep a driver from its memory, and there are drivers that do not wait;
 * instead, the device takes nothing new until the store has answered the writes from before, so that a late one cannot
 * overtake a new one. A store that never answers a write therefore holds the device back for good. Reads and flushes
 * from before hold nothing back, and `maxInFlight` and `stagingBytes` do not count them; but while the store keeps more
 * than as many again, of either, the device waits, so that resets in a loop do not pile up memory.
 *
 * @throws DeviceError `DEVICE_OPTION`, `STORE_CAPACITY`, and what `VirtioDevice` throws
 */
export class BlkDevice extends VirtioDevice {
  declare readonly store: BlockStore
  /** What the device did since it was made. */
  declare readonly counters: { reads: number; writes: number; flushes: number; failed: number; unsupported: number }

  declare private readonly slots: BlkSlots
  // Requests that the store ended, and that were not answered yet.
  private finishedSlots: BlkSlot[] = []
  declare private readonly scratch: Region
  declare private readonly initialWriteback: boolean
  declare private readonly longest: number
  private starting: BlkSlot | null = null
  declare private readonly endedAgain: (sector: number) => void
  private turn = 0
  // By queue: bytes of staging memory that its next request waits for.
  declare private readonly wanted: Float64Array
  private writeThrough = false
  // The capacity when it last changed.
  private sectors = 0
  // Bytes, as the store said before the batch at hand.
  private capacity = 0
  declare private readonly showCapacity: () => void

  constructor(options: BlkDeviceOptions) {
    checkBlkOptions(options)
    const queueSize = options.queueSize ?? DEFAULT_QUEUE_SIZE
    super(options, {
      deviceId: DEVICE_ID_BLOCK,
      features: blkFeatures(options),
      // §5.2.5.2 ties CONFIG_WCE to FLUSH for the offer only; a driver may accept it alone.
      config: blkConfig(options),
      queueSizes: new Array<number>(options.queues ?? 1).fill(queueSize),
    })
    this.store = options.store
    this.counters = { reads: 0, writes: 0, flushes: 0, failed: 0, unsupported: 0 }
    this.initialWriteback = options.writeback ?? true
    const stagingLimit = options.stagingBytes ?? 16 << 20
    this.longest = longestData(stagingLimit)
    this.wanted = new Float64Array(this.queues.length)
    this.showCapacity = () => this.config.write64(BLK_CONFIG_CAPACITY, this.sectors)
    this.scratch = new Region(new ArrayBuffer(SCRATCH_BYTES), 'block header')
    this.scratch.u8.set(idBytes(options.id ?? options.name), SCRATCH_ID)
    this.endedAgain = (sector) => {
      const message = `the request for sector ${sector} was ended already; a store calls done once`
      this.faults.record({ kind: 'host', device: this.name, reason: 'store.done', message })
    }
    const ended = (slot: BlkSlot): void => this.finished(slot)
    this.slots = new BlkSlots(options.maxInFlight ?? 64, stagingLimit, this.queues.length, ended)
  }

  override get inFlight(): number {
    return this.slots.inFlight
  }

  /** Reads the store's capacity again and tells the driver if it changed (§5.2.6.2). Throws `STORE_CAPACITY`. */
  capacityChanged(): void {
    checkCapacity(this.name, this.store)
    const sectors = this.store.capacity / SECTOR_SIZE
    this.sectors = sectors
    const { config } = this
    const old = config.read(BLK_CONFIG_CAPACITY, 4) + 2 ** 32 * config.read(BLK_CONFIG_CAPACITY + 4, 4)
    if (sectors !== old) this.changeConfig(this.showCapacity)
  }

  /** The driver chooses the cache mode: virtio 1.4 §5.2.5, §5.2.6.1. */
  override writeConfig(offset: number, width: 1 | 2 | 4, value: number): boolean {
    if (offset !== BLK_CONFIG_WRITEBACK || width !== 1 || !this.negotiated.has(VIRTIO_BLK_F_CONFIG_WCE)) return false
    this.config.write(BLK_CONFIG_WRITEBACK, 1, value & 1)
    return true
  }

  protected override onNegotiated(): void {
    const wce = this.negotiated.has(VIRTIO_BLK_F_CONFIG_WCE)
    const flush = this.negotiated.has(VIRTIO_BLK_F_FLUSH)
    // §5.2.5.2: with CONFIG_WCE but without FLUSH the mode starts as write-through.
    this.config.write(BLK_CONFIG_WRITEBACK, 1, wce && flush && this.initialWriteback ? 1 : 0)
    // §5.2.6.2, case 1: a driver that negotiated neither may count on every completed write.
    this.writeThrough = !wce && !flush
  }

  protected override checkRestore(): void {
    checkCapacity(this.name, this.store)
  }

  protected override onRestored(): void {
    this.capacityChanged()
  }

  protected override onHalt(): void {
    this.wanted.fill(0)
    this.disown(-1)
  }

  protected override onReset(): void {
    this.slots.keepLateWrites()
  }

  protected override onQueueReset(queue: DeviceQueue): void {
    this.wanted[queue.index] = 0
    this.disown(queue.index)
  }

  protected override inFlightOf(queue: DeviceQueue): number {
    return this.slots.inFlightOf(queue.index)
  }

  protected override executing(queue: DeviceQueue): boolean {
    return this.slots.executing(queue.index)
  }

  protected override work(budget: number): number {
    let done = this.completeFinished(budget)
    const { queues } = this
    const count = queues.length
    // Each poll begins with another queue, so that a full one does not stop the others.
    this.turn = this.turn + 1 < count ? this.turn + 1 : 0
    for (let i = 0; i < count; i++) {
      const queue = queues[(this.turn + i) % count]
      if (!queue.started || !this.live) continue
      if (queue.marked && done < budget) done += this.serve(queue, budget - done)
      // Whoever listens to another ring may have moved this one.
      this.checkPort()
      if (this.checkQueue(queue)) this.publish(queue)
    }
    return done
  }

  private serve(queue: DeviceQueue, budget: number): number {
    const { port, slots } = this
    const { walker, generation } = queue
    let done = 0
    if (slots.holdsBack(queue.index, this.wanted[queue.index])) return 0
    this.wanted[queue.index] = 0
    walker.update()
    while (done < budget && slots.room > 0) {
      // Foreign code, so nothing is taken meanwhile.
      if (walker.ready > 0) this.askCapacity()
      if (queue.generation !== generation || !this.checkPort() || !this.live || this.suspending) break
      const { epoch } = port
      const rows = walker.takeBatch(Math.min(budget - done, slots.room))
      // Whoever is told of an access that the port refused may have reset it.
      if (queue.generation !== generation) break
      if (rows === 0) {
        // Cleared first: whoever listens to the ring may ring the doorbell.
        queue.marked = false
        if (!this.publishAndRearm(queue)) break
        queue.marked = true
        continue
      }
      // Of the last chain of the batch.
      const { extra } = walker
      let row = 0
      while (row < rows && this.live && !this.suspending && port.epoch === epoch) {
        if (!this.request(queue, row)) {
          walker.untake(rows - row)
          // The walk counts, and is not made again before there is room.
          return done + row + extra
        }
        row++
        // The store may have run code that reset the queue.
        if (queue.generation !== generation) return done + row
      }
      done += row
      if (row === rows) done += extra
      else walker.untake(rows - row)
      // It may have moved memory: what it ended is answered first, and the rest is taken as the port grants it now.
      if (port.epoch !== epoch) done += this.completeFinished(0)
      if (row > 0) continue
      // A port that is never the same again must not hold the poll.
      this.wake()
      break
    }
    return done
  }

  // Executes the chain in a row. False: there is no room for it now.
  private request(queue: DeviceQueue, row: number): boolean {
    const { walker } = queue
    const { chains } = walker
    const writable = chains.writable(row)
    const readable = chains.readable(row)
    if (writable === 0) {
      const head = chains.head(row)
      this.counters.failed++
      walker.complete(head, chains.position(row), 0, true)
      this.badRequest(queue, 'no-status', head, 0)
      return true
    }
    if (readable < BLK_REQUEST_HEADER_SIZE) return this.refuse(queue, row, 'short-header', readable)
    chains.gather(row, 0, this.scratch, 0, BLK_REQUEST_HEADER_SIZE)
    const header = this.scratch.u32
    const type = header[BLK_REQUEST_TYPE / 4]
    const sector = header[BLK_REQUEST_SECTOR / 4] + 2 ** 32 * header[BLK_REQUEST_SECTOR / 4 + 1]
    switch (type) {
      case BLK_T_IN:
        return this.transfer(queue, row, 'read', sector, writable - 1)
      case BLK_T_OUT:
        if (this.offered.has(VIRTIO_BLK_F_RO)) return this.answerNow(queue, row, BLK_S_IOERR)
        return this.transfer(queue, row, 'write', sector, readable - BLK_REQUEST_HEADER_SIZE)
      case BLK_T_FLUSH:
        if (!this.negotiated.has(VIRTIO_BLK_F_FLUSH)) return this.answerNow(queue, row, BLK_S_UNSUPP)
        return this.start(queue, row, 'flush', 0, 0)
      case BLK_T_GET_ID:
        // §5.2.6.1: the length must be 20.
        if (writable !== BLK_ID_BYTES + 1) return this.answerNow(queue, row, BLK_S_IOERR)
        return this.giveId(queue, row)
      default:
        return this.answerNow(queue, row, BLK_S_UNSUPP)
    }
  }

  private giveId(queue: DeviceQueue, row: number): true {
    const { chains } = queue.walker
    const listened = chains.scatter(row, 0, this.scratch, SCRATCH_ID, BLK_ID_BYTES)
    this.putStatus(queue, row, BLK_S_OK, BLK_ID_BYTES, chains.position(row), listened)
    return true
  }

  private transfer(queue: DeviceQueue, row: number, phase: 'read' | 'write', sector: number, bytes: number): boolean {
    const inside = sector * SECTOR_SIZE + bytes <= this.capacity
    if ((bytes & (SECTOR_SIZE - 1)) !== 0 || !inside) return this.answerNow(queue, row, BLK_S_IOERR)
    // Nothing to do is no error: 0 is a multiple of 512.
    if (bytes === 0) return this.answerNow(queue, row, BLK_S_OK)
    if (bytes > this.longest) return this.refuse(queue, row, 'too-large', bytes)
    return this.start(queue, row, phase, sector, bytes)
  }

  private askCapacity(): void {
    this.capacity = 0
    try {
      this.capacity = this.store.capacity
    } catch (error) {
      this.hostThrew('store.capacity', error)
    }
  }

  private start(queue: DeviceQueue, row: number, phase: SlotPhase, sector: number, bytes: number): boolean {
    const { chains } = queue.walker
    const first = phase === 'read' ? chains.write(row) : chains.first(row)
    // Data begins at the head of the first device-writable segment, or usually in the segment behind the header.
    const after = phase === 'read' ? 0 : chains.length(first) === BLK_REQUEST_HEADER_SIZE ? 1 : 0
    const skip = phase === 'write' && after === 0 ? BLK_REQUEST_HEADER_SIZE : 0
    const slot = this.slots.take(bytes, chains.offset(first + after) + skip)
    if (slot === null) {
      this.wanted[queue.index] = stagingSize(bytes)
      return false
    }
    slot.sector = sector
    slot.phase = phase
    slot.queue = queue.index
    slot.head = chains.head(row)
    slot.position = chains.position(row)
    slot.through = phase === 'write' && this.isWriteThrough()
    if (phase === 'write')
      chains.gather(row, BLK_REQUEST_HEADER_SIZE, slot.staging as Region, slot.stagingOffset, bytes)
    this.run(slot, queue, row)
    return true
  }

  // Asks the store, and again for the flush that a write-through write needs. `row`: where the chain stands in the
  // walker, or NO_ROW.
  private run(slot: BlkSlot, queue: DeviceQueue, row: number): void {
    const { port } = this
    const { epoch } = port
    let reached: boolean
    do {
      this.ask(slot)
      // The store may have run code that moved memory: the ring comes first.
      reached = this.checkPort()
    } while (slot.state === 'done' && this.needsFlush(slot))
    // Otherwise void, since the queue was reset or the device stopped meanwhile.
    const { state } = slot
    if (state !== 'pending' && state !== 'done') return
    const stands = row !== NO_ROW && port.epoch === epoch
    if (row !== NO_ROW && (state === 'pending' || !stands)) this.remember(slot, queue, row)
    if (state === 'pending') return
    // Rows stand behind one that does not stand any more.
    if (stands || (row === NO_ROW && reached)) this.answer(slot, queue, row)
    else this.finishedSlots.push(slot)
  }

  private ask(slot: BlkSlot): void {
    const { store } = this
    const ticket = new BlkTicket(slot, this.endedAgain)
    this.starting = slot
    try {
      if (slot.phase === 'read') store.read(ticket)
      else if (slot.phase === 'write') store.write(ticket)
      else store.flush(ticket)
    } catch (error) {
      // A store that throws fails its request.
      if (ticket.open) ticket.done(BLK_S_IOERR)
      this.hostThrew('store', error)
    }
    this.starting = null
  }

  // Turns a completed write into the flush that must follow it, if it must.
  private needsFlush(slot: BlkSlot): boolean {
    if (slot.phase !== 'write' || !slot.through || slot.status !== BLK_S_OK) return false
    slot.phase = 'flush-after-write'
    slot.state = 'pending'
    return true
  }

  // Called by BlkSlot.done, at any time.
  private finished(slot: BlkSlot): void {
    if (slot.state === 'orphan') {
      this.slots.forget(slot)
      // What was held back meanwhile can begin now.
      this.wake()
      return
    }
    slot.state = 'done'
    if (this.starting === slot) return
    this.finishedSlots.push(slot)
    this.wake()
  }

  private completeFinished(budget: number): number {
    let done = 0
    const limit = Math.max(budget, COMPLETED_PER_POLL)
    // Only what is there now: a store may finish more while it is asked for a flush.
    for (let left = this.finishedSlots.length; left > 0 && done < limit && this.live && this.checkPort(); left--) {
      const slot = this.finishedSlots.shift()
      if (slot === undefined) break
      const queue = this.queues[slot.queue]
      if (this.needsFlush(slot)) this.run(slot, queue, NO_ROW)
      else this.answer(slot, queue, NO_ROW)
      done += 1 + ((slot.spans / CHAIN_STEPS + slot.reserved / CHAIN_BYTES) | 0)
    }
    return done
  }

  // `row`: as in `run`.
  private answer(slot: BlkSlot, queue: DeviceQueue, row: number): void {
    const { walker } = queue
    const { chains } = walker
    const { status, phase, staging, stagingOffset } = slot
    if (row === NO_ROW) {
      if (!walker.reresolve(slot.addresses, slot.lengths, slot.spans, slot.head)) {
        // Where that stops the device it frees the slot. Otherwise the answer comes later, and its place is not known yet.
        if (this.checkQueue(queue)) this.finishedSlots.push(slot)
        return
      }
      row = 0
    }
    const dataBytes = chains.writable(row) - 1
    if (status !== BLK_S_OK) this.counters.failed++
    else if (phase === 'read') this.counters.reads++
    else if (phase === 'flush') this.counters.flushes++
    else this.counters.writes++
    const delivered = status === BLK_S_OK && phase === 'read'
    const listened = delivered
      ? chains.scatter(row, 0, staging as Region, stagingOffset, dataBytes)
      : this.zero(queue, row, dataBytes)
    this.slots.free(slot)
    this.putStatus(queue, row, status, dataBytes, slot.position, listened)
  }

  private answerNow(queue: DeviceQueue, row: number, status: BlockStatus): true {
    const { chains } = queue.walker
    if (status === BLK_S_UNSUPP) this.counters.unsupported++
    else if (status !== BLK_S_OK) this.counters.failed++
    const dataBytes = chains.writable(row) - 1
    const listened = this.zero(queue, row, dataBytes)
    this.putStatus(queue, row, status, dataBytes, chains.position(row), listened)
    return true
  }

  // The fault is recorded last: whoever is told of it may reset the device.
  private refuse(queue: DeviceQueue, row: number, reason: RequestFaultReason, value: number): true {
    const head = queue.walker.chains.head(row)
    this.answerNow(queue, row, BLK_S_IOERR)
    this.badRequest(queue, reason, head, value)
    return true
  }

  // Data that a failed request did not deliver. Beyond the longest request there is no point in writing gigabytes: the
  // used length is then 0.
  private zero(queue: DeviceQueue, row: number, dataBytes: number): boolean {
    return dataBytes <= this.longest && queue.walker.chains.scatterZeros(row, 0, dataBytes)
  }

  // Ends the request in a row, whose data was written; `listened`: somebody wants to be told of that.
  private putStatus(
    queue: DeviceQueue,
    row: number,
    status: BlockStatus,
    dataBytes: number,
    position: number,
    listened: boolean,
  ): void {
    const { walker } = queue
    const { chains } = walker
    this.scratch.u8[SCRATCH_STATUS] = status
    const told = chains.scatter(row, dataBytes, this.scratch, SCRATCH_STATUS, 1) || listened
    const written = dataBytes > this.longest ? 0 : dataBytes + 1
    walker.complete(chains.head(row), position, written, written > 0)
    if (told) this.reportWritten(queue, row, written > 0 ? 0 : dataBytes, written > 0 ? written : 1)
  }

  private remember(slot: BlkSlot, queue: DeviceQueue, row: number): void {
    const { chains } = queue.walker
    slot.remember(chains, chains.write(row), chains.end(row))
  }

  private isWriteThrough(): boolean {
    if (this.writeThrough) return true
    return this.negotiated.has(VIRTIO_BLK_F_CONFIG_WCE) && this.config.read(BLK_CONFIG_WRITEBACK, 1) === 0
  }

  // Requests of one queue (or all, -1) are void.
  private disown(queue: number): void {
    this.slots.disown(queue)
    this.finishedSlots = this.finishedSlots.filter((slot) => slot.state === 'done')
  }
}
