import { NET_HEADER_SIZE } from '@guestdma/spec'
import {
  BlkDevice,
  type BlkOptions,
  everything,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  type NetLink,
  type NetOptions,
} from '../../src/index.ts'
import { Driver, type Element, Line, Ram, Ring } from './guest.ts'

export const MAC = [0x52, 0x54, 0, 1, 2, 3]
export const DISK_BYTES = 64 * 512

/** A network device with its driver's parts, not yet initialised. */
export interface NetMachine {
  readonly ram: Ram
  readonly device: NetDevice
  readonly registers: MmioRegisters
  readonly driver: Driver
  readonly line: Line
  readonly rx: Ring
  readonly tx: Ring
}

export function netMachine(options: Partial<NetOptions> = {}, size = 8, ram: Ram = new Ram()): NetMachine {
  const device = new NetDevice({ name: 'net0', port: everything(ram.memory), mac: MAC, ...options })
  const line = new Line()
  const registers = new MmioRegisters(device, { interrupts: line })
  return {
    ram,
    device,
    registers,
    driver: new Driver(registers),
    line,
    rx: new Ring(ram, size),
    tx: new Ring(ram, size),
  }
}

/** A link that keeps copies of what it is given. */
export class RecordingLink implements NetLink {
  readonly frames: Uint8Array[] = []
  full = false

  transmit(frame: Uint8Array<ArrayBuffer>): void {
    this.frames.push(frame.slice())
  }
}

/** A transmit buffer: header and frame in one element. */
export function packet(ram: Ram, frame: ArrayLike<number>, align = 16): Element {
  const address = ram.alloc(NET_HEADER_SIZE + frame.length, align)
  ram.bytes.set(frame, ram.at(address) + NET_HEADER_SIZE)
  return { address, length: NET_HEADER_SIZE + frame.length }
}

export interface BlkMachine {
  readonly ram: Ram
  readonly device: BlkDevice
  readonly registers: MmioRegisters
  readonly driver: Driver
  readonly line: Line
  readonly ring: Ring
  readonly disk: Uint8Array
}

export function blkMachine(options: Partial<BlkOptions> = {}, size = 8, ram: Ram = new Ram()): BlkMachine {
  const disk = new Uint8Array(DISK_BYTES)
  const device = new BlkDevice({
    name: 'blk0',
    port: everything(ram.memory),
    store: new MemoryBlockStore(disk),
    ...options,
  })
  const line = new Line()
  const registers = new MmioRegisters(device, { interrupts: line })
  return { ram, device, registers, driver: new Driver(registers), line, ring: new Ring(ram, size), disk }
}

/** A request header in memory. */
export function header(ram: Ram, type: number, sector = 0): Element {
  const address = ram.alloc(16, 16)
  ram.set32(address, type)
  ram.set64(address + 8, sector)
  return { address, length: 16 }
}

/** A status cell, preset to 0xff. */
export function status(ram: Ram): Element & { readonly w: true } {
  return { address: ram.put([0xff], 1), length: 1, w: true }
}
