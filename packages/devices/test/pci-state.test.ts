import { describe, expect, test } from 'vitest'
import {
  BusWindows,
  type DeviceState,
  everything,
  NetDevice,
  PciFunction,
  type PciFunctionOptions,
  type PciRange,
  type PciState,
} from '../src/index.ts'
import { MAC, type PciMachine, packet, pciMachine, RecordingLink } from './support/devices.ts'
import { Line, pattern, Ram, Ring } from './support/guest.ts'
import { capabilities, MASTER, MEMORY, PciDriver } from './support/pci.ts'

interface Twin {
  readonly device: NetDevice
  readonly pci: PciFunction
  readonly line: Line
  readonly link: RecordingLink
}

/** Another device and function over the same memory, with the state of the first one. */
function move(m: PciMachine, options: PciFunctionOptions = {}): Twin {
  const state = JSON.parse(JSON.stringify(m.device.save())) as DeviceState
  const registers = JSON.parse(JSON.stringify(m.pci.save())) as PciState
  const link = new RecordingLink()
  const device = new NetDevice({ name: 'net1', port: everything(m.ram.memory), mac: MAC, link })
  const line = new Line()
  const pci = new PciFunction(device, { interrupts: line, ...options })
  device.restore(state)
  pci.restore(registers)
  return { device, pci, line, link }
}

