// The glue: functions of guestdma on the PCI bus of v86. All that an emulator has to bring along is in this file.
import { setImmediate as turn } from 'node:timers/promises'
import {
  type DeviceState,
  PciFunction,
  type PciFunctionOptions,
  type PciRange,
  type PciState,
  type VirtioDevice,
} from '@guestdma/devices'
import { GuestMemory, type RegisterBus } from '@guestdma/memory'
import type { V86Cpu } from './v86-cpu.ts'

/** v86 asks who serves an address in blocks of 128 KiB. */
const BLOCK_BITS = 17
/** Between them lies the memory of the VGA card. */
const LOW_RAM_END = 0xa_0000
const HIGH_RAM = 0xc_0000
const INTERRUPT_PIN = 0x3d
const CONFIG_BYTES = 256
/** Chains that a device takes before the next device gets its turn. */
const BUDGET = 64

/** RAM of the guest, for the ports of devices. What a device writes drops the code that v86 translated from there. */
export function memoryOf(cpu: V86Cpu): GuestMemory {
  const at = cpu.mem8.byteOffset
  const memory = cpu.wasm_memory
  return new GuestMemory(
    [
      { base: 0, length: LOW_RAM_END, memory, offset: at },
      { base: HIGH_RAM, length: cpu.memory_size[0] - HIGH_RAM, memory, offset: at + HIGH_RAM },
    ],
    { onDeviceWrite: (address, length) => cpu.jit_dirty_cache(address, address + length) },
  )
}

/** The state of each function, in the order in which they were added. */
export type PciHostState = readonly { readonly device: DeviceState; readonly pci: PciState }[]

/** A BAR that is decoded. */
interface Span {
  readonly low: number
  readonly high: number
  readonly bus: RegisterBus
}

const NOWHERE: Span = { low: 1, high: 0, bus: { read: () => 0, write: () => {} } }

/** Puts functions on the bus of one v86, and polls their devices. */
export class PciHost {
  /** Called before each round of polls. */
  beforePoll: (() => void) | null = null
  private readonly cpu: V86Cpu
  private readonly functions = new Map<number, PciFunction>()
  private readonly asserted = new Set<number>()
  private readonly taken = new Set<number>()
  private spans: Span[] = []
  private last = NOWHERE
  private due = false

  constructor(cpu: V86Cpu) {
    this.cpu = cpu
    const { pci } = cpu.devices
    const query = pci.pci_query
    pci.pci_query = () => {
      const found = this.functions.get((pci.pci_addr[2] << 8) | pci.pci_addr[1])
      if (found === undefined) return query.call(pci)
      pci.pci_status32[0] = 0x8000_0000
      pci.pci_response32[0] = found.config.read(pci.pci_addr[0] & 0xfc, 4)
    }
    for (const size of [1, 2, 4] as const) {
      const name = `pci_write${(8 * size) as 8 | 16 | 32}` as const
      const write = pci[name]
      pci[name] = (address, value) => {
        const found = this.functions.get((address >>> 8) & 0xffff)
        if (found === undefined) write.call(pci, address, value)
        else found.config.write(address & 0xff, size, value >>> 0)
      }
    }
    // v86 cuts a store of 16 bits into two of 8, and a doorbell has to come in one piece.
    const write16 = cpu.mmap_write16
    cpu.mmap_write16 = (address, value) => {
      if (!this.write(address >>> 0, 2, value & 0xffff)) write16.call(cpu, address, value)
    }
    const reboot = cpu.reboot_internal
    cpu.reboot_internal = () => {
      for (const found of this.functions.values()) found.reset()
      reboot.call(cpu)
    }
  }

  /** Puts a device into a slot of bus 0, from 1 to 31. v86 itself uses some of the first ten. */
  add(device: VirtioDevice, slot: number, options: PciFunctionOptions = {}): PciFunction {
    const id = slot << 3
    const { pci } = this.cpu.devices
    const added = new PciFunction(device, {
      // v86 has no local APIC that a message could go to.
      msixVectors: 0,
      ...options,
      interrupts: { level: (up) => this.level(id, up) },
      onWindows: () => {
        this.decode()
        options.onWindows?.()
      },
    })
    device.onWork = () => this.schedule()
    this.functions.set(id, added)
    // v86 wants to know that the function is there, and asks this copy for its interrupt pin.
    const space = new Array<number>(CONFIG_BYTES).fill(0)
    space[INTERRUPT_PIN] = added.config.read(INTERRUPT_PIN, 1)
    pci.register_device({ name: device.name, pci_id: id, pci_space: space, pci_bars: [] })
    return added
  }

