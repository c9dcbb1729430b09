// A virtio-iommu made by hand: virtio 1.4 §2.7, §4.2 and §5.13 read with a DataView. It does what the specification
// says unless a test tells it otherwise. It shares no code with the driver.
import { type GuestMemory, guestAddress, type RegisterBus } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'

export const S = { OK: 0, IOERR: 1, UNSUPP: 2, DEVERR: 3, INVAL: 4, RANGE: 5, NOENT: 6, FAULT: 7, NOMEM: 8 } as const
export const T = { ATTACH: 1, DETACH: 2, MAP: 3, UNMAP: 4, PROBE: 5 } as const
export const F = {
  INPUT_RANGE: 0,
  DOMAIN_RANGE: 1,
  MAP_UNMAP: 2,
  BYPASS: 3,
  PROBE: 4,
  MMIO: 5,
  BYPASS_CONFIG: 6,
} as const

export interface HandRequest {
  /** The device-readable bytes as they stood in memory. */
  readonly bytes: Uint8Array
  readonly type: number
  /** Bytes of the device-writable part. */
  readonly writable: number
  readonly segments: readonly { readonly address: number; readonly length: number; readonly writable: boolean }[]
  readonly id: number
}

export interface Answer {
  readonly status?: number
  /** Used length; default: all of the writable part. */
  readonly length?: number
  readonly properties?: Uint8Array
  /** Writes nothing. */
  readonly unwritten?: boolean
  /** Used id; default: the request's. */
  readonly id?: number
  /** Never comes back. */
  readonly lost?: boolean
}

interface QueueRegisters {
  size: number
  ready: number
  descriptor: number
  driver: number
  device: number
  taken: number
  used: number
}

export interface HandOptions {
  readonly deviceId?: number
  readonly features?: readonly number[]
  readonly queueMax?: readonly number[]
  readonly pageSizeMask?: bigint
  readonly input?: readonly [bigint, bigint]
  readonly domains?: readonly [number, number]
  readonly probeSize?: number
  readonly bypass?: number
  /** Bytes of the configuration space; beyond them an access throws. */
  readonly configBytes?: number
}

const fresh = (): QueueRegisters => ({ size: 0, ready: 0, descriptor: 0, driver: 0, device: 0, taken: 0, used: 0 })

export const ALL_FEATURES = [F.INPUT_RANGE, F.DOMAIN_RANGE, F.MAP_UNMAP, F.PROBE, F.BYPASS_CONFIG]

export class HandIommu implements RegisterBus {
  readonly config: DataView
  readonly offered: FeatureSet
  readonly queueMax: readonly number[]
  queues = [fresh(), fresh()]
  status = 0
  /** Writes of registers, as [offset, value]. */
  readonly writes: [number, number][] = []
  readonly requests: HandRequest[] = []
  notifications = 0
  /** Resets are never finished. */
  stuckReset = false
  /** The bypass field stays at 1. */
  stubborn = false
  /** Requests are taken and not answered. */
  silent = false
  reversed = false
  /** By endpoint. */
  readonly attached = new Map<number, number>()
  /** By domain. */
  readonly mapped = new Map<number, { start: number; end: number; phys: number; flags: number }[]>()
  properties: (endpoint: number) => Uint8Array = () => new Uint8Array()
  /** What a test wants done with a request instead. */
  misbehave: (request: HandRequest) => Answer | undefined = () => undefined
  private readonly memory: GuestMemory
  private readonly deviceId: number
  private readonly words = [0, 0, 0, 0]
  private readonly select = { device: 0, driver: 0, queue: 0 }

  constructor(memory: GuestMemory, options: HandOptions = {}) {
    const { pageSizeMask = 0xffff_ffff_ffff_f000n, input = [0n, 2n ** 48n - 1n], domains = [0, 0xffff_ffff] } = options
    this.memory = memory
    this.deviceId = options.deviceId ?? 23
    this.offered = FeatureSet.of(32, ...(options.features ?? ALL_FEATURES))
    this.queueMax = options.queueMax ?? [512, 64]
    const config = new DataView(new ArrayBuffer(40))
    config.setBigUint64(0, pageSizeMask, true)
    config.setBigUint64(8, input[0], true)
    config.setBigUint64(16, input[1], true)
    config.setUint32(24, domains[0], true)
    config.setUint32(28, domains[1], true)
    config.setUint32(32, options.probeSize ?? 512, true)
    config.setUint8(36, options.bypass ?? 1)
    this.config = new DataView(config.buffer, 0, options.configBytes ?? 40)
  }

