// The emulator: RAM, a bus, an interrupt controller, a console, two virtio devices, and the loop that runs all of it.
import {
  BlkDevice,
  type DeviceFault,
  type DeviceState,
  everything,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  type MmioState,
  NetDevice,
} from '@guestdma/devices'
import { GuestMemory, guestAddress, type RegisterBus } from '@guestdma/memory'
import { Cpu, type CpuBus, type CpuState } from './cpu.ts'
import { InterruptController } from './interrupt-controller.ts'
import { LateStore } from './late-store.ts'
import { BLK, CONSOLE, INTERRUPTS, NET, RAM, RAM_BYTES } from './memory-map.ts'

const REGISTER_BYTES = 0x1000
const PAGE_BYTES = 0x1000
// RAM does not begin at byte 0 of its buffer, so a device that confused the two would not get far.
const RAM_OFFSET = 0x1_0000
const CPU_SLICE = 1000
const DEVICE_BUDGET = 64

const MAC: readonly number[] = [0x52, 0x54, 0x00, 0xca, 0xfe, 0x01]

/** Everything that a machine has to keep, as plain data: it can be cloned, sent to another thread or written to a file. */
export interface MachineState {
  readonly cpu: CpuState
  readonly ram: Uint8Array<ArrayBuffer>
  readonly devices: readonly { readonly device: DeviceState; readonly registers: MmioState }[]
}

export class Machine implements CpuBus {
  readonly disk: Uint8Array<ArrayBuffer>
  readonly blk: BlkDevice
  readonly net: NetDevice
  readonly memory: GuestMemory
  readonly cpu: Cpu
  /** Pages that devices wrote: what a migration has to send again, and a JIT to translate again. */
  readonly written = new Set<number>()
  /** What happened, for the reader of the log. */
  readonly counters = { registerAccesses: 0, polls: 0, sleeps: 0 }

  private readonly firmware: Uint8Array
  private readonly view: DataView
  private readonly interrupts = new InterruptController()
  private readonly registers: readonly MmioRegisters[]
  private readonly bus: readonly (readonly [base: number, bus: RegisterBus])[]
  private number = 0
  // A device has something to do, and whoever sleeps until then.
  private due = true
  private wakeUp: (() => void) | null = null

  constructor(firmware: Uint8Array, disk: Uint8Array<ArrayBuffer>, say: (line: string) => void) {
    this.firmware = firmware
    this.disk = disk
    const ram = new WebAssembly.Memory({ initial: (RAM_OFFSET + RAM_BYTES) / 65536 })
    this.view = new DataView(ram.buffer)
    this.memory = new GuestMemory([{ base: RAM, length: RAM_BYTES, memory: ram, offset: RAM_OFFSET }], {
      onDeviceWrite: (address, length) => {
        const first = address - (address % PAGE_BYTES)
        for (let page = first; page < address + length; page += PAGE_BYTES) this.written.add(page)
      },
    })
    this.memory.write(guestAddress(RAM), firmware)
    this.cpu = new Cpu(this, RAM, () => this.interrupts.pending)

    // Everything of guestdma that an emulator needs: a port per device, the device, its registers.
    const onWork = (): void => this.wake()
    const store = new LateStore(new MemoryBlockStore(disk))
    this.blk = new BlkDevice({ name: 'disk', port: everything(this.memory), onWork, store, id: 'native-guest disk' })
    const link = new LoopbackLink()
    this.net = new NetDevice({ name: 'net', port: everything(this.memory), onWork, mac: MAC, link })
    this.registers = [this.blk, this.net].map(
      (device, line) => new MmioRegisters(device, { interrupts: this.interrupts.line(line) }),
    )
    this.bus = [
      [BLK, this.registers[0]],
      [NET, this.registers[1]],
      [INTERRUPTS, this.interrupts],
      [CONSOLE, this.console(say)],
    ]
  }

  /**
   * The emulator's own loop: some instructions, then the devices that are due. Where the guest waits for an interrupt and
   * no device is due, it sleeps. Ends when the guest halts, or when `until` says so.
   */
  async run(until: () => boolean = () => false): Promise<void> {
    const { cpu, counters } = this
    while (cpu.state !== 'halted' && !until()) {
      cpu.run(CPU_SLICE)
      if (this.due) {
        counters.polls++
        this.poll(DEVICE_BUDGET)
      } else if (cpu.state === 'waiting' && !this.interrupts.pending) {
        counters.sleeps++
        await this.sleep()
      }
    }
  }

