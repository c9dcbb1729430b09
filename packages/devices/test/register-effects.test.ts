// What a register write causes beyond the register: a poll that is due, windows that move, a new generation.
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, VIRTIO_F_RING_RESET } from '@guestdma/spec'
import { describe, expect, test, vi } from 'vitest'
import {
  BlkDevice,
  type BusWindows,
  eachFrame,
  everything,
  type FrameReceiver,
  IommuDevice,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
  type NetLink,
  PciFunction,
  type PciFunctionOptions,
} from '../src/index.ts'
import { DISK_BYTES, driverOf, header, MAC, RecordingLink, status, TRANSPORTS } from './support/devices.ts'
import { Driver, type GuestDriver, Line, pattern, Ram, Ring } from './support/guest.ts'
import { capabilities, INTX_DISABLE, MASTER, MEMORY, PciDriver } from './support/pci.ts'

const DOORBELL = 0xfee0_0000

/** A net device whose owner sleeps until `onWork`; `woken` says whether it was called since it was last asked. */
function sleeper() {
  const ram = new Ram()
  let calls = 0
  const device = new NetDevice({
    name: 'net0',
    port: everything(ram.memory),
    mac: MAC,
    link: new RecordingLink(),
    onWork: () => calls++,
  })
  const woken = (): boolean => {
    const before = calls
    calls = 0
    return before > 0
  }
  /** The owner polls until there is nothing to do, and sleeps. */
  const sleep = (): void => {
    while (device.poll(64) > 0);
    woken()
  }
  return { ram, device, woken, sleep, rings: [new Ring(ram, 8), new Ring(ram, 8)], line: new Line() }
}

function overPci(options: PciFunctionOptions = {}) {
  const m = sleeper()
  const pci = new PciFunction(m.device, { interrupts: m.line, ...options })
  const driver = new PciDriver(pci)
  const control = (capabilities(pci).find(({ id }) => id === 0x11)?.at ?? 0) + 2
  const messages: number[] = []
  ;(m.device.port as BusWindows).setDoorbell(DOORBELL, 4, {
    level: () => {},
    message: (_, data) => messages.push(data),
  })
  const mask = (vector: number, masked: boolean): void => pci.bar(1)!.write(16 * vector + 12, 4, masked ? 1 : 0)
  /** Entry 1 leads to the doorbell, masked, and the configuration is mapped to it. */
  const useMessages = (): void => {
    pci.bar(1)!.write(16, 4, DOORBELL)
    pci.bar(1)!.write(24, 4, 77)
    pci.config.write(control, 2, 0x8000)
    driver.start(m.rings)
    driver.set('configVector', 1)
  }
  return { ...m, pci, driver, control, messages, mask, useMessages }
}

describe.each(TRANSPORTS)('over %s: what happens outside of a poll asks for one', (transport) => {
  const started = () => {
    const m = sleeper()
    const driver: GuestDriver = driverOf(m.device, transport, m.line)
    driver.start(m.rings, VIRTIO_F_RING_RESET)
    m.sleep()
    return { ...m, driver }
  }

  test('a change of the configuration', () => {
    const { device, woken, line } = started()
    device.setLink(false)
    expect([woken(), line.asserted]).toEqual([true, false])
    device.poll(0)
    expect(line.asserted).toBe(true)
  })

  test('an error that only a reset cures', () => {
    const { device, woken, line } = started()
    device.needsReset('test')
    expect(woken()).toBe(true)
    device.poll(0)
    expect(line.asserted).toBe(true)
  })

  test('a queue that is enabled again while the device is live, which may have buffers already', () => {
    const { driver, rings, woken } = started()
    driver.resetQueue(1)
    driver.setQueue(1, rings[1])
    expect(woken()).toBe(false)
    driver.enableQueue(1)
    expect(woken()).toBe(true)
  })
})