  get accepted(): FeatureSet {
    return FeatureSet.fromWords(this.words)
  }

  read(offset: number, size: 1 | 2 | 4): number {
    if (offset >= 0x100) {
      const at = offset - 0x100
      return size === 1
        ? this.config.getUint8(at)
        : size === 2
          ? this.config.getUint16(at, true)
          : this.config.getUint32(at, true)
    }
    const registers: Record<number, number> = {
      0: 0x7472_6976,
      4: 2,
      8: this.deviceId,
      16: this.offered.word(this.select.device),
      52: this.queueMax[this.select.queue] ?? 0,
      68: this.queues[this.select.queue]?.ready ?? 0,
      112: this.status,
    }
    return registers[offset] ?? 0
  }

  write(offset: number, _size: 1 | 2 | 4, value: number): void {
    this.writes.push([offset, value])
    const queue = this.queues[this.select.queue] ?? fresh()
    const low = (old: number): number => Math.floor(old / 2 ** 32) * 2 ** 32 + value
    const high = (old: number): number => value * 2 ** 32 + (old % 2 ** 32)
    if (offset === 0x14) this.select.device = value
    else if (offset === 0x24) this.select.driver = value
    else if (offset === 0x20) this.words[this.select.driver] = value
    else if (offset === 0x30) this.select.queue = value
    else if (offset === 0x38) queue.size = value
    else if (offset === 0x44) queue.ready = value
    else if (offset === 0x50) this.notifications += (value & 0xffff) === 0 ? 1 : 0
    else if (offset === 0x70) this.setStatus(value)
    else if (offset === 0x80) queue.descriptor = low(queue.descriptor)
    else if (offset === 0x84) queue.descriptor = high(queue.descriptor)
    else if (offset === 0x90) queue.driver = low(queue.driver)
    else if (offset === 0x94) queue.driver = high(queue.driver)
    else if (offset === 0xa0) queue.device = low(queue.device)
    else if (offset === 0xa4) queue.device = high(queue.device)
    else if (offset === 0x100 + 36 && !this.stubborn) this.config.setUint8(36, value)
  }

  /** Answers what was made available in the request queue. */
  pump(): void {
    if (this.silent || this.queues[0].ready === 0) return
    const arrived = this.take(0)
    if (this.reversed) arrived.reverse()
    for (const request of arrived) this.answer(request)
  }

  /** Writes a fault report into the next buffer of the event queue. False where there is none. */
  report(bytes: Uint8Array, length = bytes.length, id?: number): boolean {
    const [buffer] = this.take(1, 1)
    if (buffer === undefined) return false
    this.bytes(buffer.segments[0].address, bytes.length).set(bytes)
    this.use(1, id ?? buffer.id, length)
    return true
  }

  /** Buffers that wait in the event queue. */
  get posted(): number {
    const queue = this.queues[1]
    return (this.view(queue.driver, 4).getUint16(2, true) - queue.taken) & 0xffff
  }

  /** Puts an element into a used ring. */
  use(index: number, id: number, length: number): void {
    const queue = this.queues[index]
    const ring = this.view(queue.device, 6 + 8 * queue.size)
    ring.setUint32(4 + 8 * (queue.used % queue.size), id, true)
    ring.setUint32(8 + 8 * (queue.used % queue.size), length, true)
    queue.used = (queue.used + 1) & 0xffff
    ring.setUint16(2, queue.used, true)
  }

  /** Moves a used index with nothing to show for it. */
  jump(index: number, by: number): void {
    const queue = this.queues[index]
    queue.used = (queue.used + by) & 0xffff
    this.view(queue.device, 4).setUint16(2, queue.used, true)
  }

  /** Where an endpoint's access to `iova` leads, or -1. */
  translate(endpoint: number, iova: number): number {
    const domain = this.attached.get(endpoint)
    const hit = this.mapped.get(domain ?? -1)?.find(({ start, end }) => iova >= start && iova <= end)
    return hit === undefined ? -1 : hit.phys + (iova - hit.start)
  }

  private answer(request: HandRequest): void {
    this.requests.push(request)
    const wanted = this.misbehave(request) ?? {}
    if (wanted.lost === true) return
    const status = wanted.status ?? this.perform(request)
    const target = request.segments.filter(({ writable }) => writable)
    if (wanted.unwritten !== true) {
      const reply = new Uint8Array(request.writable)
      if (request.type === T.PROBE) {
        const endpoint = new DataView(request.bytes.buffer).getUint32(4, true)
        reply.set(wanted.properties ?? this.properties(endpoint))
      }
      reply[reply.length - 4] = status
      // `reserved` of the tail: to be ignored.
      reply.fill(0xee, reply.length - 3)
      let at = 0
      for (const { address, length } of target) {
        this.bytes(address, length).set(reply.subarray(at, at + length))
        at += length
      }
    }
    this.use(0, wanted.id ?? request.id, wanted.length ?? request.writable)
  }

