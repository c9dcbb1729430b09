import { Region } from '@guestdma/memory'
import {
  DEVICE_ID_IOMMU,
  IOMMU_ATTACH_BYTES,
  IOMMU_CONFIG_BYPASS,
  IOMMU_DETACH_BYTES,
  IOMMU_EVENT_QUEUE,
  IOMMU_FAULT_BYTES,
  IOMMU_HEAD_BYTES,
  IOMMU_MAP_BYTES,
  IOMMU_PROBE_BYTES,
  IOMMU_PROBE_ENDPOINT,
  IOMMU_PROPERTY_HEAD_BYTES,
  IOMMU_REQUEST_QUEUE,
  IOMMU_RESV_MEM_BYTES,
  IOMMU_RESV_MEM_END,
  IOMMU_RESV_MEM_START,
  IOMMU_RESV_MEM_SUBTYPE,
  IOMMU_TAIL_BYTES,
  IOMMU_UNMAP_BYTES,
  STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_IOMMU_ATTACH_F_BYPASS,
  VIRTIO_IOMMU_F_BYPASS,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_MMIO,
  VIRTIO_IOMMU_F_PROBE,
  VIRTIO_IOMMU_MAP_F_MMIO,
  VIRTIO_IOMMU_MAP_F_READ,
  VIRTIO_IOMMU_MAP_F_WRITE,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  VIRTIO_IOMMU_RESV_MEM_T_MSI,
  VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
  VIRTIO_IOMMU_S_INVAL,
  VIRTIO_IOMMU_S_NOENT,
  VIRTIO_IOMMU_S_OK,
  VIRTIO_IOMMU_T_ATTACH,
  VIRTIO_IOMMU_T_DETACH,
  VIRTIO_IOMMU_T_MAP,
  VIRTIO_IOMMU_T_PROBE,
  VIRTIO_IOMMU_T_UNMAP,
} from '@guestdma/spec'
import type { DeviceQueue } from '../device/device-queue.ts'
import { VirtioDevice } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import { NO_CHAIN } from '../ring/ring-walker.ts'
import {
  type IommuDeviceCounters,
  type IommuDeviceOptions,
  type IommuLimits,
  iommuConfig,
  iommuCounters,
  iommuFeatures,
  iommuLimits,
} from './config.ts'
import { PendingFaults } from './fault-reports.ts'
import { type EndpointOptions, type IommuOwner, IommuPort, type ReservedRegion } from './iommu-port.ts'
import { IommuRequests, MAPPINGS_PER_UNIT, UNFINISHED } from './requests.ts'

// The engine folds a module's own constants into its code; imported ones it loads at each use.
const HEAD = IOMMU_HEAD_BYTES
const TAIL = IOMMU_TAIL_BYTES
const INVAL = VIRTIO_IOMMU_S_INVAL
const OK = VIRTIO_IOMMU_S_OK
const T_ATTACH = VIRTIO_IOMMU_T_ATTACH
const T_DETACH = VIRTIO_IOMMU_T_DETACH
const T_MAP = VIRTIO_IOMMU_T_MAP
const T_UNMAP = VIRTIO_IOMMU_T_UNMAP
const T_PROBE = VIRTIO_IOMMU_T_PROBE
const MAP_BYTES = IOMMU_MAP_BYTES
const UNMAP_BYTES = IOMMU_UNMAP_BYTES
// What is looked at of any request: MAP is the longest. The rest of PROBE is reserved and ignored.
const MOST_READ = MAP_BYTES
// Scratch: the request, then the tail.
const SCRATCH_TAIL = 40
const SCRATCH_BYTES = 48
// Zeroing 4 KiB counts as one request.
const ZEROED_SHIFT = 12
// Not a status: the request is used with length 0.
const NO_ANSWER = -1
// INVAL, and a fault of the driver.
const TOO_SHORT = -2
// Chains taken at a time: their rows stay in the cache.
const BATCH = 64
// Device-writable bytes beyond what PROBE takes. They have to be zeroed, so there is a bound.
const MOST_SPARE = 65536
// Below this an offset is an integer to the engine and not a double.
const NEAR = 0x7fff_0000

