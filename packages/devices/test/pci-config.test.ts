import { Meter, Region } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import {
  BlkDevice,
  everything,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  PciFunction,
  type PciFunctionOptions,
  type RegisterFaultReason,
} from '../src/index.ts'
import { MAC, type PciMachine, pciMachine } from './support/devices.ts'
import { Ram } from './support/guest.ts'
import { capabilities, IO, MASTER, MEMORY } from './support/pci.ts'

const fault = (
  reason: RegisterFaultReason,
  space: 'config' | number,
  offset: number,
  size: number,
  value: number | null,
): unknown => ({ kind: 'register', device: 'net0', reason, space, offset, size, value })

function lastFault(m: PciMachine): unknown {
  return m.device.faults.last().at(-1)
}

const memory = (length: number, name = 'memory'): Region => new Region(new ArrayBuffer(length), name)
const whole = (region: Region): { region: Region; offset: number; length: number } => ({
  region,
  offset: 0,
  length: region.length,
})

describe('discovery (virtio 1.4 §4.1.2)', () => {
  test('vendor 0x1af4, device 0x1040 + type, revision at least 1, subsystem ID at least 0x40, header type 0', {
    tags: ['4.1.2.1/vendor', '4.1.2.1/device-id', '4.1.2.1/device-id-range', '4.1.2.1/revision', '4.1.2.1/subsystem'],
  }, () => {
    const { config } = pciMachine().pci
    expect([config.read(0, 2), config.read(2, 2)]).toEqual([0x1af4, 0x1041])
    expect(config.read(8, 1)).toBeGreaterThanOrEqual(1)
    expect(config.read(0x2e, 2)).toBeGreaterThanOrEqual(0x40)
    expect([config.read(0x0e, 1), config.read(8, 4)]).toEqual([0, 0x0200_0001])
    const ram = new Ram()
    const disk = new BlkDevice({
      name: 'blk0',
      port: everything(ram.memory),
      store: new MemoryBlockStore(new Uint8Array(512)),
    })
    expect(new PciFunction(disk).config.read(0, 4)).toBe(0x1042_1af4)
  })

  test('what the header says can be chosen', () => {
    const { config } = pciMachine({
      revision: 7,
      classCode: 0xff_01_02,
      subsystemVendorId: 0x1234,
      subsystemId: 0x5678,
    }).pci
    expect([config.read(8, 4), config.read(0x2c, 4)]).toEqual([0xff01_0207, 0x5678_1234])
  })

  test('the status register says that there are capabilities; the interrupt pin is INTA, its line is scratch', () => {
    const { config } = pciMachine().pci
    expect([config.read(6, 2), config.read(0x3d, 1)]).toEqual([0x10, 1])
    config.write(0x3c, 1, 0xab)
    expect(config.read(0x3c, 4)).toBe(0x0000_01ab)
  })

  test('one transport for each device', () => {
    const m = pciMachine()
    expect(() => new MmioRegisters(m.device)).toThrow(expect.objectContaining({ code: 'DEVICE_OPTION' }))
    expect(() => new PciFunction(m.device)).toThrow(expect.objectContaining({ code: 'DEVICE_OPTION' }))
  })
})

describe('configuration space', () => {
  test('aligned accesses of 1, 2 and 4 bytes inside 256 bytes; others are recorded', () => {
    const m = pciMachine()
    const { config } = m.pci
    expect([config.read(0, 1), config.read(1, 1), config.read(2, 2)]).toEqual([0xf4, 0x1a, 0x1041])
    for (const [offset, size] of [
      [1, 2],
      [2, 4],
      [0x41, 4],
    ] as const) {
      expect(config.read(offset, size)).toBe(0)
      expect(lastFault(m)).toEqual(fault('width', 'config', offset, size, null))
      config.write(offset, size, 0xff)
      expect(lastFault(m)).toEqual(fault('width', 'config', offset, size, 0xff))
    }
    for (const offset of [256, 0x1000, -4]) {
      expect(config.read(offset, 4)).toBe(0)
      expect(lastFault(m)).toEqual(fault('unknown', 'config', offset, 4, null))
    }
  })

  test('read-only bits of the header stay, without a fault', () => {
    const m = pciMachine()
    const { config } = m.pci
    const before = Array.from({ length: 16 }, (_, i) => config.read(4 * i, 4))
    for (const at of [0, 8, 0x0c, 0x28, 0x2c, 0x30, 0x34]) config.write(at, 4, 0xffff_ffff)
    config.write(6, 2, 0xffff)
    expect(Array.from({ length: 16 }, (_, i) => config.read(4 * i, 4))).toEqual(before)
    expect(m.device.faults.count).toBe(0)
  })

  test('a driver does not write into a capability (§4.1.4.1)', () => {
    const m = pciMachine()
    for (const { at, type, id } of capabilities(m.pci)) {
      if (id !== 9) continue
      const before = m.pci.config.read(at, 4)
      m.pci.config.write(at, 4, 0xffff_ffff)
      expect(lastFault(m)).toEqual(fault('read-only', 'config', at, 4, 0xffff_ffff))
      expect(m.pci.config.read(at, 4)).toBe(before)
      const window = m.pci.config.read(at + 8, 4)
      m.pci.config.write(at + 8, 4, 0xffff_ffff)
      expect(m.pci.config.read(at + 8, 4)).toBe(type === 5 ? 0xffff_ffff : window)
    }
  })
})

