import { DMA_FAILED, DMA_OK, type DmaStatus } from '@guestdma/dma'
import {
  DOMAIN_READ,
  DOMAIN_WRITE,
  type IommuDomain,
  REQUEST_GUEST,
  REQUEST_IOVA,
  REQUEST_LENGTH,
} from '@guestdma/iommu'
import { encodeRequest, HEADER_BYTES } from '../protocol/codec.ts'
import { VhostUserError } from '../protocol/errors.ts'
import { IOTLB_MSG } from '../protocol/messages.ts'
import {
  IOTLB,
  IOTLB_ACCESS_FAIL,
  IOTLB_INVALIDATE,
  IOTLB_MISS,
  IOTLB_UPDATE,
  type IotlbMessage,
} from '../protocol/payload.ts'
import type { VhostUserTransport } from './vhost-user-transport.ts'

export interface IotlbDomainOptions {
  /** Bytes of I/O virtual addresses, in whole pages. Each page takes 9 bytes here. Default 1 GiB. */
  readonly iovaBytes?: number
  /** See `IommuDomain`. Default false. */
  readonly gaps?: boolean
  /** See `IommuDomain`. Default false. */
  readonly ringsReadWrite?: boolean
  /** Does the back end ask to read what it is to write as well? Then it may. Default false. */
  readonly writeIsReadWrite?: boolean
}

/**
 * What DPDK's vhost library (22.11) needs. It takes neighbouring I/O addresses for neighbouring memory, drops the
 * neighbour of what is taken back, and asks for reading and writing of all rings and of all buffers that it writes.
 */
export const DPDK_IOTLB: IotlbDomainOptions = { gaps: true, ringsReadWrite: true, writeIsReadWrite: true }

/** What a domain did, and what the back end asked it. */
export interface IotlbCounters {
  updates: number
  invalidations: number
  /** Misses that were answered with a mapping, and those that were not since there is none. */
  missesAnswered: number
  missesRefused: number
  /** Accesses of which the back end says that its translation forbids them. */
  accessFailures: number
}

const PAGE = 4096
const MAX_IOVA_BYTES = 2 ** 40
/** The lowest address: 0 and what is near it is no mapping. */
const FIRST_IOVA = 0x10_0000

// Elements of `pages`: what a page lets the device do, and whether a mapping begins there.
const ACCESS = DOMAIN_READ | DOMAIN_WRITE
const BEGINS = 4

/** Requests that are sent before their answers are taken: both directions fit a socket's buffers. */
const BATCH = 64
const MESSAGE_BYTES = HEADER_BYTES + IOTLB.least
const AT_TYPE = HEADER_BYTES + 25

/**
 * A back end's translation of I/O virtual addresses, as a domain of an `IommuBackend` (vhost-user, "IOMMU support").
 *
 * A mapping is sent when it is made and not only when it is missed, since some back ends drop what they have no
 * translation for. What the back end forgot it asks for again, and is answered from what is mapped at that moment. Each
 * request is answered, so that `commit` returns only after a removal is done.
 */
export class IotlbDomain implements IommuDomain {
  readonly name: string
  readonly granule: number = PAGE
  readonly leastLength: number = PAGE
  readonly identity = false
  readonly inputStart: number = FIRST_IOVA
  readonly inputEnd: number
  readonly reserved: readonly never[] = []
  readonly gaps: boolean
  readonly ringsReadWrite: boolean
  readonly request: Float64Array = new Float64Array(3)
  broken = false
  readonly counters: IotlbCounters = {
    updates: 0,
    invalidations: 0,
    missesAnswered: 0,
    missesRefused: 0,
    accessFailures: 0,
  }

  private readonly transport: VhostUserTransport
  private readonly writeIsReadWrite: boolean
  /** By page from `inputStart` on: the user address, and access bits. */
  private readonly users: Float64Array
  private readonly pages: Uint8Array
  private readonly batch = new Uint8Array(BATCH * MESSAGE_BYTES)
  private readonly view = new DataView(this.batch.buffer)
  private queued = 0
  private failed: DmaStatus = DMA_OK

  /**
   * Of a transport with `iotlb`, one domain for each.
   *
   * @throws VhostUserError `VHOST_OPTION`
   */
  constructor(transport: VhostUserTransport, options: IotlbDomainOptions = {}) {
    const { iovaBytes = 2 ** 30, gaps = false, ringsReadWrite = false, writeIsReadWrite = false } = options
    const { name } = transport
    if (!Number.isInteger(iovaBytes / PAGE) || iovaBytes < PAGE || iovaBytes > MAX_IOVA_BYTES) {
      const text = `iovaBytes is ${iovaBytes}, which must be whole pages of ${PAGE}, up to ${MAX_IOVA_BYTES}`
      throw new VhostUserError('VHOST_OPTION', name, text, { iovaBytes })
    }
    this.name = name
    this.transport = transport
    this.gaps = gaps
    this.ringsReadWrite = ringsReadWrite
    this.writeIsReadWrite = writeIsReadWrite
    this.inputEnd = FIRST_IOVA + iovaBytes - 1
    this.users = new Float64Array(iovaBytes / PAGE)
    this.pages = new Uint8Array(iovaBytes / PAGE)
    const blank = encodeRequest(IOTLB_MSG, { iova: 0, length: 0, user: 0, permission: 0, type: 0 }, true)
    for (let i = 0; i < BATCH; i++) this.batch.set(blank, i * MESSAGE_BYTES)
    transport.onIotlb = (message) => this.answer(message)
  }

