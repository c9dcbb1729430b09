import { Meter, Region } from '@guestdma/memory'
import { VIRTIO_F_RING_RESET, VIRTIO_F_SUSPEND } from '@guestdma/spec'
import { beforeEach, describe, expect, test } from 'vitest'
import { type BusWindows, PciFunction } from '../src/index.ts'
import { type PciMachine, packet, pciMachine, RecordingLink } from './support/devices.ts'
import { pattern } from './support/guest.ts'
import { capabilities, INTX_DISABLE, MASTER, MEMORY } from './support/pci.ts'

const USED = 1
const CONFIGURATION = 2
const NO_VECTOR = 0xffff
const DOORBELL = 0xfee0_0000

let m: PciMachine

function boot(features: readonly number[] = [], setUp: () => void = () => {}): void {
  m = pciMachine({}, { link: new RecordingLink() })
  setUp()
  m.driver.start([m.rx, m.tx], ...features)
}

/** One frame, sent and used: an interrupt of queue 1. */
function send(): void {
  m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
  m.driver.kick(1)
  m.device.poll(64)
}

const interruptStatus = (): boolean => (m.pci.config.read(6, 2) & 8) !== 0

describe('ISR status and INTx (virtio 1.4 §4.1.4.5)', () => {
  beforeEach(() => boot())

  test('a cause shows at once, the line rises from poll only, and one read clears both', {
    tags: ['4.1.4.5.1/queue-bit', '4.1.4.5.1/interrupt-status', '4.1.4.5.1/read-clears'],
  }, () => {
    m.device.setLink(false)
    expect([interruptStatus(), m.line.asserted]).toEqual([true, false])
    send()
    expect([m.line.asserted, m.line.rises, interruptStatus()]).toEqual([true, 1, true])
    expect(m.driver.read(3, 0, 1)).toBe(USED | CONFIGURATION)
    expect([m.line.asserted, interruptStatus(), m.driver.read(3, 0, 1)]).toEqual([false, false, 0])
    m.device.poll(64)
    expect(m.line.rises).toBe(1)
  })

  test('the bits: 0 for queues, 1 for the configuration', () => {
    send()
    expect(m.driver.read(3, 0, 1)).toBe(USED)
    m.device.setLink(false)
    expect(m.driver.read(3, 0, 1)).toBe(CONFIGURATION)
    m.device.needsReset('test')
    expect(m.driver.read(3, 0, 1)).toBe(CONFIGURATION)
  })

  test('a byte: other widths read 0 and clear nothing; it is read-only', () => {
    send()
    expect([m.driver.read(3, 0, 4), m.driver.read(3, 0, 2)]).toEqual([0, 0])
    expect(m.device.faults.last()).toMatchObject([{ reason: 'width' }, { reason: 'width' }])
    m.driver.write(3, 0, 1, 0)
    expect(m.device.faults.last().at(-1)).toMatchObject({ reason: 'read-only', value: 0 })
    expect([m.line.asserted, m.driver.read(3, 0, 1)]).toEqual([true, USED])
  })

  test('Interrupt Disable lowers the line and keeps it low; the status stays', () => {
    send()
    m.driver.command = MEMORY | MASTER | INTX_DISABLE
    expect([m.line.asserted, interruptStatus()]).toEqual([false, true])
    send()
    expect([m.line.asserted, interruptStatus()]).toEqual([false, true])
    m.driver.command = MEMORY | MASTER
    m.device.poll(0)
    expect([m.line.asserted, m.line.rises]).toEqual([true, 2])
  })

  test('enabling MSI-X lowers the line and clears the status bit', () => {
    send()
    const at = capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0
    m.pci.config.write(at + 2, 2, 0x8000)
    expect([m.line.asserted, interruptStatus()]).toEqual([false, false])
    m.device.poll(64)
    expect(m.line.rises).toBe(1)
    m.pci.config.write(at + 2, 2, 0)
    expect(interruptStatus()).toBe(true)
    m.device.poll(64)
    expect(m.line.asserted).toBe(true)
  })

  test('a reset clears what is pending', () => {
    send()
    m.driver.status = 0
    expect([m.line.asserted, interruptStatus(), m.driver.read(3, 0, 1)]).toEqual([false, false, 0])
  })

  test('INTx is no access to memory: it does not need Bus Master Enable', () => {
    m.device.setLink(false)
    m.driver.command = MEMORY
    m.device.poll(64)
    expect(m.line.asserted).toBe(true)
  })

  test('without a sink the status register is all there is', () => {
    const other = pciMachine({ interrupts: { level: () => {} } })
    expect(other.pci).toBeInstanceOf(PciFunction)
    other.driver.start([other.rx, other.tx])
    other.device.setLink(false)
    other.device.poll(1)
    expect(other.driver.interrupting).toBe(true)
  })
})

