import {
  BIDIRECTIONAL,
  DMA_EXHAUSTED,
  DMA_FAILED,
  DMA_OK,
  type DmaChoice,
  type DmaProvider,
  type DmaRegion,
  directScheme,
  FROM_DEVICE,
  type IommuFault,
  type PlatformOffer,
  platformOffer,
  TO_DEVICE,
} from '@guestdma/dma'
import { DeviceSession, QUEUE_FEATURES } from '@guestdma/drivers'
import { attempt, type GuestMemory, hex, observe, type SpanAllocator } from '@guestdma/memory'
import {
  DEVICE_ID_IOMMU,
  FeatureSet,
  IOMMU_ATTACH_BYTES,
  IOMMU_ATTACH_DOMAIN,
  IOMMU_ATTACH_ENDPOINT,
  IOMMU_CONFIG_BYPASS,
  IOMMU_CONFIG_DOMAIN_END,
  IOMMU_CONFIG_DOMAIN_START,
  IOMMU_CONFIG_INPUT_END,
  IOMMU_CONFIG_INPUT_START,
  IOMMU_CONFIG_PAGE_SIZE_MASK,
  IOMMU_CONFIG_PROBE_SIZE,
  IOMMU_DETACH_BYTES,
  IOMMU_DETACH_DOMAIN,
  IOMMU_DETACH_ENDPOINT,
  IOMMU_EVENT_QUEUE,
  IOMMU_FAULT_ADDRESS,
  IOMMU_FAULT_BYTES,
  IOMMU_FAULT_ENDPOINT,
  IOMMU_FAULT_FLAGS,
  IOMMU_MAP_BYTES,
  IOMMU_PROBE_BYTES,
  IOMMU_PROBE_ENDPOINT,
  IOMMU_REQUEST_QUEUE,
  IOMMU_TAIL_BYTES,
  IOMMU_UNMAP_BYTES,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_SUSPEND,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
  VIRTIO_IOMMU_F_DOMAIN_RANGE,
  VIRTIO_IOMMU_F_INPUT_RANGE,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_PROBE,
  VIRTIO_IOMMU_FAULT_F_ADDRESS,
  VIRTIO_IOMMU_FAULT_F_READ,
  VIRTIO_IOMMU_FAULT_F_WRITE,
  VIRTIO_IOMMU_FAULT_R_DOMAIN,
  VIRTIO_IOMMU_FAULT_R_MAPPING,
  VIRTIO_IOMMU_S_NOMEM,
  VIRTIO_IOMMU_S_OK,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_DETACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from '@guestdma/spec'
import { Deadline, negotiate, type VirtioTransport, type Wait } from '@guestdma/transport'
import { type CellArea, QueueTooSmallError, SEGMENT_DEVICE, type Virtqueue } from '@guestdma/virtqueue'
import { REQUEST_GUEST, REQUEST_IOVA, REQUEST_LENGTH } from '../backend/domain.ts'
import { describeRequestStatus, IommuError, NO_STATUS } from './errors.ts'
import { address, parseProperties, type ReservedRange } from './probe.ts'
import { VirtioIommuDomain } from './virtio-domain.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const OK = DMA_OK
const MAP_BYTES = IOMMU_MAP_BYTES
const UNMAP_BYTES = IOMMU_UNMAP_BYTES
const STATUS_OK = VIRTIO_IOMMU_S_OK
const IOVA = REQUEST_IOVA
const GUEST = REQUEST_GUEST
const LENGTH = REQUEST_LENGTH
const HIGH_HALF = 2 ** -32

/** Entries of the request queue; a request takes two. */
const REQUEST_ENTRIES = 512
/** Fault reports that can wait to be read. */
const EVENT_ENTRIES = 64
/** Requests that are sent one by one: attach, detach, probe. */
const CONTROL_CHAINS = 1
/** Of the other chains, those for removals; one removal may cover many mappings. */
const UNMAP_SHARE = 0.25
// Words from one cell to the next.
const CELL_WORDS = 10
const TAIL_WORDS = 2
/** The device status is read once in so many polls, and rounds of a wait: it is a register access. */
const STATUS_TURNS = 64
const UNWRITTEN = NO_STATUS
/** Granules above this would make single mappings too large for the backend's arithmetic. */
const LARGEST_GRANULE = 65_536
/** More than any property list needs; the device names the size. */
const LARGEST_PROBE = 65_536
/** I/O virtual addresses that are used where the device sets no limit. */
const DEFAULT_INPUT_END = 2 ** 48 - 1

const FEATURES = FeatureSet.of(
  // Prepared chains are used in any order, and nobody suspends what other devices' mappings wait for.
  ...QUEUE_FEATURES.filter((bit) => bit !== VIRTIO_F_IN_ORDER && bit !== VIRTIO_F_SUSPEND),
  VIRTIO_IOMMU_F_INPUT_RANGE,
  VIRTIO_IOMMU_F_DOMAIN_RANGE,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_PROBE,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
)

export interface VirtioIommuOptions {
  readonly transport: VirtioTransport
  readonly memory: GuestMemory
  /** Guest RAM for the driver's own queues. */
  readonly ram: SpanAllocator
  readonly wait: Wait
  /**
   * What the IOMMU itself can reach, for its own queues. Default: guest RAM by guest address. An IOMMU of a guest whose
   * RAM is private gets a pool.
   */
  readonly dma?: {
    readonly providers: readonly DmaProvider[]
    readonly dma: DmaChoice
    offer(offered: FeatureSet): PlatformOffer
  }
  /** Told of faults that the device reports. It may throw: that surfaces in a microtask. */
  readonly observer?: (fault: IommuFault) => void
  /**
   * Told once when the IOMMU broke the rules, stopped answering or lost its driver: see {@link VirtioIommu.broken}. And
   * once, with `IOMMU_EVENTS`, when its event queue broke: then only fault reports end. It may throw: that surfaces in a
   * microtask.
   */
  readonly onBroken?: (error: IommuError) => void
}

/** Running totals of a virtio-iommu driver. */
export interface VirtioIommuCounters {
  /** Requests sent, by kind. */
  maps: number
  unmaps: number
  /** Notifications of the request queue. */
  notifications: number
  /** Times that the queue was full before a commit, so that the driver had to wait in between. */
  full: number
  /** Requests that the device refused. */
  refused: number
  /** Fault reports read, and reports that made no sense. */
  faults: number
  malformed: number
}

/**
 * The driver of a virtio-iommu: virtio 1.4 §5.13. Requests of all domains go through one queue, in order and batched:
 * {@link VirtioIommuDomain.commit} notifies the device once and waits through the platform's pump.
 *
 * An IOMMU that fails is reset at once, which detaches all endpoints. What comes after is a new driver:
 * {@link IommuUnit} starts it when the next endpoint is attached.
 *
 * @example
 * const iommu = await VirtioIommu.start({ transport, memory, ram, wait })
 * const domain = iommu.attach(8, 'net0')
 */
export class VirtioIommu {
  declare readonly name: string
  declare readonly granule: number
  declare readonly inputStart: number
  declare readonly inputEnd: number
  declare readonly session: DeviceSession
  readonly counters: VirtioIommuCounters = {
    maps: 0,
    unmaps: 0,
    notifications: 0,
    full: 0,
    refused: 0,
    faults: 0,
    malformed: 0,
  }

  declare private readonly wait: Wait
  declare private readonly deadline: Deadline
  declare private readonly observer: ((fault: IommuFault) => void) | undefined
  declare private readonly onBroken: ((error: IommuError) => void) | undefined
  declare private readonly domainStart: number
  declare private readonly domainEnd: number
  declare private readonly probeSize: number
  declare private readonly requests: Virtqueue
  declare private readonly events: Virtqueue
  declare private readonly cells: CellArea
  declare private readonly tails: CellArea
  declare private readonly reports: CellArea
  declare private readonly control: DmaRegion
  // Chains for mappings and for removals, laid out once. How many of each are in use: all come back at a commit.
  declare private readonly mapIds: Uint16Array
  declare private readonly unmapIds: Uint16Array
  declare private readonly cellWord: number
  declare private readonly tailWord: number
  private mapsQueued = 0
  private unmapsQueued = 0
  // By chain: which domain a request belongs to, and whether it maps; -1 for requests that are waited for one by one.
  declare private readonly owner: Int32Array
  private readonly domains: (VirtioIommuDomain | undefined)[] = []
  private readonly names = new Map<number, string>()
  private controlWritten = 0
  private cause: IommuError | null = null
  private eventsEnded = false
  private closed = false
  private wasReset = false
  private polling = false
  private turns = 0

  private constructor(session: DeviceSession, options: VirtioIommuOptions) {
    const { transport, wait, observer, onBroken } = options
    this.name = transport.name
    this.session = session
    this.wait = wait
    this.deadline = new Deadline(transport.name, wait)
    this.observer = observer
    this.onBroken = onBroken
    const { features } = session
    const has = (bit: number): boolean => features.has(bit)
    if (!has(VIRTIO_IOMMU_F_MAP_UNMAP))
      throw new IommuError('IOMMU_MODE', this.name, 'the device does not offer MAP_UNMAP (2), the only mode there is')
    const config = transport.readConfig((reader) => {
      const bytes = new DataView(new ArrayBuffer(IOMMU_CONFIG_BYPASS))
      const fetch = (from: number, to: number): void => {
        for (let at = from; at < to; at += 4) bytes.setUint32(at, reader.read32(at), true)
      }
      // The other fields exist with their features only (§5.13.4), and the space may end before them.
      fetch(IOMMU_CONFIG_PAGE_SIZE_MASK, IOMMU_CONFIG_PAGE_SIZE_MASK + 8)
      if (has(VIRTIO_IOMMU_F_INPUT_RANGE)) fetch(IOMMU_CONFIG_INPUT_START, IOMMU_CONFIG_INPUT_END + 8)
      if (has(VIRTIO_IOMMU_F_DOMAIN_RANGE)) fetch(IOMMU_CONFIG_DOMAIN_START, IOMMU_CONFIG_DOMAIN_END + 4)
      if (has(VIRTIO_IOMMU_F_PROBE)) fetch(IOMMU_CONFIG_PROBE_SIZE, IOMMU_CONFIG_PROBE_SIZE + 4)
      return bytes
    })
    const low = config.getUint32(IOMMU_CONFIG_PAGE_SIZE_MASK, true)
    // The least significant bit is the granule.
    const granule = (low & -low) >>> 0
    if (granule === 0 || granule > LARGEST_GRANULE)
      throw new IommuError(
        'IOMMU_GRANULE',
        this.name,
        `page_size_mask ${hex(low)} has no granule from 1 to ${LARGEST_GRANULE}`,
        { mask: low },
      )
    this.granule = granule
    this.inputStart = has(VIRTIO_IOMMU_F_INPUT_RANGE) ? address(config, IOMMU_CONFIG_INPUT_START) : 0
    this.inputEnd = has(VIRTIO_IOMMU_F_INPUT_RANGE) ? address(config, IOMMU_CONFIG_INPUT_END) : DEFAULT_INPUT_END
    this.domainStart = has(VIRTIO_IOMMU_F_DOMAIN_RANGE) ? config.getUint32(IOMMU_CONFIG_DOMAIN_START, true) : 0
    this.domainEnd = has(VIRTIO_IOMMU_F_DOMAIN_RANGE) ? config.getUint32(IOMMU_CONFIG_DOMAIN_END, true) : 0xffff_ffff
    if (this.inputEnd < this.inputStart || this.domainEnd < this.domainStart) {
      throw new IommuError('IOMMU_RANGE', this.name, 'a range of the device ends before it starts', {
        input: [this.inputStart, this.inputEnd],
        domains: [this.domainStart, this.domainEnd],
      })
    }
    this.probeSize = has(VIRTIO_IOMMU_F_PROBE) ? config.getUint32(IOMMU_CONFIG_PROBE_SIZE, true) : 0
    if (this.probeSize > LARGEST_PROBE)
      throw new IommuError(
        'IOMMU_RANGE',
        this.name,
        `a probe size of ${this.probeSize} bytes is above ${LARGEST_PROBE}`,
        {
          probeSize: this.probeSize,
        },
      )
    // What is not attached must not reach anything, from before any endpoint's driver starts.
    if (has(VIRTIO_IOMMU_F_BYPASS_CONFIG)) {
      transport.writeConfig(IOMMU_CONFIG_BYPASS, 1, 0)
      // Bits 1 to 7 are to be ignored.
      if ((transport.readConfig((reader) => reader.read8(IOMMU_CONFIG_BYPASS)) & 1) !== 0)
        throw new IommuError('IOMMU_BYPASS', this.name, 'the device keeps unattached endpoints in bypass mode')
    }
    this.requests = session.openQueue({
      index: IOMMU_REQUEST_QUEUE,
      label: 'requests',
      size: REQUEST_ENTRIES,
      longestChain: 2,
    })
    this.events = session.openQueue({
      index: IOMMU_EVENT_QUEUE,
      label: 'events',
      size: EVENT_ENTRIES,
      longestChain: 1,
      standing: true,
    })
    this.cells = this.requests.cells(CELL_WORDS * 4, TO_DEVICE)
    this.tails = this.requests.cells(TAIL_WORDS * 4, FROM_DEVICE)
    this.reports = this.events.cells(IOMMU_FAULT_BYTES, FROM_DEVICE)
    this.owner = new Int32Array(this.requests.size).fill(-1)
    this.cellWord = this.cells.memory.offset / 4
    this.tailWord = this.tails.memory.offset / 4
    // Some descriptors are left for requests that are not prepared.
    const pairs = Math.floor(this.requests.size / 2) - CONTROL_CHAINS
    const unmaps = Math.max(1, Math.floor(pairs * UNMAP_SHARE))
    if (pairs - unmaps < 1) {
      throw new QueueTooSmallError(`${this.name} requests`, this.requests.size, 2 * (CONTROL_CHAINS + 2))
    }
    this.mapIds = this.prepare(pairs - unmaps, VIRTIO_IOMMU_T_MAP, MAP_BYTES)
    this.unmapIds = this.prepare(unmaps, VIRTIO_IOMMU_T_UNMAP, UNMAP_BYTES)
    const control = IOMMU_PROBE_BYTES + this.probeSize + IOMMU_TAIL_BYTES
    this.control = session.backend.alloc(control, 8, BIDIRECTIONAL, 'ring')
    session.start()
    this.postEvents()
  }

  /**
   * Brings the device up. Bypass is off, where the device has such a switch, before this resolves.
   *
   * @throws IommuError; what `negotiate` throws; TransportError `TRANSPORT_DEVICE_TYPE`
   */
  static async start(options: VirtioIommuOptions): Promise<VirtioIommu> {
    const { transport, memory, ram, wait } = options
    if (transport.deviceId !== DEVICE_ID_IOMMU)
      throw new IommuError(
        'IOMMU_NO_DEVICE',
        transport.name,
        `device type ${transport.deviceId} is not an IOMMU (23)`,
        {
          deviceId: transport.deviceId,
        },
      )
    const dma = options.dma ?? ownQueuesInRam(options)
    const { features, backend } = await negotiate({ transport, understood: FEATURES, wait, ...dma })
    const session = new DeviceSession({ transport, features, backend, memory, ram, wait })
    try {
      return new VirtioIommu(session, options)
    } catch (error) {
      session.giveUp()
      await session.close().catch(() => {})
      throw error
    }
  }

  /**
   * Why nothing can be mapped or attached any more: the device did not answer in time, broke the rules, set
   * DEVICE_NEEDS_RESET or was reset by somebody else. Null while all is well.
   */
  get broken(): IommuError | null {
    return this.cause
  }

  /** Is a new driver to be started before the next endpoint is attached? */
  get restartDue(): boolean {
    return this.cause !== null || (this.eventsEnded && this.names.size === 0)
  }

  /** The endpoints that are attached, by number, with the names they were given. */
  get endpoints(): ReadonlyMap<number, string> {
    return this.names
  }

  /**
   * Probes an endpoint and attaches it to a domain of its own. Reports about it carry `name`.
   *
   * @throws IommuError `IOMMU_PROBE`, `IOMMU_PROPERTY`, `IOMMU_ATTACH`, `IOMMU_DOMAINS`, `IOMMU_STUCK`
   */
  attach(endpoint: number, name: string): VirtioIommuDomain {
    this.refuseClosed()
    const reserved = this.probeSize > 0 ? this.probe(endpoint, name) : []
    if (this.freeIndex > this.domainEnd - this.domainStart) {
      // Domains that could not be left take places: their endpoints are asked to leave once more.
      for (const other of [...this.domains]) if (other?.disposed === true) this.release(other)
    }
    const index = this.freeIndex
    if (this.domainStart + index > this.domainEnd)
      throw new IommuError('IOMMU_DOMAINS', this.name, `all ${index} domains are in use`, { domains: index })
    const id = this.domainStart + index
    const view = this.controlView()
    view.setUint32(IOMMU_ATTACH_DOMAIN, id, true)
    view.setUint32(IOMMU_ATTACH_ENDPOINT, endpoint, true)
    const status = this.ask(VIRTIO_IOMMU_T_ATTACH, IOMMU_ATTACH_BYTES, 0)
    if (status !== STATUS_OK)
      throw new IommuError('IOMMU_ATTACH', name, `endpoint ${endpoint}: ${describeRequestStatus(status)}`, {
        endpoint,
        domain: id,
        status,
      })
    // To attach it to another domain is to detach it from the one before: §5.13.6.3.2.
    for (const other of this.domains) if (other?.endpoint === endpoint) this.forget(other)
    const domain = new VirtioIommuDomain(this, index, id, endpoint, name, reserved)
    this.domains[index] = domain
    this.names.set(endpoint, name)
    return domain
  }

  private get freeIndex(): number {
    const index = this.domains.indexOf(undefined)
    return index < 0 ? this.domains.length : index
  }

  /** Reads fault reports. Returns how many there were. For whoever owns the loop. */
  poll(): number {
    // An observer may poll, or whatever leads there.
    if (this.closed || this.polling || this.cause !== null) return 0
    this.polling = true
    if (++this.turns % STATUS_TURNS === 0) this.checkStatus()
    try {
      return this.readReports()
    } finally {
      this.polling = false
    }
  }

  private readReports(): number {
    const { events, reports, counters } = this
    const count = events.reap(EVENT_ENTRIES)
    if (count === 0) {
      if (events.broken !== null && !this.eventsEnded) this.endReports(events.broken.message, events.broken)
      return 0
    }
    const { region, offset } = reports.memory
    region.refresh()
    for (let i = 0; i < count; i++) {
      const at = offset + events.completed.id[i] * reports.stride
      if (events.completed.written[i] >= IOMMU_FAULT_BYTES && region.u32[at / 4] < 0x100) this.tell(region.view, at)
      else counters.malformed++
    }
    events.recycle()
    this.postEvents()
    return count
  }

  /** Resets the device, which detaches all endpoints, and gives its memory back. */
  async close(): Promise<void> {
    this.closed = true
    try {
      await this.session.close()
    } catch (error) {
      // It may have failed after the reset.
      attempt([], () => this.confirmReset())
      throw error
    }
    this.noticeReset()
  }

  /** For a domain: queues a mapping or a removal. */
  queue(domain: VirtioIommuDomain, access: number): void {
    const map = access !== 0
    const ids = map ? this.mapIds : this.unmapIds
    if ((map ? this.mapsQueued : this.unmapsQueued) === ids.length) {
      this.counters.full++
      this.settle()
    }
    // One that is broken is not asked for single mappings again, only for a DETACH.
    if (this.cause !== null || this.closed || domain.broken) {
      domain.failed = DMA_FAILED
      domain.broken = true
      return
    }
    const { region } = this.cells.memory
    const tails = this.tails.memory.region
    // A memory may have grown since the last request, also in the middle of a batch.
    if (region.u32.length === 0) region.refresh()
    if (tails.u32.length === 0) tails.refresh()
    const id = ids[map ? this.mapsQueued : this.unmapsQueued]
    if (map) this.mapsQueued++
    else this.unmapsQueued++
    this.requests.addPrepared(id)
    const { request } = domain
    const { u32 } = region
    const at = this.cellWord + id * CELL_WORDS
    const iova = request[IOVA]
    const last = iova + request[LENGTH] - 1
    // The type stands there already.
    u32[at + 1] = domain.id
    u32[at + 2] = iova
    u32[at + 3] = iova * HIGH_HALF
    u32[at + 4] = last
    u32[at + 5] = last * HIGH_HALF
    if (map) {
      const guest = request[GUEST]
      u32[at + 6] = guest
      u32[at + 7] = guest * HIGH_HALF
      u32[at + 8] = access
    }
    tails.u32[this.tailWord + id * TAIL_WORDS] = UNWRITTEN
    this.owner[id] = (domain.index << 1) | (map ? 1 : 0)
  }

  /** For a domain: sends what is queued and waits for all of it. */
  settle(): void {
    const { requests } = this
    if (this.cause !== null) return
    let published: number
    try {
      published = requests.publish()
    } catch (error) {
      this.giveUp(unreachable(error), error)
      return
    }
    if (published !== OK || requests.broken !== null) {
      this.giveUp(requests.broken?.message ?? 'its requests could not be published', requests.broken ?? undefined)
      return
    }
    this.counters.maps += this.mapsQueued
    this.counters.unmaps += this.unmapsQueued
    if (requests.outstanding > 0) {
      this.counters.notifications++
      this.collect()
      if (requests.outstanding > 0) this.collectInTime()
    }
    // All chains are back.
    this.mapsQueued = this.unmapsQueued = 0
  }

  // The device did not answer before the doorbell returned.
  private collectInTime(): void {
    const { deadline, requests, session, wait } = this
    if (session.failure !== null) this.giveUp(session.failure.message, session.failure)
    deadline.begin()
    for (let round = 1; requests.outstanding > 0 && this.cause === null; round++) {
      wait.pump()
      this.collect()
      if (requests.broken !== null) this.giveUp(requests.broken.message, requests.broken)
      else if (requests.outstanding > 0) {
        if (round % STATUS_TURNS === 0) this.checkStatus()
        if (deadline.passed()) this.giveUp(`it did not answer within ${deadline.ms} ms`)
      }
    }
  }

  /** For a domain: has no other one anything to give back? */
  lendsAlone(domain: VirtioIommuDomain): boolean {
    return this.domains.every((other) => other === undefined || other === domain || other.lent === 0)
  }

  /** For a domain: detaches its endpoint. Returns what the device said of that: OK (0), another status, or none (255). */
  release(domain: VirtioIommuDomain): number {
    if (this.cause === null && !this.wasReset) {
      if (this.closed) return UNWRITTEN
      this.settle()
      const view = this.controlView()
      view.setUint32(IOMMU_DETACH_DOMAIN, domain.id, true)
      view.setUint32(IOMMU_DETACH_ENDPOINT, domain.endpoint, true)
      const status = this.send(VIRTIO_IOMMU_T_DETACH, IOMMU_DETACH_BYTES, 0)
      if (status !== STATUS_OK && this.cause === null) return status
    }
    // A reset has detached everything; one that was asked for may be finished by now.
    try {
      if (this.cause !== null && !this.wasReset && !this.confirmReset()) return UNWRITTEN
    } catch {
      return UNWRITTEN
    }
    // Not before: an endpoint that is still attached must not meet its domain again under another one's name.
    this.forget(domain)
    return STATUS_OK
  }

  private forget(domain: VirtioIommuDomain): void {
    if (this.domains[domain.index] !== domain) return
    this.domains[domain.index] = undefined
    this.names.delete(domain.endpoint)
    domain.wentAway()
  }

  private prepare(count: number, type: number, bytes: number): Uint16Array {
    const { requests, cells, tails } = this
    const { segments } = requests
    segments.kind[0] = cells.kind
    segments.kind[1] = tails.kind
    segments.address[0] = segments.address[1] = 0
    segments.length[0] = bytes
    segments.length[1] = IOMMU_TAIL_BYTES
    return Uint16Array.from({ length: count }, () => {
      const id = requests.prepare(1, 1)
      cells.memory.region.u32[this.cellWord + id * CELL_WORDS] = type
      return id
    })
  }

  private refuseClosed(): void {
    if (this.cause !== null) throw this.cause
    if (this.closed) throw new IommuError('IOMMU_CLOSED', this.name, 'the driver was closed; start it again')
  }

  // A device that set DEVICE_NEEDS_RESET, or lost its driver in a reset by somebody else, answers no requests.
  private checkStatus(): void {
    let status: number
    try {
      status = this.session.transport.readStatus()
    } catch (error) {
      this.giveUp(unreachable(error), error)
      return
    }
    if ((status & STATUS_DEVICE_NEEDS_RESET) !== 0) this.giveUp('it set DEVICE_NEEDS_RESET')
    else if ((status & STATUS_DRIVER_OK) === 0) this.giveUp('it was reset by somebody else')
  }

  private collect(): void {
    const { requests, tails, owner } = this
    const count = requests.reap(REQUEST_ENTRIES)
    if (count === 0) return
    const { id: ids, written: lengths } = requests.completed
    const { region } = tails.memory
    region.refresh()
    const { u32 } = region
    for (let i = 0; i < count; i++) {
      const id = ids[i]
      const belongs = owner[id]
      if (belongs < 0) {
        this.controlWritten = lengths[i]
        continue
      }
      // The first byte; the others are to be ignored. Nothing written is a failure, whatever it says: virtio 1.4
      // §5.13.6.
      const status = lengths[i] === 0 ? UNWRITTEN : u32[this.tailWord + id * TAIL_WORDS] & 0xff
      if (status !== STATUS_OK) this.refused(belongs, status)
    }
    requests.recycle()
  }

  private refused(belongs: number, status: number): void {
    this.counters.refused++
    const domain = this.domains[belongs >> 1]
    if (domain === undefined) return
    if ((belongs & 1) === 0) domain.broken = true
    if (domain.failed !== DMA_FAILED)
      domain.failed = (belongs & 1) === 1 && status === VIRTIO_IOMMU_S_NOMEM ? DMA_EXHAUSTED : DMA_FAILED
  }

  // Nothing is known of any domain from here on, so the device is reset: that detaches all endpoints (§5.13.5).
  private giveUp(why: string, cause?: unknown): void {
    if (this.cause !== null) return
    const message = `the IOMMU failed: ${why}; it is reset, and each device behind it has to be reset too`
    this.cause = new IommuError('IOMMU_STUCK', this.name, message, { waitedMs: this.deadline.ms }, { cause })
    for (const domain of this.domains) if (domain !== undefined) domain.broken = true
    try {
      this.session.transport.writeStatus(0)
      this.deadline.begin()
      while (!this.confirmReset() && !this.deadline.passed()) this.wait.pump()
    } catch {
      // It cannot be reached; whoever starts it again is told.
    }
    if (this.onBroken !== undefined) observe(this.onBroken, this.cause)
  }

  private confirmReset(): boolean {
    if (this.session.transport.readStatus() === 0) this.noticeReset()
    return this.wasReset
  }

  // Everything is out of reach, what was given up without a DETACH that worked too.
  private noticeReset(): void {
    this.wasReset = true
    for (const domain of this.domains) {
      if (domain === undefined) continue
      domain.broken = domain.detached = true
      if (domain.disposed) this.forget(domain)
    }
  }

  private endReports(why: string, cause?: unknown): void {
    this.eventsEnded = true
    if (this.onBroken === undefined) return
    const message = `no more faults will be reported: ${why}; reset all devices behind the IOMMU to have reports again`
    observe(this.onBroken, new IommuError('IOMMU_EVENTS', this.name, message, {}, { cause }))
  }

  private controlView(): DataView {
    const { region, offset, length } = this.control
    region.refresh()
    region.u8.fill(0, offset, offset + length)
    return new DataView(region.view.buffer, region.view.byteOffset + offset, length)
  }

  private ask(type: number, readable: number, extra: number): number {
    const status = this.send(type, readable, extra)
    if (this.cause !== null) throw this.cause
    return status
  }

  // Sends the request in the control region, with `extra` writable bytes before the tail. Returns its status, or
  // `UNWRITTEN` where there is none.
  private send(type: number, readable: number, extra: number): number {
    const { control, requests } = this
    const { region, offset, device } = control
    region.u8[offset] = type
    const tail = offset + readable + extra
    region.u8[tail] = UNWRITTEN
    const { segments } = requests
    segments.kind[0] = segments.kind[1] = SEGMENT_DEVICE
    segments.address[0] = device
    segments.length[0] = readable
    segments.address[1] = device + readable
    segments.length[1] = extra + IOMMU_TAIL_BYTES
    if (requests.free < 2) this.settle()
    const id = requests.add(1, 1)
    this.controlWritten = 0
    if (id >= 0) {
      this.owner[id] = -1
      this.settle()
    }
    region.refresh()
    return this.controlWritten === 0 ? UNWRITTEN : region.u8[tail]
  }

  private probe(endpoint: number, name: string): ReservedRange[] {
    this.controlView().setUint32(IOMMU_PROBE_ENDPOINT, endpoint, true)
    const status = this.ask(VIRTIO_IOMMU_T_PROBE, IOMMU_PROBE_BYTES, this.probeSize)
    if (status !== STATUS_OK)
      throw new IommuError('IOMMU_PROBE', name, `endpoint ${endpoint}: ${describeRequestStatus(status)}`, {
        endpoint,
        status,
      })
    const { region, offset } = this.control
    const from = offset + IOMMU_PROBE_BYTES
    // A copy: the device may change what it wrote while it is read.
    return parseProperties(name, region.u8.slice(from, from + this.probeSize))
  }

  private postEvents(): void {
    const { events, reports } = this
    const { segments } = events
    segments.kind[0] = reports.kind
    segments.address[0] = 0
    segments.length[0] = IOMMU_FAULT_BYTES
    while (events.add(0, 1) >= 0);
    events.publish()
  }

  private tell(view: DataView, at: number): void {
    this.counters.faults++
    if (this.observer === undefined) return
    const reason = view.getUint8(at)
    const flags = view.getUint32(at + IOMMU_FAULT_FLAGS, true)
    const endpoint = view.getUint32(at + IOMMU_FAULT_ENDPOINT, true)
    const low = view.getUint32(at + IOMMU_FAULT_ADDRESS, true)
    const high = view.getUint32(at + IOMMU_FAULT_ADDRESS + 4, true)
    observe(this.observer, {
      device: this.names.get(endpoint) ?? `endpoint ${endpoint}`,
      reason:
        reason === VIRTIO_IOMMU_FAULT_R_DOMAIN
          ? 'domain'
          : reason === VIRTIO_IOMMU_FAULT_R_MAPPING
            ? 'mapping'
            : 'unknown',
      access:
        (flags & VIRTIO_IOMMU_FAULT_F_READ) !== 0
          ? 'read'
          : (flags & VIRTIO_IOMMU_FAULT_F_WRITE) !== 0
            ? 'write'
            : 'unknown',
      address: (flags & VIRTIO_IOMMU_FAULT_F_ADDRESS) !== 0 ? { high, low } : undefined,
    })
  }
}

function unreachable(error: unknown): string {
  return `it cannot be reached: ${(error as Error).message}`
}

// An IOMMU reaches all guest RAM by guest address unless the platform says otherwise.
function ownQueuesInRam({ transport, memory, ram }: VirtioIommuOptions): NonNullable<VirtioIommuOptions['dma']> {
  return {
    providers: [directScheme().provider],
    dma: 'direct',
    offer: (offered) =>
      platformOffer({
        device: transport.name,
        offered,
        transport: { kind: transport.kind, transitional: transport.transitional },
        memory,
        ram,
        listed: new Set(['direct']),
      }),
  }
}