describe('over mmio', () => {
  test('restore asks for a poll, which brings the line up', () => {
    const first = sleeper()
    const file = new MmioRegisters(first.device)
    new Driver(file).start(first.rings)
    first.device.setLink(false)
    const other = sleeper()
    const copy = new MmioRegisters(other.device, { interrupts: other.line })
    other.device.restore(first.device.save())
    other.sleep()
    copy.restore(file.save())
    expect([other.woken(), other.line.asserted]).toEqual([true, false])
    other.device.poll(0)
    expect(other.line.asserted).toBe(true)
  })
})

describe('over PCI: a write that lets an interrupt out asks for a poll, and raises none itself', () => {
  test('the mask of a table entry', () => {
    const { device, messages, mask, useMessages, woken, sleep } = overPci()
    useMessages()
    device.setLink(false)
    sleep()
    mask(2, false)
    expect(woken()).toBe(false)
    mask(1, false)
    expect([woken(), messages]).toEqual([true, []])
    device.poll(0)
    expect(messages).toEqual([77])
  })

  test.each([
    ['the function mask', 0xc000, 0x8000],
    ['MSI-X Enable', 0, 0x8000],
  ])('%s', (_, before, after) => {
    const { device, pci, control, messages, mask, useMessages, woken, sleep } = overPci()
    useMessages()
    mask(1, false)
    pci.config.write(control, 2, 0xc000)
    device.setLink(false)
    pci.config.write(control, 2, before)
    pci.config.write(4, 2, MEMORY | MASTER | INTX_DISABLE)
    sleep()
    pci.config.write(control, 2, after)
    expect([woken(), messages]).toEqual([true, []])
    device.poll(0)
    expect(messages).toEqual([77])
  })

  test('Interrupt Disable', () => {
    const { device, driver, rings, line, woken, sleep } = overPci()
    driver.start(rings)
    driver.command = MEMORY | MASTER | INTX_DISABLE
    device.setLink(false)
    sleep()
    driver.command = MEMORY | MASTER
    expect([woken(), line.asserted]).toEqual([true, false])
    device.poll(0)
    expect(line.asserted).toBe(true)
    driver.command = MEMORY | MASTER
    expect(woken()).toBe(false)
  })

  test('Bus Master Enable, after which the device works what was marked meanwhile', () => {
    const { device, driver, rings, ram, woken, sleep } = overPci()
    driver.start(rings)
    sleep()
    driver.command = MEMORY
    rings[1].offer(rings[1].chain({ address: ram.alloc(76), length: 76 }))
    driver.kick(1)
    sleep()
    expect(rings[1].usedIndex).toBe(0)
    driver.command = MEMORY | MASTER
    expect(woken()).toBe(true)
    expect(device.poll(64)).toBe(1)
    driver.command = MEMORY | MASTER
    expect(woken()).toBe(false)
  })

  test('restore', () => {
    const first = overPci()
    first.driver.start(first.rings)
    first.device.setLink(false)
    const other = overPci()
    other.device.restore(first.device.save())
    other.sleep()
    other.pci.restore(first.pci.save())
    expect(other.woken()).toBe(true)
  })
})

describe('MSI-X: an event that was unmapped sends no message (virtio 1.4 §4.1.5.3, §4.1.5.4)', () => {
  test('not even one that a mask held back before', { tags: ['4.1.5.4.1/no-vector'] }, () => {
    const { device, driver, pci, messages, mask, useMessages } = overPci()
    useMessages()
    device.setLink(false)
    expect(pci.bar(1)!.read(0x1000, 4)).toBe(2)
    driver.set('configVector', 0xffff)
    expect(pci.bar(1)!.read(0x1000, 4)).toBe(0)
    mask(1, false)
    device.poll(0)
    expect(messages).toEqual([])
  })

  test('a vector that does not exist unmaps as well', { tags: ['4.1.5.1.2.1/failure'] }, () => {
    const { device, driver, messages, mask, useMessages } = overPci()
    useMessages()
    device.setLink(false)
    driver.set('configVector', 9)
    mask(1, false)
    device.poll(0)
    expect(messages).toEqual([])
  })

  test('one that is mapped to another vector sends it there', () => {
    const { device, driver, pci, messages, mask, useMessages } = overPci()
    useMessages()
    device.setLink(false)
    driver.set('configVector', 2)
    expect(pci.bar(1)!.read(0x1000, 4)).toBe(4)
    mask(1, false)
    device.poll(0)
    expect(messages).toEqual([])
    pci.bar(1)!.write(32, 4, DOORBELL)
    pci.bar(1)!.write(40, 4, 78)
    mask(2, false)
    device.poll(0)
    expect(messages).toEqual([78])
  })

  test('a vector that another event has too keeps what it owes', () => {
    const { device, driver, messages, mask, useMessages } = overPci()
    useMessages()
    driver.set('queueSelect', 0)
    driver.set('queueVector', 1)
    device.setLink(false)
    driver.set('configVector', 0xffff)
    mask(1, false)
    device.poll(0)
    expect(messages).toEqual([77])
  })
})