  /** Runs the devices until none has anything to do. */
  poll(): void {
    for (let busy = true; busy; ) {
      this.due = busy = false
      this.beforePoll?.()
      for (const { device } of this.functions.values()) if (device.poll(BUDGET) > 0) busy = true
    }
  }

  /** For a machine that stands still: the state of its functions once what they have in flight has come back. */
  async save(): Promise<PciHostState> {
    const functions = [...this.functions.values()]
    while (functions.some(({ device }) => device.inFlight > 0)) {
      for (const { device } of functions) device.poll(0)
      await turn()
    }
    return functions.map((one) => ({ device: one.device.save(), pci: one.save() }))
  }

  /** After v86's own state was restored, with the same functions added. */
  restore(state: PciHostState): void {
    const functions = [...this.functions.values()]
    functions.forEach((one, i) => {
      // Where a port follows a BAR, the device needs it before its rings are looked for.
      one.restoreConfig(state[i].pci)
      one.device.restore(state[i].device)
      one.restore(state[i].pci)
    })
  }

  // A doorbell rings within an instruction of the guest, and no interrupt may be raised there.
  private schedule(): void {
    if (this.due) return
    this.due = true
    setImmediate(() => {
      if (this.due) this.poll()
    })
  }

  // Functions share lines, and v86 keeps one level for a line: what another function asserts stays up.
  private level(id: number, up: boolean): void {
    const { pci } = this.cpu.devices
    if (up) {
      this.asserted.add(id)
      pci.raise_irq(id)
      return
    }
    this.asserted.delete(id)
    pci.lower_irq(id)
    for (const one of this.asserted) pci.raise_irq(one)
  }

  private decode(): void {
    this.spans = []
    this.last = NOWHERE
    for (const one of this.functions.values()) {
      for (let index = 0; index < 6; index++) {
        const { address, size, kind, enabled } = one.range(index) ?? NO_RANGE
        const bus = one.bar(index)
        if (!enabled || kind !== 'memory' || bus === null) continue
        this.spans.push({ low: address, high: address + size, bus })
        for (let at = address; at < address + size; at += 1 << BLOCK_BITS) this.take(at >>> BLOCK_BITS)
      }
    }
  }

  // From now on accesses to a block are asked here first; whoever served it before gets what is no BAR of ours.
  private take(block: number): void {
    if (this.taken.has(block)) return
    this.taken.add(block)
    const { cpu } = this
    const [read8, write8] = [cpu.memory_map_read8[block], cpu.memory_map_write8[block]]
    const [read32, write32] = [cpu.memory_map_read32[block], cpu.memory_map_write32[block]]
    cpu.io.mmap_register(
      (block << BLOCK_BITS) | 0,
      1 << BLOCK_BITS,
      (address) => this.read(address >>> 0, 1) ?? read8(address),
      (address, value) => {
        if (!this.write(address >>> 0, 1, value & 0xff)) write8(address, value)
      },
      (address) => this.read(address >>> 0, 4) ?? read32(address),
      (address, value) => {
        if (!this.write(address >>> 0, 4, value >>> 0)) write32(address, value)
      },
    )
  }

  private read(address: number, size: 1 | 4): number | undefined {
    const span = this.find(address)
    return span === null ? undefined : span.bus.read(address - span.low, size) | 0
  }

  private write(address: number, size: 1 | 2 | 4, value: number): boolean {
    const span = this.find(address)
    span?.bus.write(address - span.low, size, value)
    return span !== null
  }

  private find(address: number): Span | null {
    if (address >= this.last.low && address < this.last.high) return this.last
    for (const span of this.spans) {
      if (address < span.low || address >= span.high) continue
      this.last = span
      return span
    }
    return null
  }
}

const NO_RANGE: PciRange = { address: 0, size: 0, kind: 'memory', enabled: false }