describe('Bus Master Enable (PCI 3.0 §6.2.2)', () => {
  test('without it the function reads and writes no memory, and goes on where it was', () => {
    boot()
    m.driver.command = MEMORY
    m.ram.writes.length = 0
    send()
    expect([m.ram.writes, m.tx.usedIndex, m.line.asserted]).toEqual([[], 0, false])
    m.driver.command = MEMORY | MASTER
    m.device.poll(64)
    expect([m.tx.usedIndex, m.line.asserted]).toEqual([1, true])
  })
})

describe('MSI-X (PCI 3.0 §6.8.2, virtio 1.4 §4.1.5.3, §4.1.5.4)', () => {
  let messages: [number, number][]
  let control: number

  const entry = (vector: number, fields: { address?: number; high?: number; data?: number; mask?: number }): void => {
    const table = m.pci.bar(1)!
    const { address = DOORBELL + 4 * vector, high = 0, data = 0x40 + vector, mask = 0 } = fields
    table.write(16 * vector, 4, address)
    table.write(16 * vector + 4, 4, high)
    table.write(16 * vector + 8, 4, data)
    table.write(16 * vector + 12, 4, mask)
  }

  const pending = (): number => m.pci.bar(1)!.read(0x1000, 4)

  /** Vector 0 for the configuration, 1 for the queue that sends, 2 for the other; all messages to the doorbell. */
  function bootMsix(features: readonly number[] = []): void {
    boot(features)
    messages = []
    const port = m.device.port as BusWindows
    port.setDoorbell(DOORBELL, 0x1000, {
      level: () => {},
      message: (address, data) => messages.push([address, data]),
    })
    control = (capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0) + 2
    for (const vector of [0, 1, 2]) entry(vector, {})
    m.pci.config.write(control, 2, 0x8000)
    m.driver.set('configVector', 0)
    m.driver.set('queueSelect', 0)
    m.driver.set('queueVector', 2)
    m.driver.set('queueSelect', 1)
    m.driver.set('queueVector', 1)
  }

  beforeEach(() => bootMsix())

  test('after reset every entry is masked and nothing else is set', () => {
    const table = pciMachine({ msixVectors: 3 }).pci.bar(1)!
    expect(Array.from({ length: 12 }, (_, i) => table.read(4 * i, 4))).toEqual([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1])
  })

  test('one message for each event, by the vector that it is mapped to, at the end of a poll', () => {
    m.device.setLink(false)
    expect(messages).toEqual([])
    m.device.setLink(true)
    send()
    expect(messages).toEqual([
      [DOORBELL, 0x40],
      [DOORBELL + 4, 0x41],
    ])
    m.device.poll(64)
    expect(messages).toHaveLength(2)
    m.rx.offer(m.rx.chain({ address: m.ram.alloc(1526), length: 1526, w: true }))
    m.device.receive(pattern(64))
    m.device.poll(64)
    expect(messages.slice(2)).toEqual([[DOORBELL + 8, 0x42]])
    expect([m.line.rises, interruptStatus()]).toEqual([0, false])
  })

  test('ISR status: not used for queues, set for the configuration (§4.1.4.5.1)', {
    tags: ['4.1.4.5.1/config-bit'],
  }, () => {
    send()
    expect(m.driver.read(3, 0, 1)).toBe(0)
    m.device.setLink(false)
    expect(m.driver.read(3, 0, 1)).toBe(CONFIGURATION)
  })

  test('events of one vector are one message', () => {
    m.driver.set('configVector', 1)
    m.device.setLink(false)
    m.device.setLink(true)
    send()
    expect(messages).toEqual([[DOORBELL + 4, 0x41]])
  })

  test('NO_VECTOR: no message, neither for the queue nor for the configuration', {
    tags: ['4.1.5.3.1/no-vector', '4.1.5.4.1/no-vector'],
  }, () => {
    m.driver.set('configVector', NO_VECTOR)
    m.driver.set('queueVector', NO_VECTOR)
    m.device.setLink(false)
    m.device.setLink(true)
    send()
    expect([messages, pending(), m.tx.usedIndex]).toEqual([[], 0, 1])
  })

  test('a queue that is unmapped while its message is masked sends none (§4.1.5.3.1)', {
    tags: ['4.1.5.3.1/no-vector'],
  }, () => {
    m.pci.config.write(control, 2, 0xc000)
    send()
    expect(pending()).toBe(2)
    m.driver.set('queueSelect', 1)
    m.driver.set('queueVector', NO_VECTOR)
    m.pci.config.write(control, 2, 0x8000)
    m.device.poll(64)
    expect([messages, pending()]).toEqual([[], 0])
  })

  test('a masked vector is pending, and its message is sent once with the poll after the unmask', () => {
    m.pci.bar(1)!.write(16 + 12, 4, 1)
    send()
    send()
    expect([messages, pending()]).toEqual([[], 2])
    m.pci.bar(1)!.write(16 + 12, 4, 0)
    m.device.poll(0)
    expect([messages, pending()]).toEqual([[[DOORBELL + 4, 0x41]], 0])
    m.device.poll(0)
    expect(messages).toHaveLength(1)
  })

  test('the function mask holds all vectors', () => {
    m.pci.config.write(control, 2, 0xc000)
    expect(m.pci.config.read(control, 2)).toBe(0xc002)
    m.device.setLink(false)
    m.device.setLink(true)
    send()
    expect([messages, pending()]).toEqual([[], 3])
    m.pci.config.write(control, 2, 0x8000)
    m.device.poll(0)
    expect(messages).toHaveLength(2)
  })

  test('without Bus Master Enable messages stay pending', () => {
    m.device.setLink(false)
    m.driver.command = MEMORY
    m.device.poll(64)
    expect([messages, pending()]).toEqual([[], 1])
    m.driver.command = MEMORY | MASTER
    m.device.poll(64)
    expect(messages).toEqual([[DOORBELL, 0x40]])
  })

  test('a message that is no doorbell is a write of 4 little-endian bytes through the port', () => {
    const at = m.ram.alloc(8)
    entry(1, { address: at, data: 0xfedc_ba98 })
    const port = m.device.port as BusWindows
    const { region } = port.windows[0]
    region.meter = new Meter()
    m.ram.writes.length = 0
    send()
    expect([m.ram.u32(at), m.ram.u32(at + 4), messages]).toEqual([0xfedc_ba98, 0, []])
    expect(m.ram.writes.at(-1)).toEqual([at, 4])
    expect(m.ram.writes.filter(([address]) => address === at)).toHaveLength(1)
    const stores = region.meter.snapshot().stores[4]
    m.driver.set('queueVector', NO_VECTOR)
    region.meter.reset()
    send()
    expect(stores - region.meter.snapshot().stores[4]).toBe(1)
  })

  test('a message into memory that grew while the device was stopped', () => {
    const wasm = new WebAssembly.Memory({ initial: 1, maximum: 2 })
    const port = m.device.port as BusWindows
    port.setWindows([...port.windows, { base: 0x1000, length: 0x1000, region: new Region(wasm, 'wasm') }])
    entry(0, { address: 0x1010, data: 9 })
    m.device.needsReset('test')
    wasm.grow(1)
    m.device.poll(0)
    expect(new Uint32Array(wasm.buffer)[4]).toBe(9)
  })

  test('a message into two windows of the port is written in pieces', () => {
    const at = m.ram.alloc(8)
    entry(1, { address: at, data: 0x4433_2211 })
    const port = m.device.port as BusWindows
    const [window] = port.windows
    const cut = at + 3 - window.base
    port.setWindows([
      { ...window, length: cut },
      { ...window, base: window.base + cut, offset: window.offset + cut, length: window.length - cut },
    ])
    send()
    expect([m.ram.u32(at), port.faults.count, m.ram.writes.slice(-2)]).toEqual([
      0x4433_2211,
      0,
      [
        [at, 3],
        [at + 3, 1],
      ],
    ])
  })

  test.each<[string, { address?: number; high?: number }, unknown]>([
    ['out of reach', { address: 0x1000 }, { address: 0x1000, length: 4, access: 2, reason: 'unmapped' }],
    ['above 32 bits', { address: 0x1000, high: 0x1f_ffff }, { address: 0x1f_ffff * 2 ** 32 + 0x1000 }],
    ['at 2^53', { address: 0, high: 0x20_0000 }, { address: { high: 0x20_0000, low: 0 }, reason: 'range' }],
    [
      'at 2^64 - 4',
      { address: 0xffff_ffff, high: 0xffff_ffff },
      { address: { high: 0xffff_ffff, low: 0xffff_fffc }, length: 4, access: 2, reason: 'range' },
    ],
  ])('a refused message is a fault of the port, and lost: %s', (_, fields, expected) => {
    entry(1, fields)
    send()
    const port = m.device.port as BusWindows
    expect(port.faults.last()).toEqual([expect.objectContaining(expected)])
    expect([pending(), m.tx.usedIndex, m.device.live]).toEqual([0, 1, true])
    entry(1, {})
    m.device.poll(64)
    expect(messages).toEqual([])
  })

  test('the table: 32 bits, read in parts as well; reserved bits and the low bits of the address stay 0; pending is read-only', () => {
    const table = m.pci.bar(1)!
    entry(2, { address: 0xffff_ffff, high: 0xffff_ffff, data: 0xffff_ffff, mask: 0xffff_ffff })
    expect([32, 36, 40, 44].map((at) => table.read(at, 4))).toEqual([0xffff_fffc, 0xffff_ffff, 0xffff_ffff, 1])
    expect(m.device.faults.count).toBe(0)
    table.write(0x1000, 4, 0xffff_ffff)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'read-only', space: 1, offset: 0x1000 }])
    expect(pending()).toBe(0)
    expect([table.read(40, 1), table.read(42, 2), table.read(0x1000, 2)]).toEqual([0xff, 0xffff, 0])
    expect(m.device.faults.count).toBe(1)
    expect(table.read(42, 4)).toBe(0)
    table.write(40, 2, 0)
    expect(m.device.faults.last().slice(1)).toMatchObject(new Array(2).fill({ reason: 'width', space: 1 }))
    expect(table.read(40, 4)).toBe(0xffff_ffff)
  })

  test('the last of 2048 vectors', { tags: ['4.1.5.1.2.1/vectors'] }, () => {
    const many = pciMachine({ msixVectors: 2048 })
    m = many
    control = (capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0) + 2
    m.pci.config.write(control, 2, 0xc000)
    m.driver.start([m.rx, m.tx])
    m.driver.set('configVector', 2047)
    m.device.setLink(false)
    expect(m.pci.bar(1)!.read(0x8000 + 252, 4)).toBe(0x8000_0000)
    const at = m.ram.alloc(4)
    entry(2047, { address: at, data: 5 })
    m.pci.config.write(control, 2, 0x8000)
    m.device.poll(0)
    expect([m.ram.u32(at), m.pci.bar(1)!.read(0x8000 + 252, 4)]).toEqual([5, 0])
  })

  test('a device reset unmaps and forgets; the table is not its affair', () => {
    m.pci.bar(1)!.write(16 + 12, 4, 1)
    send()
    m.driver.status = 0
    expect([pending(), m.pci.bar(1)!.read(16, 4), m.pci.config.read(control, 2)]).toEqual([0, DOORBELL + 4, 0x8002])
    m.pci.bar(1)!.write(16 + 12, 4, 0)
    m.device.poll(0)
    expect(messages).toEqual([])
  })

  test('a queue that was reset does not notify any more (§2.6.1.1)', { tags: ['2.6.1.1.1/stopped'] }, () => {
    bootMsix([VIRTIO_F_RING_RESET])
    m.pci.config.write(control, 2, 0xc000)
    send()
    expect(pending()).toBe(2)
    m.driver.resetQueue(1)
    expect(pending()).toBe(0)
    // Unless the vector is another event's too.
    bootMsix([VIRTIO_F_RING_RESET])
    m.pci.config.write(control, 2, 0xc000)
    m.driver.set('configVector', 1)
    send()
    m.driver.resetQueue(1)
    expect(pending()).toBe(2)
  })

  test('what a mask held back goes out after a suspended device resumed (§3.4.2)', { tags: ['3.4.2/at-rest'] }, () => {
    bootMsix([VIRTIO_F_SUSPEND])
    m.pci.config.write(control, 2, 0xc000)
    send()
    m.driver.status = 31
    m.device.poll(64)
    m.pci.config.write(control, 2, 0x8000)
    m.device.poll(64)
    expect([m.driver.status, pending(), messages]).toEqual([27, 2, []])
    m.driver.set('configVector', 1)
    expect(m.driver.get('configVector')).toBe(0)
    m.driver.status = 31
    m.device.poll(64)
    expect(messages).toHaveLength(1)
  })

  test('whoever takes a message may reset the device or poll it', () => {
    const port = m.device.port as BusWindows
    let count = 0
    port.setDoorbell(DOORBELL, 0x1000, {
      level: () => {},
      message: () => {
        count++
        m.device.poll(64)
        m.driver.status = 0
      },
    })
    m.driver.set('configVector', 2)
    m.device.setLink(false)
    m.device.setLink(true)
    send()
    expect([count, pending()]).toEqual([2, 0])
  })
})