describe('windows of a PCI function', () => {
  const placed = () => {
    const onWindows = vi.fn<() => void>()
    const m = overPci({ onWindows })
    m.driver.command = 0
    onWindows.mockClear()
    const calls = (): number => {
      const count = onWindows.mock.calls.length
      onWindows.mockClear()
      return count
    }
    return { ...m, calls, onWindows }
  }

  test('onWindows is called when a BAR is enabled, moves while it is, or is disabled, and at no other write', () => {
    const { pci, driver, calls } = placed()
    pci.config.write(0x10, 4, 0xffff_ffff)
    pci.config.write(0x10, 4, 0xfe00_0000)
    driver.command = MASTER
    expect(calls()).toBe(0)
    driver.command = MEMORY
    expect([calls(), pci.range(0)]).toEqual([1, { address: 0xfe00_0000, size: 0x4000, kind: 'memory', enabled: true }])
    pci.config.write(0x10, 4, 0xfe00_0000)
    pci.config.write(0x3c, 1, 5)
    expect(calls()).toBe(0)
    pci.config.write(0x10, 4, 0xfd00_0000)
    expect([calls(), pci.range(0)?.address]).toEqual([1, 0xfd00_0000])
    driver.command = 0
    expect([calls(), pci.range(0)?.enabled]).toEqual([1, false])
  })

  test('range gives the same object until something changes', () => {
    const { pci, driver } = placed()
    const first = pci.range(0)
    expect(pci.range(0)).toBe(first)
    driver.command = MEMORY
    expect(pci.range(0)).not.toBe(first)
  })

  test('what onWindows throws surfaces in a microtask, and the write is done', async () => {
    const { pci, driver, onWindows } = placed()
    const thrown = new Error('the host bridge is broken')
    onWindows.mockImplementation(() => {
      throw thrown
    })
    const caught = new Promise((resolve) => process.once('uncaughtException', resolve))
    driver.command = MEMORY
    expect(pci.range(0)?.enabled).toBe(true)
    expect(await caught).toBe(thrown)
  })

  test('restore moves them too', () => {
    const first = placed()
    first.pci.config.write(0x10, 4, 0xfe00_0000)
    first.driver.command = MEMORY
    const other = placed()
    other.pci.restore(first.pci.save())
    expect([other.calls(), other.pci.range(0)]).toEqual([1, first.pci.range(0)])
  })

  test('a platform reset takes back all that software wrote: PCI 3.0 §6.2.2, §6.2.5.1, §6.8.2', () => {
    const m = placed()
    const { pci, driver, control, device, line, calls } = m
    const fresh = overPci()
    fresh.driver.command = 0
    pci.config.write(0x10, 4, 0xfe00_0000)
    pci.config.write(0x3c, 1, 5)
    driver.command = MEMORY | MASTER
    m.useMessages()
    pci.config.write(control, 2, 0)
    driver.set('queueSelect', 1)
    device.setLink(false)
    device.poll(1)
    expect(line.asserted).toBe(true)
    calls()
    pci.reset()
    expect([calls(), line.asserted, device.status, pci.range(0)?.enabled]).toEqual([1, false, 0, false])
    const { generation: _, ...state } = pci.save()
    const { generation: __, ...expected } = fresh.pci.save()
    expect(state).toEqual(expected)
  })
})