describe('save and restore over pci', () => {
  test('a function goes on in another one, over JSON: BARs, command, selectors, ISR status, generation', () => {
    const m = pciMachine({}, { link: new RecordingLink() })
    m.pci.config.write(0x10, 4, 0xfe00_0000)
    m.driver.start([m.rx, m.tx])
    m.device.setLink(false)
    m.driver.config(6, 2)
    m.device.setLink(true)
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(99))))
    m.driver.kick(1)
    m.driver.set('deviceFeatureSelect', 1)
    m.driver.set('driverFeatureSelect', 1)
    m.driver.set('queueSelect', 1)
    const { device, pci, line, link } = move(m)
    expect(pci.range(0)).toEqual({ address: 0xfe00_0000, size: 0x4000, kind: 'memory', enabled: true })
    const driver = new PciDriver(pci)
    expect([driver.get('deviceFeature'), driver.get('driverFeature'), driver.get('descLow')]).toEqual([
      m.driver.get('deviceFeature'),
      1,
      m.tx.desc,
    ])
    expect([line.asserted, driver.interrupting]).toEqual([false, true])
    device.poll(64)
    expect([line.asserted, link.frames]).toEqual([true, [pattern(99)]])
    expect(driver.acknowledge()).toBe(3)
    // The change that the driver has not read yet shows here as there.
    const { generation } = driver
    expect(generation).toBe(m.driver.generation)
    driver.config(6, 2)
    const shown = driver.generation
    expect(shown).not.toBe(generation)
    const third = new PciDriver(move({ ...m, device, pci }).pci)
    third.config(6, 2)
    expect(third.generation).toBe(shown)
  })

  test('MSI-X: table, vectors and what is pending', () => {
    const m = pciMachine({}, { link: new RecordingLink() })
    const at = capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0
    m.pci.config.write(at + 2, 2, 0xc000)
    m.pci.bar(1)!.write(0x10, 4, 0xfee0_0000)
    m.pci.bar(1)!.write(0x18, 4, 77)
    m.pci.bar(1)!.write(0x1c, 4, 0)
    m.driver.start([m.rx, m.tx])
    m.driver.set('configVector', 1)
    m.device.setLink(false)
    const { device, pci } = move(m)
    const messages: number[] = []
    ;(device.port as BusWindows).setDoorbell(0xfee0_0000, 4, {
      level: () => {},
      message: (_, data) => messages.push(data),
    })
    device.poll(0)
    expect(messages).toEqual([])
    pci.config.write(at + 2, 2, 0x8000)
    device.poll(0)
    expect([messages, new PciDriver(pci).get('configVector')]).toEqual([[77], 1])
  })

  test('a line that was up falls with a state that has nothing pending', () => {
    const m = pciMachine({}, { link: new RecordingLink() })
    m.driver.start([m.rx, m.tx])
    const quiet = m.pci.save()
    m.device.setLink(false)
    m.device.poll(1)
    expect(m.line.asserted).toBe(true)
    m.pci.restore(quiet)
    expect([m.line.asserted, m.driver.interrupting]).toEqual([false, false])
  })

  test('a port that follows a BAR has its windows before the device is restored, so that rings behind it are found', () => {
    const ram = new Ram()
    const { region, offset, base, length } = ram.memory.ranges[0]
    // Device memory that its own CPU sees at the same address.
    const made = (): { device: NetDevice; pci: PciFunction; link: RecordingLink } => {
      const link = new RecordingLink()
      const port = new BusWindows('device memory')
      const device = new NetDevice({ name: 'net0', port, mac: MAC, link })
      const pci = new PciFunction(device, {
        swiotlb: { window: { region, offset, length } },
        onWindows: () => {
          const { address, enabled } = pci.range(2) as PciRange
          port.setWindows(enabled ? [{ base: address, length, region, offset }] : [])
        },
      })
      return { device, pci, link }
    }
    const first = made()
    first.pci.config.write(0x18, 4, base)
    const driver = new PciDriver(first.pci)
    const [rx, tx] = [new Ring(ram, 8), new Ring(ram, 8)]
    driver.start([rx, tx])
    tx.offer(tx.chain(packet(ram, pattern(99))))
    driver.kick(1)
    const [state, registers] = [first.device.save(), first.pci.save()]
    const second = made()
    second.pci.restoreConfig(registers)
    second.device.restore(state)
    second.pci.restore(registers)
    second.device.poll(64)
    expect([second.device.status & 64, second.link.frames]).toEqual([0, [pattern(99)]])
    // Without it the rings are out of reach, and the device is in need of a reset.
    const third = made()
    third.device.restore(state)
    third.pci.restore(registers)
    expect(third.device.status & 64).toBe(64)
    const wrong = { ...registers, isr: 99 }
    expect(() => made().pci.restoreConfig(wrong)).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
  })

  const bad: [string, (state: PciState) => unknown][] = [
    ['null', () => null],
    ['a number', () => 7],
    ['no fields', () => ({ format: 'guestdma-pci-1' })],
    ['another format', (state) => ({ ...state, format: 'x' })],
    ['a short configuration space', (state) => ({ ...state, config: state.config.slice(1) })],
    ['another vendor', (state) => ({ ...state, config: state.config.map((byte, i) => (i === 2 ? byte + 1 : byte)) })],
    ['a byte of 256', (state) => ({ ...state, config: state.config.map((byte, i) => (i === 60 ? 256 : byte)) })],
    ['an ISR status of 4', (state) => ({ ...state, isr: 4 })],
    ['an ISR status as text', (state) => ({ ...state, isr: '1' })],
    ['no selectors', (state) => ({ ...state, selectors: undefined })],
    ['two selectors', (state) => ({ ...state, selectors: [0, 0] })],
    ['a selector of -1', (state) => ({ ...state, selectors: [0, 0, -1] })],
    ['a queue_select beyond 16 bits', (state) => ({ ...state, selectors: [0, 0, 0x1_0000] })],
    ['a selector of 2^32', (state) => ({ ...state, selectors: [2 ** 32, 0, 0] })],
    ['no driver features', (state) => ({ ...state, driverFeatures: [] })],
    ['driver features as an object', (state) => ({ ...state, driverFeatures: { length: 4 } })],
    ['half a feature', (state) => ({ ...state, driverFeatures: [0, 1, 0.5, 0] })],
    ['one generation', (state) => ({ ...state, generation: [1] })],
    ['a generation beyond 8 bits', (state) => ({ ...state, generation: [256, 0] })],
    ['no MSI-X', (state) => ({ ...state, msix: null })],
    ['no table', (state) => ({ ...state, msix: { ...state.msix, table: [] } })],
    ['a table of texts', (state) => ({ ...state, msix: { ...state.msix, table: state.msix.table.map(String) } })],
    ['few pending bits', (state) => ({ ...state, msix: { ...state.msix, pending: [0] } })],
    ['a vector pending that is not there', (state) => ({ ...state, msix: { ...state.msix, pending: [8, 0] } })],
    ['and one in the next word', (state) => ({ ...state, msix: { ...state.msix, pending: [0, 1] } })],
    ['few mappings', (state) => ({ ...state, msix: { ...state.msix, mapping: [0] } })],
    ['a mapping to no vector', (state) => ({ ...state, msix: { ...state.msix, mapping: [3, 0xffff, 0xffff] } })],
  ]

  test.each(bad)('%s is refused and changes nothing', (_, change) => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    m.driver.set('queueSelect', 1)
    const state = change(m.pci.save()) as PciState
    const other = pciMachine()
    const before = other.pci.save()
    expect(() => other.pci.restore(state)).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
    expect(other.pci.save()).toEqual(before)
  })

  test('the state of a function with other options is refused', () => {
    const m = pciMachine()
    expect(() => move(m, { msixVectors: 5 })).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
    expect(() => move(m, { notifyMultiplier: 8 })).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
  })

  test('reserved bits of a table stay 0, and vectors up to the last one are taken', () => {
    const m = pciMachine()
    const state = m.pci.save()
    const table = state.msix.table.map(() => 0xffff_ffff)
    m.pci.restore({ ...state, isr: 3, msix: { table, pending: [7, 0], mapping: [2, 1, 0] } })
    m.driver.command = MEMORY | MASTER
    expect(m.driver.read(3, 0, 1)).toBe(3)
    expect([0, 4, 8, 12].map((at) => m.pci.bar(1)!.read(at, 4))).toEqual([0xffff_fffc, 0xffff_ffff, 0xffff_ffff, 1])
    expect(m.driver.get('configVector')).toBe(0)
    const at = capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0
    for (const vector of [0, 1, 2]) m.pci.bar(1)!.write(16 * vector + 12, 4, 0)
    m.pci.config.write(at + 2, 2, 0x8000)
    m.device.poll(1)
    expect((m.device.port as BusWindows).faults.count).toBe(3)
  })

  test('a restored line that the guest acknowledges before the first poll falls', () => {
    const m = pciMachine({}, { link: new RecordingLink() })
    m.driver.start([m.rx, m.tx])
    m.device.setLink(false)
    m.device.poll(1)
    const { pci, line } = move(m)
    // As an interrupt controller is restored.
    line.level(true)
    expect(new PciDriver(pci).acknowledge()).toBe(2)
    expect(line.asserted).toBe(false)
  })
})