  /** The whole machine but its disk. A device with requests at its store cannot be saved, so these are waited for. */
  async save(): Promise<MachineState> {
    while (this.blk.inFlight > 0 || this.net.inFlight > 0) {
      await this.sleep()
      // Completes what was answered, and takes nothing new.
      this.poll(0)
    }
    // What the guest asked for meanwhile is still to be done, here or where the state is restored.
    this.due = true
    return {
      cpu: this.cpu.save(),
      ram: this.memory.read(guestAddress(RAM), RAM_BYTES),
      devices: this.registers.map((registers) => ({ device: registers.device.save(), registers: registers.save() })),
    }
  }

  /** Puts this machine where another one was saved: memory first, then each device, then its registers. */
  restore(state: MachineState): void {
    this.memory.write(guestAddress(RAM), state.ram)
    this.cpu.restore(state.cpu)
    // Nobody saves interrupt lines: each register file sets its own right at the next poll.
    this.registers.forEach((registers, i) => {
      registers.device.restore(state.devices[i].device)
      registers.restore(state.devices[i].registers)
    })
  }

  /** The reset button: devices, RAM and CPU are as they were at first. The disk keeps its sectors. */
  reset(): void {
    for (const registers of this.registers) registers.reset()
    this.memory.write(guestAddress(RAM), new Uint8Array(RAM_BYTES))
    this.memory.write(guestAddress(RAM), this.firmware)
    this.cpu.reset()
  }

  /** Everything that the devices held against their driver. */
  faults(): DeviceFault[] {
    return [this.blk, this.net].flatMap((device) => device.faults.last())
  }

  load(address: number, size: 1 | 2 | 4): number {
    const at = address - RAM
    if (at >= 0 && at + size <= RAM_BYTES) {
      if (size === 1) return this.view.getUint8(RAM_OFFSET + at)
      return size === 2 ? this.view.getUint16(RAM_OFFSET + at, true) : this.view.getUint32(RAM_OFFSET + at, true)
    }
    const [base, bus] = this.find(address)
    return bus.read(address - base, size)
  }

  store(address: number, size: 1 | 2 | 4, value: number): void {
    const at = address - RAM
    if (at >= 0 && at + size <= RAM_BYTES) {
      if (size === 1) this.view.setUint8(RAM_OFFSET + at, value)
      else if (size === 2) this.view.setUint16(RAM_OFFSET + at, value, true)
      else this.view.setUint32(RAM_OFFSET + at, value, true)
      return
    }
    const [base, bus] = this.find(address)
    bus.write(address - base, size, value)
  }

  // A device calls this from within a register write, a store's answer or a poll: it only takes note.
  private wake(): void {
    this.due = true
    this.wakeUp?.()
    this.wakeUp = null
  }

  // With nothing left that could wake it, Node would end here with exit code 13.
  private async sleep(): Promise<void> {
    if (!this.due) await new Promise<void>((resolve) => (this.wakeUp = resolve))
  }

  // The note is taken back before the polls: what becomes due within them is not lost.
  private poll(budget: number): void {
    this.due = false
    for (const device of [this.blk, this.net]) if (device.poll(budget) > 0) this.due = true
  }

  private find(address: number): readonly [base: number, bus: RegisterBus] {
    const found = this.bus.find(([base]) => address >= base && address < base + REGISTER_BYTES)
    if (found === undefined) throw new Error(`bus error: nothing at 0x${address.toString(16)}`)
    this.counters.registerAccesses++
    return found
  }

  // Register 0: prints the NUL-terminated string at the address written. Register 4: the number that `#` in it stands
  // for.
  private console(say: (line: string) => void): RegisterBus {
    return {
      read: () => 0,
      write: (offset, _size, value) => {
        if (offset === 4) {
          this.number = value
          return
        }
        let text = ''
        for (let at = value; this.load(at, 1) !== 0; at++) text += String.fromCharCode(this.load(at, 1))
        say(text.replace('#', `0x${this.number.toString(16)}`))
      },
    }
  }
}