/** The driver's choice at an offset changes with what is written, and the generation with the choice alone. */
function expectChanges(driver: GuestDriver, offset: number): void {
  const seen = (): [number, number] => [driver.config(offset, 1), driver.generation]
  const [value, generation] = seen()
  driver.setConfig(offset, 1, 1 - value)
  const [changed, next] = seen()
  expect([changed, next !== generation]).toEqual([1 - value, true])
  driver.setConfig(offset, 1, 1 - value)
  expect(seen()).toEqual([1 - value, next])
}

describe.each(TRANSPORTS)(
  'config/generation over %s: it changes with every field (virtio 1.4 §2.5.1, §4.1.4.3.1)',
  (transport) => {
    test("with the driver's own choice of writeback", { tags: ['4.2.2.1/generation', '4.1.4.3.1/generation'] }, () => {
      const ram = new Ram()
      const device = new BlkDevice({
        name: 'blk0',
        port: everything(ram.memory),
        store: new MemoryBlockStore(new Uint8Array(DISK_BYTES)),
        writeback: true,
      })
      const driver = driverOf(device, transport, new Line())
      driver.negotiate(32, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE)
      expectChanges(driver, 32)
    })

    test("with the driver's own choice of bypass", { tags: ['4.2.2.1/generation', '4.1.4.3.1/generation'] }, () => {
      const ram = new Ram()
      const device = new IommuDevice({ name: 'iommu0', port: everything(ram.memory) })
      const driver = driverOf(device, transport, new Line())
      driver.negotiate(32, 6)
      expectChanges(driver, 36)
    })

    test('what a device begins with is no change', () => {
      const { device, line } = sleeper()
      const driver = driverOf(device, transport, line)
      const { generation } = driver
      expect(driver.config(0, 1)).toBe(MAC[0])
      expect([generation, driver.generation]).toEqual([0, 0])
    })
  },
)

describe.each(TRANSPORTS)('init/words over %s: feature words beyond 128 bits (virtio 1.4 §2.2)', (transport) => {
  const begun = () => {
    const { device, line } = sleeper()
    const driver = driverOf(device, transport, line)
    driver.status = 1
    driver.status = 3
    driver.driverFeatures(1, 1)
    return { driver }
  }

  test('one that was taken back does not count', () => {
    const { driver } = begun()
    for (const word of [4, 5, 0xffff_ffff]) driver.driverFeatures(word, 7)
    for (const word of [4, 5]) driver.driverFeatures(word, 0)
    driver.status = 11
    expect(driver.status).toBe(3)
    driver.driverFeatures(0xffff_ffff, 0)
    driver.status = 11
    expect(driver.status).toBe(11)
  })

  test('more than can be told apart are refused until a reset', () => {
    const { driver } = begun()
    for (let word = 4; word < 104; word++) driver.driverFeatures(word, 1)
    for (let word = 4; word < 104; word++) driver.driverFeatures(word, 0)
    driver.status = 11
    expect(driver.status).toBe(3)
    driver.status = 0
    driver.negotiate(32)
    expect(driver.status).toBe(11)
  })
})

describe('an interrupt sink that throws stops nobody: it surfaces in a microtask', () => {
  const thrown = new Error('the interrupt controller is broken')
  const fail = (): never => {
    throw thrown
  }
  const surfacing = (): Promise<unknown> => new Promise((resolve) => process.once('uncaughtException', resolve))

  test('the line over mmio', async () => {
    const { device, rings } = sleeper()
    const driver = new Driver(new MmioRegisters(device, { interrupts: { level: fail } }))
    driver.start(rings)
    device.setLink(false)
    const caught = surfacing()
    expect(device.poll(1)).toBe(0)
    expect(await caught).toBe(thrown)
    const again = surfacing()
    driver.w(0x64, 2)
    expect(await again).toBe(thrown)
    expect([driver.r(0x60), device.live]).toEqual([0, true])
  })

  test('the line over PCI', async () => {
    const { device, driver, rings } = overPci({ interrupts: { level: fail } })
    driver.start(rings)
    device.setLink(false)
    const caught = surfacing()
    expect(device.poll(1)).toBe(0)
    expect(await caught).toBe(thrown)
    const again = surfacing()
    expect(driver.acknowledge()).toBe(2)
    expect(await again).toBe(thrown)
  })

  test('a message', async () => {
    const { device, mask, useMessages } = overPci()
    ;(device.port as BusWindows).setDoorbell(DOORBELL, 4, { level: () => {}, message: fail })
    useMessages()
    mask(1, false)
    device.setLink(false)
    const caught = surfacing()
    expect(device.poll(1)).toBe(0)
    expect(await caught).toBe(thrown)
    expect(device.live).toBe(true)
  })
})