  /** The process of the back end is known to have ended; see `VhostUserTransport.backEndEnded`. */
  get detached(): boolean {
    return this.transport.ended
  }

  map(access: number): void {
    const iova = this.request[REQUEST_IOVA]
    const length = this.request[REQUEST_LENGTH]
    const user = this.transport.table.userOf(this.request[REQUEST_GUEST], length)
    // What the back end was not given it could not map either.
    if (user === 0) {
      this.failed = DMA_FAILED
      return
    }
    const allowed = this.writeIsReadWrite && (access & DOMAIN_WRITE) !== 0 ? DOMAIN_READ | DOMAIN_WRITE : access
    const first = pageOf(iova)
    for (let page = first; page < first + length / PAGE; page++) {
      this.users[page] = user + (page - first) * PAGE
      this.pages[page] = allowed
    }
    this.pages[first] |= BEGINS
    this.counters.updates++
    this.queue(IOTLB_UPDATE, iova, length, user, allowed)
  }

  unmap(): void {
    this.remove(this.request[REQUEST_IOVA], this.request[REQUEST_LENGTH])
  }

  commit(): DmaStatus {
    this.settle()
    const { failed } = this
    this.failed = DMA_OK
    return this.broken ? DMA_FAILED : failed
  }

  /**
   * Takes everything away in one request, also where single removals were refused.
   *
   * @throws VhostUserError `VHOST_IOTLB`
   */
  dispose(): void {
    this.transport.onIotlb = () => false
    if (this.detached) return
    this.broken = false
    this.remove(FIRST_IOVA, this.inputEnd + 1 - FIRST_IOVA)
    if (this.commit() === DMA_OK) return
    const text = 'the back end did not confirm that all was taken away from it'
    const options = { cause: this.transport.connection.lost ?? undefined }
    throw new VhostUserError('VHOST_IOTLB', this.name, text, {}, options)
  }

  private remove(iova: number, length: number): void {
    const first = pageOf(iova)
    this.pages.fill(0, first, first + length / PAGE)
    this.counters.invalidations++
    this.queue(IOTLB_INVALIDATE, iova, length, 0, 0)
  }

  private queue(type: number, iova: number, length: number, user: number, access: number): void {
    if (this.queued === BATCH) this.settle()
    const at = this.queued++ * MESSAGE_BYTES + HEADER_BYTES
    this.putAddress(at, iova)
    this.putAddress(at + 8, length)
    this.putAddress(at + 16, user)
    this.view.setUint8(at + 24, access)
    this.view.setUint8(at + 25, type)
  }

  private putAddress(at: number, value: number): void {
    this.view.setUint32(at, value >>> 0, true)
    this.view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
  }

  // A removal that was refused, or whose answer never came, leaves it unknown what the device can reach.
  private settle(): void {
    const { connection } = this.transport
    const count = this.queued
    this.queued = 0
    if (count === 0 || this.broken) return
    try {
      connection.send(this.batch.subarray(0, count * MESSAGE_BYTES))
      for (let i = 0; i < count; i++) {
        if (connection.receive(IOTLB_MSG) === 0) continue
        this.failed = DMA_FAILED
        if (this.batch[i * MESSAGE_BYTES + AT_TYPE] === IOTLB_INVALIDATE) this.broken = true
      }
    } catch {
      // The transport tells of a lost connection, from now on at each of its methods.
      this.broken = true
    }
  }

  // The back end may repeat a miss that was answered already: the answer is the same mapping again.
  private answer({ type, iova, permission }: IotlbMessage): boolean {
    if (type === IOTLB_ACCESS_FAIL) this.counters.accessFailures++
    if (type !== IOTLB_MISS) return type === IOTLB_ACCESS_FAIL
    const page = pageOf(iova)
    const access = page >= 0 && page < this.pages.length ? this.pages[page] & ACCESS : 0
    if (access === 0 || (access & permission) !== permission) {
      this.counters.missesRefused++
      return false
    }
    const [first, length] = this.mappingAt(page)
    this.counters.missesAnswered++
    const message = { iova: FIRST_IOVA + first * PAGE, length, user: this.users[first], permission: access }
    // Not answered in turn: nothing waits for it, and a wait for another answer may be going on.
    this.transport.connection.send(encodeRequest(IOTLB_MSG, { ...message, type: IOTLB_UPDATE }, false))
    return true
  }

  private mappingAt(page: number): [first: number, length: number] {
    let first = page
    while (first > 0 && (this.pages[first] & BEGINS) === 0 && this.pages[first - 1] !== 0) first--
    let end = page + 1
    while (end < this.pages.length && this.pages[end] !== 0 && (this.pages[end] & BEGINS) === 0) end++
    return [first, (end - first) * PAGE]
  }
}

/** The page of an address, from the first one on: negative below it. */
function pageOf(iova: number): number {
  return Math.floor((iova - FIRST_IOVA) / PAGE)
}
