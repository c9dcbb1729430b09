import {
  BusWindows,
  type EndpointOptions,
  everything,
  IommuDevice,
  type IommuDeviceOptions,
  type IommuPort,
  MmioRegisters,
} from '../../src/index.ts'
import { Driver, type Element, Line, Ram, Ring } from './guest.ts'

export const ATTACH = 1
export const DETACH = 2
export const MAP = 3
export const UNMAP = 4
const PROBE = 5

export const OK = 0
export const UNSUPP = 2
export const INVAL = 4
export const RANGE = 5
export const NOENT = 6
export const NOMEM = 8

export const READ = 1
export const WRITE = 2
export const BOTH = 3

// Feature bits: §5.13.3.
export const F_INPUT_RANGE = 0
export const F_DOMAIN_RANGE = 1
export const F_MAP_UNMAP = 2
export const F_BYPASS = 3
export const F_PROBE = 4
export const F_MMIO = 5
export const F_BYPASS_CONFIG = 6

/** A status byte that was not written, and no bytes used. */
export const NOT_WRITTEN = -1

/** A 64-bit value; a bigint where a number would be inexact. */
export type U64 = number | bigint

export interface Fault {
  readonly reason: number
  readonly flags: number
  readonly endpoint: number
  readonly address: bigint
  readonly used: number
}

/** An IOMMU and a driver made by hand, field by field as virtio 1.4 §5.13.6 has them. */
export class IommuMachine {
  readonly ram: Ram
  readonly device: IommuDevice
  readonly registers: MmioRegisters
  readonly driver: Driver
  readonly line = new Line()
  readonly requests: Ring
  readonly events: Ring
  private readonly buffers: number[] = []
  private readonly reads: number
  private readonly writes: number

  constructor(options: Partial<IommuDeviceOptions> = {}, size = 16, ram: Ram = new Ram()) {
    this.ram = ram
    this.device = new IommuDevice({ name: 'iommu0', port: everything(ram.memory), ...options })
    this.registers = new MmioRegisters(this.device, { interrupts: this.line })
    this.driver = new Driver(this.registers)
    this.requests = new Ring(ram, size)
    this.events = new Ring(ram, Math.min(size, 64))
    this.reads = ram.alloc(128, 16)
    this.writes = ram.alloc(2048, 16)
  }

  /** Negotiates all that is offered, or `features`, and sets both queues going. */
  start(features?: readonly number[]): this {
    const all = [0, 1, 2, 4, 5, 6].filter((bit) => this.driver.offered(bit))
    this.requests.index = this.requests.seen = 0
    this.events.index = this.events.seen = 0
    for (const ring of [this.requests, this.events]) {
      this.ram.bytes.fill(0, this.ram.at(ring.avail), this.ram.at(ring.used) + 6 + 8 * ring.size)
    }
    this.driver.start([this.requests, this.events], ...(features ?? all))
    return this
  }

  endpoint(id: number, options: Partial<EndpointOptions> = {}): IommuPort {
    return this.device.addEndpoint(id, { name: `ep${id}`, downstream: everything(this.ram.memory), ...options })
  }

  /** Executes raw elements; the used length. */
  raw(...elements: readonly Element[]): number {
    this.requests.offer(this.requests.chain(...elements))
    this.driver.kick(0)
    this.device.poll(64)
    const used = this.requests.reap()
    if (used.length !== 1) throw new Error(`${used.length} used elements`)
    return used[0].length
  }

  /** Executes a request of these bytes and returns its status. */
  request(bytes: Uint8Array, writable = 4): number {
    const { ram } = this
    ram.bytes.set(bytes, ram.at(this.reads))
    ram.bytes.fill(0xee, ram.at(this.writes), ram.at(this.writes) + writable)
    const used = this.raw(
      { address: this.reads, length: bytes.length },
      { address: this.writes, length: writable, w: true },
    )
    const answer = ram.get(this.writes, writable)
    if (used === 0) {
      if (answer.some((byte) => byte !== 0xee)) throw new Error('written, though used with length 0')
      return NOT_WRITTEN
    }
    if (used !== writable) throw new Error(`used length ${used} of ${writable}`)
    const tail = answer.subarray(writable - 4)
    if (tail[1] !== 0 || tail[2] !== 0 || tail[3] !== 0) throw new Error('the reserved bytes of the tail are not zero')
    return tail[0]
  }

  /** What the device wrote before the tail of the last request. */
  written(length: number): Uint8Array {
    return this.ram.get(this.writes, length)
  }

  attach(domain: number, endpoint: number, flags = 0, reserved = 0): number {
    return this.request(pack(ATTACH, [domain, endpoint, flags, reserved]))
  }

  detach(domain: number, endpoint: number, reserved = 0): number {
    return this.request(pack(DETACH, [domain, endpoint, reserved, reserved]))
  }

  map(domain: number, start: U64, end: U64, phys: U64, flags: number = BOTH): number {
    return this.request(pack(MAP, [domain, ...halves(start), ...halves(end), ...halves(phys), flags]))
  }

  unmap(domain: number, start: U64, end: U64, reserved = 0): number {
    return this.request(pack(UNMAP, [domain, ...halves(start), ...halves(end), reserved]))
  }

  probe(endpoint: number, properties = 512): number {
    return this.request(pack(PROBE, [endpoint, ...new Array<number>(16).fill(0xffff_ffff)]), properties + 4)
  }

  /** Adds event buffers of these lengths. */
  buffer(...lengths: readonly number[]): void {
    for (const length of lengths) {
      const address = this.ram.put(new Uint8Array(length).fill(0xee), 8)
      const head = this.events.chain({ address, length, w: true })
      this.buffers[head] = address
      this.events.offer(head)
    }
    this.driver.kick(1)
  }

  /** Polls, and reads what was reported. */
  faults(): Fault[] {
    this.device.poll(64)
    return this.events.reap().map(({ id, length: used }) => {
      const at = this.ram.at(this.buffers[id])
      const { view } = this.ram
      return {
        reason: view.getUint32(at, true),
        flags: view.getUint32(at + 4, true),
        endpoint: view.getUint32(at + 8, true),
        // reserved1 has to be zero: it would show here.
        address: view.getBigUint64(at + 16, true) + (BigInt(view.getUint32(at + 12, true)) << 64n),
        used,
      }
    })
  }
}

/** A head of this type, then words. */
export function pack(type: number, words: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 + 4 * words.length)
  const view = new DataView(bytes.buffer)
  bytes[0] = type
  words.forEach((word, i) => {
    view.setUint32(4 + 4 * i, word, true)
  })
  return bytes
}

export function halves(value: U64): [number, number] {
  const whole = BigInt(value)
  return [Number(whole & 0xffff_ffffn), Number(whole >> 32n)]
}

/** What a port says of an access: granted bytes and the guest address where they begin, or null. */
export function access(
  port: IommuPort,
  ram: Ram,
  address: number,
  length: number,
  kind: 1 | 2,
): [number, number] | null {
  port.request[0] = address
  const granted = port.resolve(length, kind)
  if (granted === 0) return null
  const { base, offset } = ram.memory.ranges[0]
  return [granted, port.offset - offset + base]
}

/** A second stage of these pages of a RAM: [base, length, access]. */
export function pages(ram: Ram, ...windows: readonly (readonly [number, number, (1 | 2 | 3)?])[]): BusWindows {
  const { base, offset, region } = ram.memory.ranges[0]
  return new BusWindows(
    'second stage',
    windows.map(([at, length, access = 3]) => ({ base: at, length, region, offset: at - base + offset, access })),
  )
}