describe('an inline doorbell does the work itself, and asks for a poll only where some is left', () => {
  function inline(link: NetLink) {
    let calls = 0
    const ram = new Ram()
    const device = new NetDevice({ name: 'net0', port: everything(ram.memory), mac: MAC, link, onWork: () => calls++ })
    const driver = new Driver(new MmioRegisters(device, { notify: 'inline' }))
    const rings = [new Ring(ram, 8), new Ring(ram, 8)] as const
    driver.start(rings)
    while (device.poll(64) > 0);
    calls = 0
    const send = (): void => {
      rings[1].offer(rings[1].chain({ address: ram.alloc(76), length: 76 }))
      driver.kick(1)
    }
    return { send, used: () => rings[1].usedIndex, calls: () => calls }
  }

  test('nothing is left', () => {
    const m = inline({ transmit: ({ count }) => count })
    m.send()
    expect([m.used(), m.calls()]).toEqual([1, 0])
  })

  // 60 bytes of frame are one chain each; 2 MiB of a disk are 33.
  test.each([
    ['frames that are sent', 2048, 1024],
    ['frames that come in', 2048, 512],
    ['requests of 2 MiB', 64, 32],
  ])('%s: of %i, at most %i by one doorbell, and a poll is asked for', (what, count, most) => {
    let calls = 0
    const onWork = (): void => void calls++
    const options = { name: 'd', onWork, queueSize: 2048 }
    const ram = new Ram(4 << 20)
    const port = everything(ram.memory)
    const ring = new Ring(ram, 2048)
    const other = new Ring(ram, 2048)
    let frames = 0
    const link = {
      device: null as FrameReceiver | null,
      attach: (device: FrameReceiver) => {
        link.device = device
      },
      transmit: eachFrame(() => frames++),
      deliver: (budget: number): number => {
        let n = 0
        if (what === 'frames that come in') while (n < budget && link.device?.receive(pattern(60)) === true) n++
        return n
      },
    }
    const store = new MemoryBlockStore(new Uint8Array(2 << 20))
    const device =
      what === 'requests of 2 MiB'
        ? new BlkDevice({ ...options, port, store })
        : new NetDevice({ ...options, port, mac: MAC, link })
    const driver = new Driver(new MmioRegisters(device, { notify: 'inline' }))
    const queue = what === 'frames that are sent' ? 1 : 0
    driver.start(device instanceof BlkDevice ? [ring] : queue === 0 ? [ring, other] : [other, ring])
    while (device.poll(64) > 0);
    const data = { address: ram.alloc(2 << 20), length: 2 << 20, w: true }
    const chain =
      device instanceof BlkDevice
        ? [header(ram, 0), data, status(ram)]
        : [{ address: ram.alloc(72), length: 72, w: queue === 0 }]
    for (let i = 0; i < count; i++) ring.offer(ring.chain(...chain))
    calls = 0
    driver.kick(queue)
    expect([ring.usedIndex > 0, ring.usedIndex <= most, calls]).toEqual([true, true, 1])
    while (device.poll(64) > 0);
    expect(ring.usedIndex).toBe(count)
  })

  test('a doorbell that rings within a poll of the device', () => {
    const m: ReturnType<typeof inline> = inline({
      transmit: ({ count }) => {
        if (m.used() + again++ === 0) m.send()
        return count
      },
    })
    let again = 0
    m.send()
    expect(m.calls()).toBe(1)
  })
})