/**
 * An IOMMU: virtio 1.4 §5.13. It translates what the endpoints behind it access, as the driver's requests say; each
 * endpoint gets a port of its own from {@link addEndpoint}.
 *
 * Framing is arbitrary (§2.7.4): a request is the first device-readable bytes, its tail the last 4 device-writable
 * ones; what is between is zeroed, so that the used length covers the tail truthfully. Too few device-readable bytes
 * for the type are INVAL; without a whole head or tail, or with more than 64 KiB to zero, a request is not executed and
 * used with length 0 (§5.13.6). So are MAP and UNMAP where MAP_UNMAP was not negotiated.
 *
 * Faults wait for event buffers, up to 256; more are dropped and counted, as are those of a time when no driver runs. A
 * buffer that cannot hold a fault is used with length 0, and the fault waits for the next (§5.13.6.9.2).
 *
 * A budget counts work: each request is one, and so are 16 mappings that are removed or 4 KiB that are zeroed. An UNMAP
 * of more mappings than that is carried on with the next poll; until it is answered, some of them are gone and some are
 * not. DETACH and reset are one step, whatever is mapped. One fault is reported in a poll at least, beyond the budget
 * where requests took all of it.
 *
 * An endpoint in a worker (`EndpointOptions.copy`) has a copy of its translations. UNMAP, DETACH and ATTACH wait until it
 * uses nothing any more that they take away, and answer DEVERR where it does not let go. A reset is complete, and the
 * status reads 0, once all endpoints have let go.
 *
 * `save` does not cover domains, mappings and waiting faults: after `restore` no endpoint is attached, as after a
 * reset.
 *
 * @example
 * const iommu = new IommuDevice({ name: 'iommu', port: everything(memory) })
 * const port = iommu.addEndpoint(8, { name: 'disk behind iommu', downstream: everything(memory) })
 * const disk = new BlkDevice({ name: 'disk', port, store, accessPlatform: 'required' })
 *
 * @throws DeviceError `DEVICE_OPTION`, and what `VirtioDevice` throws
 */
export class IommuDevice extends VirtioDevice implements IommuOwner {
  declare readonly counters: IommuDeviceCounters
  /** Bytes: what mappings are aligned to. */
  declare readonly granule: number

  declare private readonly limits: IommuLimits
  declare private readonly requests: IommuRequests
  declare private readonly initialBypass: number
  declare private readonly properties: Region
  private readonly scratch = new Region(new ArrayBuffer(SCRATCH_BYTES), 'IOMMU request')
  private readonly pending = new PendingFaults()
  private mapUnmap = false
  // Device-writable bytes that PROBE wrote.
  private filled = 0
  // The first request that is available was begun already.
  private begun = false

  constructor(options: IommuDeviceOptions) {
    const limits = iommuLimits(options)
    super(options, {
      deviceId: DEVICE_ID_IOMMU,
      features: iommuFeatures(options),
      config: iommuConfig(options, limits),
      queueSizes: options.queueSizes ?? [256, 64],
    })
    this.limits = limits
    this.granule = limits.granule
    this.counters = iommuCounters()
    this.initialBypass = this.config.read(IOMMU_CONFIG_BYPASS, 1)
    this.properties = new Region(new ArrayBuffer(limits.probeSize), 'IOMMU properties')
    this.requests = new IommuRequests(limits, this.counters)
    this.requests.setBypass(this.bypassNow())
  }

  /**
   * For the platform, at any time: puts an endpoint behind the IOMMU, under the number by which the driver knows it.
   * Returns what the endpoint reaches. Throws `DEVICE_OPTION`.
   */
  addEndpoint(id: number, options: EndpointOptions): IommuPort {
    if (!Number.isInteger(id) || id < 0 || id >= 2 ** 32 || this.requests.ports.has(id)) {
      const message = `endpoint ${id} must be an integer from 0 to 2^32 - 1 that was not added before`
      throw new DeviceError('DEVICE_OPTION', this.name, message, { id })
    }
    const port = new IommuPort(id, options, this)
    const { probeSize } = this.limits
    if (port.reserved.length * IOMMU_RESV_MEM_BYTES > probeSize) {
      const message = `${port.reserved.length} reserved regions do not fit into a probeSize of ${probeSize} bytes`
      throw new DeviceError('DEVICE_OPTION', this.name, message, { id, probeSize })
    }
    this.requests.addPort(port)
    return port
  }