describe('base address registers (PCI 3.0 §6.2.5.1)', () => {
  const pci = (options: PciFunctionOptions = {}): PciMachine =>
    pciMachine({
      swiotlb: { window: whole(memory(0x5000)) },
      sharedMemory: [{ id: 1, window: whole(memory(0x2000)) }],
      ...options,
    })

  test('sizing by all ones: powers of two of at least 4096, 32 bits wide or 64', { tags: ['4.1.1/pci'] }, () => {
    const m = pci()
    const { config } = m.pci
    expect([0, 1, 2, 3, 4, 5].map((i) => config.read(0x10 + 4 * i, 4))).toEqual([0, 0, 0xc, 0, 0xc, 0])
    for (let i = 0; i < 6; i++) config.write(0x10 + 4 * i, 4, 0xffff_ffff)
    expect([0, 1, 2, 3, 4, 5].map((i) => config.read(0x10 + 4 * i, 4))).toEqual([
      0xffff_c000, 0xffff_e000, 0xffff_800c, 0xffff_ffff, 0xffff_e00c, 0xffff_ffff,
    ])
    expect([0, 1, 2, 3, 4, 5].map((i) => m.pci.range(i)?.size ?? null)).toEqual([
      0x4000,
      0x2000,
      0x8000,
      null,
      0x2000,
      null,
    ])
    expect(m.device.faults.count).toBe(0)
    const none = pciMachine({ msixVectors: 0 })
    for (let i = 1; i < 6; i++) none.pci.config.write(0x10 + 4 * i, 4, 0xffff_ffff)
    expect([1, 2, 3, 4, 5].map((i) => none.pci.config.read(0x10 + 4 * i, 4))).toEqual([0, 0, 0, 0, 0])
  })

  test('range says where a BAR is, and whether PCI_COMMAND enables it', () => {
    const m = pci()
    const { config } = m.pci
    config.write(4, 2, 0)
    config.write(0x10, 4, 0xfebf_1234)
    config.write(0x18, 4, 0x8000_8000)
    config.write(0x1c, 4, 0x12)
    expect(m.pci.range(0)).toEqual({ address: 0xfebf_0000, size: 0x4000, kind: 'memory', enabled: false })
    config.write(4, 2, MEMORY)
    expect(m.pci.range(0)?.enabled).toBe(true)
    expect(m.pci.range(2)).toEqual({ address: 0x12_8000_8000, size: 0x8000, kind: 'memory', enabled: true })
    expect([m.pci.range(3), m.pci.range(6), m.pci.range(-1), m.pci.bar(3), m.pci.bar(6)]).toEqual(
      new Array(5).fill(null),
    )
    // Bytes and halves of the register can be written too.
    config.write(0x13, 1, 0xfd)
    expect(m.pci.range(0)?.address).toBe(0xfdbf_0000)
  })

  test('a BAR at or beyond 2^53 is not decoded', () => {
    const m = pci()
    const { config } = m.pci
    config.write(0x18, 4, 0xffff_ffff)
    config.write(0x1c, 4, 0xffff_ffff)
    expect(m.pci.range(2)).toEqual({ address: 0, size: 0x8000, kind: 'memory', enabled: false })
    config.write(0x1c, 4, 0x1f_ffff)
    expect(m.pci.range(2)).toMatchObject({ address: 2 ** 53 - 0x8000, enabled: true })
    config.write(0x1c, 4, 0x20_0000)
    config.write(0x18, 4, 0)
    expect(m.pci.range(2)?.enabled).toBe(false)
  })

  test('without Memory Space a read gives all ones and a write is lost', () => {
    const m = pci()
    m.driver.command = MASTER
    const bar = m.pci.bar(0)!
    expect([bar.read(0x14, 1), bar.read(0x12, 2), bar.read(0, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff])
    expect(lastFault(m)).toEqual(fault('disabled', 0, 0, 4, null))
    bar.write(0x14, 1, 1)
    expect(lastFault(m)).toEqual(fault('disabled', 0, 0x14, 1, 1))
    m.pci.bar(2)!.write(0, 4, 1)
    m.driver.command = MEMORY
    expect([m.driver.status, m.pci.bar(2)!.read(0, 4)]).toEqual([0, 0])
  })

  test('offsets without a structure, and beyond the BAR', () => {
    const m = pci()
    for (const [bar, offset] of [
      [0, 0x40],
      [0, 0xffc],
      [0, 0x1004],
      [0, 0x4000],
      [0, -4],
      [1, 0x100],
      [1, 0x1008],
      [2, 0x5000],
      [2, 0x4ffe],
      [4, 0x2000],
    ] as const) {
      expect(m.pci.bar(bar)!.read(offset, 4)).toBe(0)
      expect(lastFault(m)).toEqual(fault('unknown', bar, offset, 4, null))
      m.pci.bar(bar)!.write(offset, 4, 1)
      expect(lastFault(m)).toEqual(fault('unknown', bar, offset, 4, 1))
    }
  })

  test('an I/O BAR for doorbells has a bit of its own in PCI_COMMAND (§4.1.4)', () => {
    const link = new LoopbackLink()
    const m = pciMachine({ notifyPort: true }, { link })
    m.pci.config.write(0x20, 4, 0xffff_ffff)
    expect(m.pci.config.read(0x20, 4)).toBe(0xffff_fff9)
    m.pci.config.write(0x20, 4, 0xc00b)
    expect(m.pci.range(4)).toEqual({ address: 0xc008, size: 8, kind: 'io', enabled: false })
    expect(m.driver.structure(2).bar).toBe(4)
    m.driver.start([m.rx, m.tx])
    m.device.queues[1].marked = false
    m.driver.kick(1)
    expect(m.device.queues[1].marked).toBe(false)
    expect(lastFault(m)).toMatchObject({ reason: 'disabled', space: 4, offset: 4 })
    m.driver.command = IO | MEMORY | MASTER
    expect(m.pci.range(4)?.enabled).toBe(true)
    m.driver.kick(1)
    expect(m.device.queues[1].marked).toBe(true)
    m.device.queues[1].marked = false
    const second = capabilities(m.pci).filter(({ type, id }) => type === 2 && id === 9)[1]
    m.pci.bar(second.bar)!.write(second.offset + 4, 2, 1)
    expect(m.device.queues[1].marked).toBe(true)
    expect(pciMachine().pci.config.read(4, 2) & IO).toBe(0)
  })
})

describe('memory behind a BAR', () => {
  test('the capability of SWIOTLB RFC 3/3 names it; it answers in any width, and the meter counts', () => {
    const region = memory(0x8000, 'on device')
    region.meter = new Meter()
    const m = pciMachine({ swiotlb: { window: { region, offset: 0x1000, length: 0x3000 } } })
    const [found] = capabilities(m.pci).filter(({ type }) => type === 10)
    expect(found).toMatchObject({ id: 9, bar: 2, offset: 0, length: 0x3000 })
    expect(m.pci.config.read(found.at + 2, 1)).toBe(16)
    const bar = m.pci.bar(2)!
    bar.write(0x10, 4, 0xfedc_ba98)
    bar.write(0x2fff, 1, 0x77)
    bar.write(0x21, 2, 0x1234)
    expect([region.view.getUint32(0x1010, true), region.u8[0x3fff]]).toEqual([0xfedc_ba98, 0x77])
    expect([bar.read(0x10, 4), bar.read(0x12, 2), bar.read(0x13, 1), bar.read(0x21, 2)]).toEqual([
      0xfedc_ba98, 0xfedc, 0xfe, 0x1234,
    ])
    expect(region.meter.snapshot()).toMatchObject({
      loads: { 1: 1, 2: 2, 4: 1, 8: 0 },
      stores: { 1: 1, 2: 1, 4: 1, 8: 0 },
    })
    expect(m.device.faults.count).toBe(0)
    expect(bar.read(0x2ffe, 4)).toBe(0)
    expect(lastFault(m)).toEqual(fault('unknown', 2, 0x2ffe, 4, null))
  })

  test('without its capability, or with a wrong one', () => {
    const window = whole(memory(0x1000))
    const types = (m: PciMachine): number[] => capabilities(m.pci).map(({ type }) => type)
    const none = pciMachine({ swiotlb: { window, capability: false } })
    expect([types(none).includes(10), none.pci.range(2)?.size]).toEqual([false, 0x1000])
    const wrong = pciMachine({ swiotlb: { window, offset: 0xffff_f000, length: 0x8000 } })
    expect(capabilities(wrong.pci).find(({ type }) => type === 10)).toMatchObject({
      offset: 0xffff_f000,
      length: 0x8000,
    })
  })

  test('it survives growth of a WebAssembly.Memory', () => {
    const wasm = new WebAssembly.Memory({ initial: 1, maximum: 4 })
    const region = new Region(wasm, 'wasm')
    const bar = pciMachine({ swiotlb: { window: { region, offset: 0, length: 0x1000 } } }).pci.bar(2)!
    bar.write(8, 4, 0x1234_5678)
    wasm.grow(1)
    expect(bar.read(8, 2)).toBe(0x5678)
    wasm.grow(1)
    bar.write(8, 1, 0xff)
    expect(new Uint8Array(wasm.buffer)[8]).toBe(0xff)
  })

  test('shared memory regions: 64-bit capabilities with unique ids, inside their BAR (§4.1.4.7)', {
    tags: ['4.1.4.7.1/in-bar', '4.1.4.7.1/unique'],
  }, () => {
    const [a, b] = [memory(0x1800, 'a'), memory(0x2000, 'b')]
    const m = pciMachine({
      sharedMemory: [
        { id: 7, window: whole(a) },
        { id: 3, window: whole(b) },
      ],
    })
    const { config } = m.pci
    const found = capabilities(m.pci).filter(({ type }) => type === 8)
    expect(found.map(({ at }) => [config.read(at + 2, 1), config.read(at + 5, 1)])).toEqual([
      [24, 7],
      [24, 3],
    ])
    expect(found.map(({ bar, offset, length }) => [bar, offset, length])).toEqual([
      [4, 0, 0x1800],
      [4, 0x2000, 0x2000],
    ])
    expect(found.map(({ at }) => [config.read(at + 16, 4), config.read(at + 20, 4)])).toEqual([
      [0, 0],
      [0, 0],
    ])
    expect(m.pci.range(4)?.size).toBe(0x4000)
    m.pci.bar(4)!.write(0x2004, 4, 0x99)
    expect([a.u32[1], b.u32[1], m.pci.bar(4)!.read(0x2004, 1)]).toEqual([0, 0x99, 0x99])
    expect(m.pci.bar(4)!.read(0x1800, 1)).toBe(0)
    expect(lastFault(m)).toEqual(fault('unknown', 4, 0x1800, 1, null))
  })
})

describe('options that cannot be', () => {
  const region = memory(0x1000)
  test.each<[string, PciFunctionOptions]>([
    ['notifyMultiplier', { notifyMultiplier: 1 }],
    ['notifyMultiplier', { notifyMultiplier: 6 }],
    ['notifyMultiplier', { notifyMultiplier: -4 }],
    ['notifyMultiplier', { notifyMultiplier: 8192 }],
    ['msixVectors', { msixVectors: 2049 }],
    ['msixVectors', { msixVectors: -1 }],
    ['revision', { revision: 256 }],
    ['classCode', { classCode: 2 ** 24 }],
    ['subsystemVendorId', { subsystemVendorId: -1 }],
    ['subsystemId', { subsystemId: 1.5 }],
    ['swiotlb', { swiotlb: { window: { region, offset: 8, length: 0x1000 } } }],
    ['swiotlb', { swiotlb: { window: { region, offset: 0, length: 0 } } }],
    ['swiotlb.offset', { swiotlb: { window: whole(region), offset: 2 ** 32 } }],
    ['sharedMemory.id', { sharedMemory: [{ id: 256, window: whole(region) }] }],
    ['sharedMemory', { sharedMemory: [1, 1].map((id) => ({ id, window: whole(region) })) }],
    ['notifyPort', { notifyPort: true, sharedMemory: [{ id: 1, window: whole(region) }] }],
    ['capabilities', { sharedMemory: [1, 2, 3, 4, 5].map((id) => ({ id, window: whole(region) })) }],
  ])('%s', { tags: ['4.1.4.4.1/multiplier', '4.1.4.7.1/unique'] }, (option, options) => {
    expect(() => pciMachine(options)).toThrow(
      expect.objectContaining({ code: 'DEVICE_OPTION', part: 'net0', message: expect.stringContaining(option) }),
    )
  })

  test('a multiplier of 2 only where NOTIFICATION_DATA is not offered (§4.1.4.4.1)', {
    tags: ['4.1.4.4.1/data-multiplier'],
  }, () => {
    expect(pciMachine({ notifyMultiplier: 2 }).driver.structure(2).length).toBeGreaterThanOrEqual(4)
    expect(() => pciMachine({ notifyMultiplier: 2 }, { offer: [38] })).toThrow(
      expect.objectContaining({ code: 'DEVICE_OPTION' }),
    )
    const device = new NetDevice({ name: 'net0', port: everything(new Ram().memory), mac: MAC })
    expect(() => new PciFunction(device, { notifyMultiplier: 3 })).toThrow()
    // A refused option leaves the device without a transport.
    expect(() => new PciFunction(device)).not.toThrow()
  })
})
