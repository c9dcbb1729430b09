import { NET_HEADER_SIZE } from '@guestdma/spec'
import {
  BlkDevice,
  type BlkDeviceOptions,
  eachFrame,
  everything,
  type Frames,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  type NetDeviceOptions,
  type NetLink,
  PciFunction,
  type PciFunctionOptions,
  type VirtioDevice,
} from '../../src/index.ts'
import { Driver, type Element, type GuestDriver, Line, Ram, Ring } from './guest.ts'
import { PciDriver } from './pci.ts'

/** What the tests of device types run over. */
export const TRANSPORTS = ['mmio', 'pci'] as const
export type TransportName = (typeof TRANSPORTS)[number]

/** Puts a transport in front of a device and a driver in front of that. */
export function driverOf(device: VirtioDevice, transport: TransportName, line: Line): GuestDriver {
  if (transport === 'mmio') return new Driver(new MmioRegisters(device, { interrupts: line }))
  return new PciDriver(new PciFunction(device, { interrupts: line }))
}

export const MAC = [0x52, 0x54, 0, 1, 2, 3]
export const DISK_BYTES = 64 * 512

/** A network device with its driver's parts, not yet initialised, over any transport. */
export interface AnyNetMachine {
  readonly ram: Ram
  readonly device: NetDevice
  readonly driver: GuestDriver
  readonly line: Line
  readonly rx: Ring
  readonly tx: Ring
}

/** The same over mmio. */
export interface NetMachine extends AnyNetMachine {
  readonly registers: MmioRegisters
  readonly driver: Driver
}

export function netMachineOver(
  transport: TransportName,
  options: Partial<NetDeviceOptions> = {},
  size = 8,
  ram: Ram = new Ram(),
): AnyNetMachine {
  const device = new NetDevice({ name: 'net0', port: everything(ram.memory), mac: MAC, ...options })
  const line = new Line()
  const driver = driverOf(device, transport, line)
  return { ram, device, driver, line, rx: new Ring(ram, size), tx: new Ring(ram, size) }
}

export function netMachine(options: Partial<NetDeviceOptions> = {}, size = 8, ram: Ram = new Ram()): NetMachine {
  const machine = netMachineOver('mmio', options, size, ram)
  const driver = machine.driver as Driver
  return { ...machine, driver, registers: driver.bus as MmioRegisters }
}

/** A network device over pci, with the function at hand. */
export interface PciMachine extends AnyNetMachine {
  readonly pci: PciFunction
  readonly driver: PciDriver
}

export function pciMachine(pciOptions: PciFunctionOptions = {}, options: Partial<NetDeviceOptions> = {}): PciMachine {
  const ram = new Ram()
  const device = new NetDevice({ name: 'net0', port: everything(ram.memory), mac: MAC, ...options })
  const line = new Line()
  const pci = new PciFunction(device, { interrupts: line, ...pciOptions })
  const driver = new PciDriver(pci)
  return { ram, device, pci, driver, line, rx: new Ring(ram, 8), tx: new Ring(ram, 8) }
}

/** A link that keeps copies of what it is given. */
export class RecordingLink implements NetLink {
  readonly frames: Uint8Array[] = []
  full = false
  private readonly keep = eachFrame((frame) => this.frames.push(frame.slice()))

  transmit(frames: Frames): number {
    return this.full ? 0 : this.keep(frames)
  }
}

/** A transmit buffer: header and frame in one element. */
export function packet(ram: Ram, frame: ArrayLike<number>, align = 16): Element {
  const address = ram.alloc(NET_HEADER_SIZE + frame.length, align)
  ram.bytes.set(frame, ram.at(address) + NET_HEADER_SIZE)
  return { address, length: NET_HEADER_SIZE + frame.length }
}

/** A block device with its driver's parts, not yet initialised, over any transport. */
export interface AnyBlkMachine {
  readonly ram: Ram
  readonly device: BlkDevice
  readonly driver: GuestDriver
  readonly line: Line
  readonly ring: Ring
  readonly disk: Uint8Array
}

/** The same over mmio. */
export interface BlkMachine extends AnyBlkMachine {
  readonly registers: MmioRegisters
  readonly driver: Driver
}

export function blkMachineOver(
  transport: TransportName,
  options: Partial<BlkDeviceOptions> = {},
  size = 8,
  ram: Ram = new Ram(),
): AnyBlkMachine {
  const disk = new Uint8Array(DISK_BYTES)
  const device = new BlkDevice({
    name: 'blk0',
    port: everything(ram.memory),
    store: new MemoryBlockStore(disk),
    ...options,
  })
  const line = new Line()
  return { ram, device, driver: driverOf(device, transport, line), line, ring: new Ring(ram, size), disk }
}

export function blkMachine(options: Partial<BlkDeviceOptions> = {}, size = 8, ram: Ram = new Ram()): BlkMachine {
  const machine = blkMachineOver('mmio', options, size, ram)
  const driver = machine.driver as Driver
  return { ...machine, driver, registers: driver.bus as MmioRegisters }
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

/** The message of what is thrown next where nobody catches it. */
export function nextUncaught(): Promise<string> {
  return new Promise((resolve) => {
    const others = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.once('uncaughtException', (error) => {
      for (const listener of others) process.on('uncaughtException', listener)
      resolve(error.message)
    })
  })
}
