import { fileURLToPath } from 'node:url'
import { BlkDevice, everything, MemoryBlockStore, type PciFunction } from '@guestdma/devices'
import { V86 } from 'v86'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { memoryOf, PciHost } from '../src/pci-host.ts'
import { checkedCpu, type V86Cpu } from '../src/v86-cpu.ts'

const ADDRESS_PORT = 0xcf8
const DATA_PORT = 0xcfc
const COMMAND = 0x04
const BAR0 = 0x10
const MEMORY = 2
const BUS_MASTER = 4
const BASE = 0xe000_0000

/** What a program in the guest would do, by v86's own ports and memory. */
interface Bus extends V86Cpu {
  readonly io: V86Cpu['io'] & {
    port_write32(port: number, value: number): void
    port_read32(port: number): number
    port_write16(port: number, value: number): void
  }
}

describe('functions on the bus of a real v86', () => {
  let emulator: V86
  let cpu: Bus
  let host: PciHost
  let disks: { readonly device: BlkDevice; readonly pci: PciFunction }[]
  let lines: string[]

  beforeEach(async () => {
    emulator = new V86({
      wasm_path: fileURLToPath(new URL('v86.wasm', import.meta.resolve('v86'))),
      memory_size: 16 << 20,
      autostart: false,
      disable_speaker: true,
      net_device: { type: 'none' } as object,
    })
    await new Promise<void>((resolve) => emulator.add_listener('emulator-loaded', () => resolve()))
    cpu = checkedCpu((emulator as unknown as { v86: { cpu: unknown } }).v86.cpu) as Bus
    host = new PciHost(cpu)
    lines = []
    const { pci } = cpu.devices
    pci.raise_irq = (id) => void lines.push(`up ${id >> 3}`)
    pci.lower_irq = (id) => void lines.push(`down ${id >> 3}`)
    disks = [13, 14].map((slot) => {
      const store = new MemoryBlockStore(new Uint8Array(512))
      const device = new BlkDevice({ name: `disk${slot}`, port: everything(memoryOf(cpu)), store })
      return { device, pci: host.add(device, slot) }
    })
  })

  afterEach(() => emulator.destroy())

  const select = (slot: number, register: number): void =>
    cpu.io.port_write32(ADDRESS_PORT, (0x8000_0000 | (slot << 11) | register) >>> 0)
  const config = (slot: number, register: number): number => {
    select(slot, register)
    return cpu.io.port_read32(DATA_PORT) >>> 0
  }
  const place = (slot: number, address: number): void => {
    select(slot, BAR0)
    cpu.io.port_write32(DATA_PORT, address)
    select(slot, COMMAND)
    cpu.io.port_write16(DATA_PORT, MEMORY | BUS_MASTER)
  }
  const block = (address: number): number => address >>> 17
  const read8 = (address: number): number => cpu.memory_map_read8[block(address)](address | 0)
  const read32 = (address: number): number => cpu.memory_map_read32[block(address)](address | 0) >>> 0

  test('configuration space is the function’s; v86’s own functions keep theirs', () => {
    expect([config(13, 0), config(14, 0)]).toEqual([0x1042_1af4, 0x1042_1af4])
    expect(config(0, 0) & 0xffff).toBe(0x8086)
    expect(config(15, 0)).toBe(0xffff_ffff)
  })

  test('registers answer where the guest put the BAR, follow it when it moves, and leave their neighbours alone', () => {
    place(13, BASE)
    place(14, BASE + 0x4000)
    // num_queues has 16 bits, which v86 reads as two of 8.
    expect([read8(BASE + 0x12), read8(BASE + 0x13)]).toEqual([1, 0])
    expect(read8(BASE + 0x4012)).toBe(1)
    // Behind both is nothing, as before.
    expect(read32(BASE + 0x1_0000)).toBe(0xffff_ffff)
    place(13, BASE + 0x10_0000)
    expect([read8(BASE + 0x12), read8(BASE + 0x10_0012)]).toEqual([0xff, 1])
    expect(disks.flatMap(({ device }) => device.faults.last())).toEqual([])
  })

  test('a store of 16 bits reaches the register in one piece', () => {
    place(13, BASE)
    cpu.mmap_write16((BASE + 0x16) | 0, 7)
    expect(disks[0].pci.bar(0)?.read(0x16, 2)).toBe(7)
    expect(disks[0].device.faults.count).toBe(0)
  })

  test('a line that two functions share stays up while one of them asserts it', () => {
    place(13, BASE)
    place(14, BASE + 0x4000)
    for (const { device } of disks) {
      device.writeStatus(1 | 2)
      device.writeDriverFeatures(1, 1)
      device.writeStatus(1 | 2 | 8)
      device.writeStatus(1 | 2 | 8 | 4)
      device.needsReset('a test')
    }
    host.poll()
    expect(lines).toEqual(['up 13', 'up 14'])
    // A read of ISR status lowers what was up.
    expect(read8(BASE + 0x1000)).toBe(2)
    expect(lines.slice(2)).toEqual(['down 13', 'up 14'])
  })

  test('a reset of the machine resets its functions', () => {
    place(13, BASE)
    disks[0].device.writeStatus(1 | 2)
    cpu.reboot_internal()
    expect([disks[0].device.status, config(13, BAR0) & ~0xf, read8(BASE + 0x12)]).toEqual([0, 0, 0xff])
  })

  test('what a device writes into RAM drops the code that was translated from there', () => {
    const dropped: number[][] = []
    cpu.jit_dirty_cache = (from, to) => void dropped.push([from, to])
    const { region, offset } = memoryOf(cpu).ranges[1]
    region.onDeviceWrite?.(offset + 0x4_0000, 64)
    expect(dropped).toEqual([[0x10_0000, 0x10_0040]])
  })
})

test('a v86 without what the glue needs is refused by name', () => {
  expect(() => checkedCpu({ devices: { pci: {} } })).toThrow('this v86 has no method cpu.devices.pci.pci_query')
})