  private perform({ bytes, type }: HandRequest): number {
    const view = new DataView(bytes.buffer)
    const domain = type === T.PROBE ? 0 : view.getUint32(4, true)
    const address = (at: number): number => Number(view.getBigUint64(at, true))
    const maps = this.mapped.get(domain)
    if (type === T.ATTACH) {
      const before = this.attached.get(view.getUint32(8, true))
      this.attached.set(view.getUint32(8, true), domain)
      // It leaves the domain that it was in, as by DETACH.
      if (before !== undefined && ![...this.attached.values()].includes(before)) this.mapped.delete(before)
      if (maps === undefined) this.mapped.set(domain, [])
    } else if (type === T.DETACH) {
      this.attached.delete(view.getUint32(8, true))
      if (![...this.attached.values()].includes(domain)) this.mapped.delete(domain)
    } else if (type === T.MAP || type === T.UNMAP) {
      if (maps === undefined) return S.NOENT
      const [start, end] = [address(8), address(16)]
      const touched = maps.filter((mapping) => mapping.start <= end && mapping.end >= start)
      if (type === T.MAP) {
        if (touched.length > 0) return S.INVAL
        maps.push({ start, end, phys: address(24), flags: view.getUint32(32, true) })
      } else {
        if (touched.some((mapping) => mapping.start < start || mapping.end > end)) return S.RANGE
        this.mapped.set(
          domain,
          maps.filter((mapping) => !touched.includes(mapping)),
        )
      }
    }
    return S.OK
  }

  private take(index: number, most = Infinity): HandRequest[] {
    const queue = this.queues[index]
    const ring = this.view(queue.driver, 6 + 2 * queue.size)
    const available = ring.getUint16(2, true)
    const taken: HandRequest[] = []
    for (; queue.taken !== available && taken.length < most; queue.taken = (queue.taken + 1) & 0xffff)
      taken.push(this.chain(queue, ring.getUint16(4 + 2 * (queue.taken % queue.size), true)))
    return taken
  }

  private chain(queue: QueueRegisters, id: number): HandRequest {
    const segments: { address: number; length: number; writable: boolean }[] = []
    for (let i = id, more = true; more; ) {
      const d = this.view(queue.descriptor + 16 * i, 16)
      const flags = d.getUint16(12, true)
      const address = Number(d.getBigUint64(0, true))
      segments.push({ address, length: d.getUint32(8, true), writable: (flags & 2) !== 0 })
      more = (flags & 1) !== 0
      i = d.getUint16(14, true)
    }
    const bytes = Uint8Array.from(
      segments.filter(({ writable }) => !writable).flatMap(({ address, length }) => [...this.bytes(address, length)]),
    )
    const writable = segments.reduce((sum, segment) => sum + (segment.writable ? segment.length : 0), 0)
    return { bytes, type: bytes[0], writable, segments, id }
  }

  private setStatus(value: number): void {
    if (value !== 0) {
      this.status = value
    } else if (!this.stuckReset) {
      this.status = 0
      this.words.fill(0)
      this.queues = [fresh(), fresh()]
      this.attached.clear()
      this.mapped.clear()
    }
  }

  private view(address: number, length: number): DataView {
    const { region, offset } = this.memory.window(guestAddress(address), length)
    region.refresh()
    return new DataView(region.u8.buffer, offset, length)
  }

  private bytes(address: number, length: number): Uint8Array {
    const { buffer, byteOffset } = this.view(address, length)
    return new Uint8Array(buffer, byteOffset, length)
  }
}

/** Properties of a PROBE: RESV_MEM with its ends, or any others as [type, value]. */
export function properties(...list: (readonly [start: bigint, end: bigint, subtype?: number])[]): Uint8Array {
  return concat(
    ...list.map(([start, end, subtype = 0]) => {
      const view = new DataView(new ArrayBuffer(24))
      view.setUint16(0, 1, true)
      view.setUint16(2, 20, true)
      view.setUint8(4, subtype)
      view.setBigUint64(8, start, true)
      view.setBigUint64(16, end, true)
      return new Uint8Array(view.buffer)
    }),
  )
}

export const concat = (...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => [...part]))
