// The emulator: RAM, a bus, an interrupt controller, a console, two virtio devices, and the loop that runs all of it.
import {
  BlkDevice,
  type DeviceFault,
  everything,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  type VirtioDevice,
} from '@guestdma/devices'
import { GuestMemory, guestAddress, type RegisterBus } from '@guestdma/memory'
import { Cpu, type CpuBus } from './cpu.ts'
import { InterruptController } from './interrupt-controller.ts'
import { BLK, CONSOLE, INTERRUPTS, NET, RAM, RAM_BYTES } from './memory-map.ts'

const REGISTER_BYTES = 0x1000
// RAM does not begin at byte 0 of its buffer, so a device that confused the two would not get far.
const RAM_OFFSET = 0x1_0000
const CPU_SLICE = 1000
const DEVICE_BUDGET = 64
const MOST_TURNS = 100_000

const MAC: readonly number[] = [0x52, 0x54, 0x00, 0xca, 0xfe, 0x01]

/** What happened on the bus, for the reader of the log. */
export interface Counters {
  instructions: number
  registerAccesses: number
  interrupts: number
  devicePolls: number
}

export class Machine implements CpuBus {
  readonly disk: Uint8Array<ArrayBuffer> = new Uint8Array(64 * 512)
  readonly blocks: MemoryBlockStore = new MemoryBlockStore(this.disk)
  readonly link: LoopbackLink = new LoopbackLink()
  readonly blk: BlkDevice
  readonly net: NetDevice
  readonly memory: GuestMemory
  readonly cpu: Cpu
  readonly counters: Counters = { instructions: 0, registerAccesses: 0, interrupts: 0, devicePolls: 0 }

  private readonly ram: WebAssembly.Memory
  private view: DataView
  private readonly interrupts = new InterruptController()
  private readonly registers: readonly (readonly [base: number, bus: RegisterBus])[]
  private readonly devices: readonly VirtioDevice[]
  private number = 0

  constructor(firmware: Uint8Array, say: (line: string) => void) {
    this.ram = new WebAssembly.Memory({ initial: (RAM_OFFSET + RAM_BYTES) / 65536 })
    this.view = new DataView(this.ram.buffer)
    this.memory = new GuestMemory([{ base: RAM, length: RAM_BYTES, memory: this.ram, offset: RAM_OFFSET }])
    this.memory.write(guestAddress(RAM), firmware)
    this.cpu = new Cpu(this, RAM, () => this.interrupts.pending)

    // Everything of guestdma that an emulator needs: a port per device, the device, its registers.
    this.blk = new BlkDevice({
      name: 'disk',
      port: everything(this.memory),
      store: this.blocks,
      id: 'native-guest disk',
    })
    this.net = new NetDevice({ name: 'net', port: everything(this.memory), mac: MAC, link: this.link })
    this.devices = [this.blk, this.net]
    this.registers = [
      [BLK, new MmioRegisters(this.blk, { interrupts: this.interrupts.line(0) })],
      [NET, new MmioRegisters(this.net, { interrupts: this.interrupts.line(1) })],
      [INTERRUPTS, this.interrupts],
      [CONSOLE, this.console(say)],
    ]
  }

  /** The emulator's own loop: some instructions, then the devices. Returns the firmware's exit code. */
  run(): number {
    const { counters, cpu } = this
    for (let turn = 0; cpu.state !== 'halted'; turn++) {
      if (turn === MOST_TURNS) throw new Error('the guest never ends')
      const executed = cpu.run(CPU_SLICE)
      let worked = 0
      for (const device of this.devices) worked += device.poll(DEVICE_BUDGET)
      counters.devicePolls++
      if (executed === 0 && worked === 0 && !this.interrupts.pending)
        throw new Error('the guest waits for an interrupt that never comes')
    }
    counters.instructions = cpu.executed
    counters.interrupts = this.interrupts.rises
    return cpu.exitCode
  }

  /** Everything that the devices held against their driver. */
  faults(): DeviceFault[] {
    return this.devices.flatMap((device) => device.faults.last())
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

  private find(address: number): readonly [base: number, bus: RegisterBus] {
    const found = this.registers.find(([base]) => address >= base && address < base + REGISTER_BYTES)
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