  /** A reset that took something away from a device in a worker is complete once that device cannot use it any more (§2.4). */
  override get status(): number {
    const status = super.status
    return status === 0 && !this.requests.settled ? STATUS_DEVICE_NEEDS_RESET : status
  }

  /** For the platform: a reset of the machine, which takes back the driver's choice of bypass as well (§5.13.4.2). */
  override systemReset(): void {
    this.config.write(IOMMU_CONFIG_BYPASS, 1, this.initialBypass)
    this.reset()
  }

  /** For ports: a fault to report, from the middle of another device's access. The address comes as halves. */
  faulted(endpoint: number, reason: number, access: 1 | 2, high: number, low: number): void {
    if (!this.live || !this.pending.add(endpoint, reason, access, high, low)) {
      this.counters.faultsDropped++
      return
    }
    // The queues are not to be worked under the feet of the device that faulted, should `onWork` poll.
    const { polling } = this
    this.polling = true
    this.wake()
    this.polling = polling
  }

  /** The driver chooses what unattached endpoints may do, 0 or 1 (§5.13.4.1). */
  override writeConfig(offset: number, width: 1 | 2 | 4, value: number): boolean {
    if (offset !== IOMMU_CONFIG_BYPASS || width !== 1 || !this.negotiated.has(VIRTIO_IOMMU_F_BYPASS_CONFIG))
      return false
    if (value !== 0 && value !== 1) return false
    this.config.write(IOMMU_CONFIG_BYPASS, 1, value)
    this.requests.setBypass(this.bypassNow())
    if (!this.requests.settled) this.needsReset('an endpoint did not let go of what it reached in bypass mode')
    return true
  }

  protected override onNegotiated(): void {
    const { negotiated, requests } = this
    this.mapUnmap = negotiated.has(VIRTIO_IOMMU_F_MAP_UNMAP)
    requests.mapFlags = VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE
    if (negotiated.has(VIRTIO_IOMMU_F_MMIO)) requests.mapFlags |= VIRTIO_IOMMU_MAP_F_MMIO
    requests.attachFlags = negotiated.has(VIRTIO_IOMMU_F_BYPASS_CONFIG) ? VIRTIO_IOMMU_ATTACH_F_BYPASS : 0
    requests.setBypass(this.bypassNow())
  }

  protected override onReset(): void {
    this.begun = false
    this.pending.clear()
    this.requests.reset(this.bypassNow())
  }

  protected override onQueueReset({ index }: DeviceQueue): void {
    if (index === IOMMU_REQUEST_QUEUE) this.begun = false
  }

  protected override onRestored(): void {
    this.requests.setBypass(this.bypassNow())
  }

  protected override rests(): boolean {
    return !this.begun
  }

  protected override work(budget: number): number {
    const queue = this.queues[IOMMU_REQUEST_QUEUE]
    let done = 0
    if (queue.started) {
      // What was begun is carried on before the device suspends.
      const work = this.suspending && this.begun ? 1 : budget
      if (queue.marked && work > 0) done = this.serve(queue, work)
      if (queue.started && this.checkQueue(queue)) this.publish(queue)
    }
    const events = this.queues[IOMMU_EVENT_QUEUE]
    if (events.started && this.live) {
      // One at least: a flood of requests must not keep faults from being reported.
      if (this.pending.count > 0 && budget > 0) done += this.report(events, done < budget ? budget - done : 1)
      if (events.started && this.checkQueue(events)) this.publish(events)
    }
    return done
  }

  private serve(queue: DeviceQueue, budget: number): number {
    const { walker, generation } = queue
    let done = 0
    queue.marked = false
    walker.update()
    while (done < budget) {
      const left = budget - done
      const rows = walker.takeBatch(this.begun ? 1 : left < BATCH ? left : BATCH)
      if (rows === 0) {
        if (!this.publishAndRearm(queue)) return done
        continue
      }
      for (let row = 0; row < rows; row++) {
        // What one request cost leaves less for the others.
        if (done >= budget) {
          walker.untake(rows - row)
          break
        }
        this.requests.work = 0
        this.begun = !this.execute(queue, row, budget - done)
        done += 1 + this.requests.work
        // An observer may have reset the device.
        if (queue.generation !== generation || !this.live) return done
        if (this.begun) {
          walker.untake(rows - row)
          queue.marked = true
          return done
        }
      }
      done += walker.extra
    }
    // Work may be left over.
    queue.marked = true
    return done
  }

  // False where it is not finished: it is to be executed again.
  private execute(queue: DeviceQueue, row: number, budget: number): boolean {
    const { walker } = queue
    const { chains } = walker
    const readable = chains.readable(row)
    const writable = chains.writable(row)
    if (readable < HEAD || writable < TAIL || writable > this.limits.probeSize + TAIL + MOST_SPARE) {
      const reason = writable < TAIL ? 'no-status' : readable < HEAD ? 'short-header' : 'too-large'
      this.unanswered(queue, row)
      this.badRequest(queue, reason, chains.head(row), reason === 'short-header' ? readable : writable)
      return true
    }
    const first = chains.first(row)
    const start = chains.offset(first)
    const bytes = readable < MOST_READ ? readable : MOST_READ
    let region = this.scratch
    let at = 0
    if (chains.length(first) >= bytes && (start & 3) === 0 && start < NEAR) {
      region = chains.regions[first]
      at = start >>> 2
      if (region.meter !== null) region.meter.load(4, bytes >>> 2)
    } else chains.gather(row, 0, region, 0, bytes)
    const status = this.dispatch(row, region.u32, at, readable, writable, budget)
    if (status === UNFINISHED) return false
    this.requests.work += writable >>> ZEROED_SHIFT
    if (status === NO_ANSWER) this.unanswered(queue, row)
    else this.answer(queue, row, status === TOO_SHORT ? INVAL : status, writable)
    // Last: an observer may do what it likes.
    if (status === TOO_SHORT) this.badRequest(queue, 'short-header', chains.head(row), readable)
    return true
  }

  // Executes a request. What it read is `words[at]` and up.
  private dispatch(
    row: number,
    words: Uint32Array,
    at: number,
    readable: number,
    writable: number,
    budget: number,
  ): number {
    const { counters, requests } = this
    // Of the head, only the type counts (§5.13.6.2).
    switch (words[at] & 0xff) {
      case T_MAP:
        if (!this.mapUnmap) return NO_ANSWER
        counters.map++
        return readable < MAP_BYTES ? TOO_SHORT : requests.map(words, at)
      case T_UNMAP:
        if (!this.mapUnmap) return NO_ANSWER
        if (!this.begun) counters.unmap++
        return readable < UNMAP_BYTES ? TOO_SHORT : requests.unmap(words, at, budget * MAPPINGS_PER_UNIT)
      case T_ATTACH:
        counters.attach++
        return readable < IOMMU_ATTACH_BYTES ? TOO_SHORT : requests.attach(words, at)
      case T_DETACH:
        counters.detach++
        return readable < IOMMU_DETACH_BYTES ? TOO_SHORT : requests.detach(words, at)
      case T_PROBE:
        // §5.13.6.7.2 asks for the offer, and not for negotiation.
        if (!this.offered.has(VIRTIO_IOMMU_F_PROBE)) return NO_ANSWER
        counters.probe++
        if (readable < IOMMU_PROBE_BYTES) return TOO_SHORT
        return this.probe(row, words[at + IOMMU_PROBE_ENDPOINT / 4], writable)
      default:
        return NO_ANSWER
    }
  }

  // §5.13.6.7.2
  private probe(row: number, endpoint: number, writable: number): number {
    const { probeSize } = this.limits
    const port = this.requests.ports.get(endpoint)
    if (port === undefined) return VIRTIO_IOMMU_S_NOENT
    if (writable < probeSize + TAIL) return INVAL
    const { properties } = this
    properties.u8.fill(0)
    port.reserved.forEach((region, i) => {
      putReserved(properties.view, i * IOMMU_RESV_MEM_BYTES, region)
    })
    this.queues[IOMMU_REQUEST_QUEUE].walker.chains.scatter(row, 0, properties, 0, probeSize)
    this.filled = probeSize
    return OK
  }

  private answer(queue: DeviceQueue, row: number, status: number, writable: number): void {
    const { walker } = queue
    const { chains } = walker
    if (status !== OK) this.counters.rejected++
    const segment = chains.write(row)
    const start = chains.offset(segment)
    let listened = false
    if (writable === TAIL && chains.length(segment) === TAIL && (start & 3) === 0 && start < NEAR) {
      const region = chains.regions[segment]
      region.u32[start >>> 2] = status
      if (region.meter !== null) region.meter.store(4, 1)
      listened = region.onDeviceWrite !== null
    } else {
      const { filled, scratch } = this
      this.filled = 0
      chains.scatterZeros(row, filled, writable - TAIL - filled)
      scratch.u32[SCRATCH_TAIL / 4] = status
      listened = chains.scatter(row, writable - TAIL, scratch, SCRATCH_TAIL, TAIL)
    }
    walker.push(chains.head(row), writable, true)
    if (listened) this.reportWritten(queue, row, 0, writable)
  }

  private unanswered(queue: DeviceQueue, row: number): void {
    const { walker } = queue
    this.counters.unanswered++
    walker.push(walker.chains.head(row), 0, walker.chains.writable(row) === 0)
  }

  // Moves waiting faults to event buffers (§5.13.6.9). Returns how many buffers that took.
  private report(queue: DeviceQueue, budget: number): number {
    const { counters, pending } = this
    const { walker } = queue
    const { chains } = walker
    let done = 0
    walker.update()
    while (done < budget && pending.count > 0) {
      if (walker.take() === NO_CHAIN) {
        if (walker.rearm()) continue
        break
      }
      done += 1 + walker.extra
      const writable = chains.writable(0)
      if (writable < IOMMU_FAULT_BYTES) {
        counters.shortEventBuffers++
        walker.push(chains.head(0), 0, writable === 0)
        continue
      }
      const listened = chains.scatter(0, 0, pending.region, pending.offset, IOMMU_FAULT_BYTES)
      walker.push(chains.head(0), IOMMU_FAULT_BYTES, writable === IOMMU_FAULT_BYTES)
      pending.shift()
      counters.faultsReported++
      if (listened) this.reportWritten(queue, 0, 0, IOMMU_FAULT_BYTES)
    }
    return done
  }

  // §5.13.6: the configuration decides whether or not the driver accepted BYPASS_CONFIG. BYPASS is not offered unless
  // by `offer`.
  private bypassNow(): boolean {
    if (this.offered.has(VIRTIO_IOMMU_F_BYPASS_CONFIG) && this.config.read(IOMMU_CONFIG_BYPASS, 1) === 1) return true
    return this.negotiated.has(VIRTIO_IOMMU_F_BYPASS)
  }
}

// struct virtio_iommu_probe_resv_mem: §5.13.6.8.1
function putReserved(view: DataView, at: number, { kind, start, end }: ReservedRegion): void {
  view.setUint16(at, VIRTIO_IOMMU_PROBE_T_RESV_MEM, true)
  view.setUint16(at + 2, IOMMU_RESV_MEM_BYTES - IOMMU_PROPERTY_HEAD_BYTES, true)
  const subtype = kind === 'msi' ? VIRTIO_IOMMU_RESV_MEM_T_MSI : VIRTIO_IOMMU_RESV_MEM_T_RESERVED
  view.setUint8(at + IOMMU_RESV_MEM_SUBTYPE, subtype)
  putAddress(view, at + IOMMU_RESV_MEM_START, start)
  putAddress(view, at + IOMMU_RESV_MEM_END, end)
}

function putAddress(view: DataView, at: number, address: number): void {
  view.setUint32(at, address % 2 ** 32, true)
  view.setUint32(at + 4, Math.floor(address / 2 ** 32), true)
}
