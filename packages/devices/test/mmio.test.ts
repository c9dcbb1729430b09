import { describe, expect, test } from 'vitest'
import { everything, MmioRegisters, NetDevice, type RegisterFaultReason } from '../src/index.ts'
import { blkMachine, MAC, type NetMachine, netMachine, packet, RecordingLink } from './support/devices.ts'
import { BASE, Driver, Line, pattern, Ram, Ring } from './support/guest.ts'

function lastFault(m: Pick<NetMachine, 'device'>): unknown {
  return m.device.faults.last().at(-1)
}

const fault = (reason: RegisterFaultReason, offset: number, size: number, value: number | null): unknown => ({
  kind: 'register',
  device: 'net0',
  reason,
  offset,
  size,
  value,
})

describe('mmio registers (virtio 1.4 §4.2.2)', () => {
  test('what a driver looks at first', { tags: ['4.2.2.1/magic', '4.2.2.1/version'] }, () => {
    const m = netMachine()
    expect([0, 4, 8, 0xc].map((at) => m.driver.r(at))).toEqual([0x7472_6976, 2, 1, 0x616d_6467])
    const other = netMachine()
    expect(() => new MmioRegisters(other.device)).toThrow(expect.objectContaining({ code: 'DEVICE_OPTION' }))
  })

  test('a read of an aligned part of a control register gives the part, and is no fault', () => {
    const m = netMachine()
    const parts = ([at, size]: readonly [number, 1 | 2]): number => m.registers.read(at, size)
    expect(
      (
        [
          [0, 1],
          [1, 1],
          [3, 1],
          [0, 2],
          [2, 2],
        ] as const
      ).map(parts),
    ).toEqual([0x76, 0x69, 0x74, 0x6976, 0x7472])
    m.driver.negotiate(32)
    expect(
      (
        [
          [0x70, 1],
          [0x71, 1],
          [0x72, 2],
        ] as const
      ).map(parts),
    ).toEqual([11, 0, 0])
    expect(m.device.faults.count).toBe(0)
    expect(m.registers.read(0x25, 1)).toBe(0)
    expect(lastFault(m)).toMatchObject({ reason: 'write-only' })
  })

  test.each<[number, 2 | 4]>([
    [1, 2],
    [3, 2],
    [2, 4],
    [0x71, 4],
  ])('a read that is no part of one control register gives 0: %i, %i', (offset, size) => {
    const m = netMachine()
    expect(m.registers.read(offset, size)).toBe(0)
    expect(lastFault(m)).toEqual(fault('width', offset, size, null))
  })

  test.each<[number, 1 | 2 | 4]>([
    [0, 1],
    [0, 2],
    [2, 4],
    [0x71, 1],
    [0x72, 2],
  ])('control registers are written in 32 bits, aligned: %i, %i', (offset, size) => {
    const m = netMachine()
    m.registers.write(offset, size, 1)
    expect(lastFault(m)).toEqual(fault('width', offset, size, 1))
    expect(m.device.status).toBe(0)
  })

  test.each([0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac])(
    'reading write-only register %i gives 0',
    (offset) => {
      const m = netMachine()
      expect(m.driver.r(offset)).toBe(0)
      expect(lastFault(m)).toEqual(fault('write-only', offset, 4, null))
    },
  )

  test.each([0, 4, 8, 0xc, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc])(
    'writing read-only register %i does nothing',
    (offset) => {
      const m = netMachine()
      const before = m.driver.r(offset)
      m.driver.w(offset, 0x1234_5678)
      expect(m.driver.r(offset)).toBe(before)
      expect(lastFault(m)).toEqual(fault('read-only', offset, 4, 0x1234_5678))
    },
  )

  test('offsets without a register', () => {
    const m = netMachine()
    for (const offset of [0x18, 0x3c, 0x40, 0x28, 0xc4]) {
      expect(m.driver.r(offset)).toBe(0)
      expect(lastFault(m)).toEqual(fault('unknown', offset, 4, null))
      m.driver.w(offset, 1)
      expect(lastFault(m)).toEqual(fault('unknown', offset, 4, 1))
    }
  })

  test('absent shared memory regions read as all ones', () => {
    const m = netMachine()
    m.driver.w(0xac, 3)
    expect([0xb0, 0xb4, 0xb8, 0xbc].map((at) => m.driver.r(at))).toEqual(new Array(4).fill(0xffff_ffff))
    expect(m.device.faults.count).toBe(0)
  })

  test('queues that do not exist', () => {
    const m = netMachine()
    m.driver.negotiate(32)
    m.driver.w(0x30, 2)
    expect([m.driver.r(0x34), m.driver.r(0x44)]).toEqual([0, 0])
    expect(m.device.faults.count).toBe(0)
    m.driver.w(0x44, 1)
    expect(lastFault(m)).toEqual(fault('no-queue', 0x44, 4, 1))
    m.driver.driverOk()
    m.driver.w(0x50, 7)
    expect(lastFault(m)).toEqual(fault('no-queue', 0x50, 4, 7))
    m.driver.w(0x50, 0x1_0000)
    expect(lastFault(m)).toEqual(fault('no-queue', 0x50, 4, 0x1_0000))
  })

  test('the registers of a ready queue are closed', () => {
    const m = netMachine()
    m.driver.start([m.rx, m.tx])
    m.driver.w(0x30, 1)
    for (const offset of [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4]) {
      m.driver.w(offset, 0x40)
      expect(lastFault(m)).toEqual(fault('queue-ready', offset, 4, 0x40))
    }
    expect(m.device.queues[1].size).toBe(8)
  })

  test('values above 2^31 are unsigned', () => {
    const m = netMachine()
    m.driver.negotiate(32)
    m.driver.queue(0, m.rx)
    expect(m.device.queues[0].areas[0]).toBe(m.rx.desc)
    expect(m.rx.desc).toBeGreaterThanOrEqual(BASE)
    m.registers.write(0x60, 4, -1)
    expect(lastFault(m)).toEqual(fault('read-only', 0x60, 4, 0xffff_ffff))
  })
})

describe('configuration space (§2.5, §4.2.2)', () => {
  test('in the width of its fields', () => {
    const m = netMachine({ mtu: 9000 })
    expect([0, 1, 2, 3, 4, 5].map((i) => m.registers.read(0x100 + i, 1))).toEqual(MAC)
    expect([m.registers.read(0x106, 2), m.registers.read(0x10a, 2)]).toEqual([1, 9000])
    // Part of a field: an emulator may split what its guest read in one piece.
    expect([m.registers.read(0x10a, 1), m.registers.read(0x10b, 1)]).toEqual([9000 & 0xff, 9000 >>> 8])
    expect(m.device.faults.count).toBe(0)
    // Of any other width it is served, and recorded.
    expect(m.registers.read(0x104, 4)).toBe(0x0001_0302)
    expect(lastFault(m)).toEqual(fault('width', 0x104, 4, null))
    expect(m.registers.read(0x10a, 4)).toBe(0)
    expect(lastFault(m)).toEqual(fault('unknown', 0x10a, 4, null))
    m.registers.write(0x100, 1, 9)
    expect(lastFault(m)).toEqual(fault('read-only', 0x100, 1, 9))
    m.registers.write(0x106, 1, 9)
    expect(lastFault(m)).toEqual(fault('width', 0x106, 1, 9))
    expect(m.registers.read(0x100, 1)).toBe(MAC[0])
  })

  test('a field of 64 bits as two of 32; a writable field after negotiation only', {
    tags: ['2.5.2/readable-early'],
  }, () => {
    const m = blkMachine({ writeback: true, blockSize: 4096, sizeMax: 65536, segMax: 14, queues: 2 })
    expect([m.driver.r(0x100), m.driver.r(0x104), m.driver.r(0x108), m.driver.r(0x10c)]).toEqual([64, 0, 65536, 14])
    expect([m.driver.r(0x114), m.registers.read(0x122, 2), m.registers.read(0x121, 1)]).toEqual([4096, 2, 0])
    m.registers.write(0x120, 1, 0)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'order' }])
    m.driver.negotiate(32, 9, 11)
    expect(m.registers.read(0x120, 1)).toBe(1)
    m.registers.write(0x120, 1, 0)
    expect(m.registers.read(0x120, 1)).toBe(0)
    m.driver.negotiate(32, 9)
    m.registers.write(0x120, 1, 1)
    expect(m.device.faults.last().at(-1)).toMatchObject({ reason: 'feature' })
  })

  test('the generation changes with the contents', { tags: ['4.2.2.1/generation'] }, () => {
    const m = netMachine()
    m.driver.start([m.rx, m.tx])
    const before = m.driver.r(0xfc)
    m.device.setLink(true)
    expect(m.driver.r(0xfc)).toBe(before)
    m.device.setLink(false)
    expect(m.driver.r(0xfc)).not.toBe(before)
    expect(m.registers.read(0x106, 2)).toBe(0)
  })

  test('a platform reset resets the registers with the device, whatever it was doing', () => {
    const m = netMachine({ link: new RecordingLink() })
    m.driver.start([m.rx, m.tx])
    m.driver.w(0x30, 1)
    m.device.setLink(false)
    m.device.poll(1)
    m.registers.reset()
    expect([m.device.status, m.driver.r(0x60), m.line.asserted, m.registers.save().selectors]).toEqual([
      0,
      0,
      false,
      [0, 0, 0],
    ])
  })
})

describe('interrupts (§4.2.2.1, §4.2.3.4)', () => {
  test('InterruptStatus at once, the line from poll only, down on the last acknowledgement', {
    tags: ['4.2.2.1/interrupt-status', '4.2.2.1/interrupt-bits'],
  }, () => {
    const m = netMachine({ link: new RecordingLink() })
    m.driver.start([m.rx, m.tx])
    m.device.setLink(false)
    expect([m.driver.r(0x60), m.line.asserted]).toEqual([2, false])
    m.device.setLink(true)
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
    m.driver.kick(1)
    expect(m.line.asserted).toBe(false)
    m.device.poll(64)
    expect([m.driver.r(0x60), m.line.asserted, m.line.rises]).toEqual([3, true, 1])
    m.driver.w(0x64, 2)
    expect([m.driver.r(0x60), m.line.asserted]).toEqual([1, true])
    m.driver.w(0x64, 0xffff_ffff)
    expect([m.driver.r(0x60), m.line.asserted]).toEqual([0, false])
    m.device.poll(64)
    expect(m.line.rises).toBe(1)
  })

  test('a reset clears what is pending', { tags: ['4.2.2.1/reset'] }, () => {
    const m = netMachine({ link: new RecordingLink() })
    m.driver.start([m.rx, m.tx])
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
    m.driver.kick(1)
    m.device.poll(64)
    m.driver.w(0x70, 0)
    expect([m.driver.r(0x60), m.line.asserted]).toEqual([0, false])
    expect(m.device.queues.map(({ ready }) => ready)).toEqual([false, false])
  })

  test('inline: the doorbell runs the device before it returns', () => {
    const ram = new Ram()
    const link = new RecordingLink()
    const device = new NetDevice({ name: 'inline', port: everything(ram.memory), mac: MAC, link })
    const line = new Line()
    const driver = new Driver(new MmioRegisters(device, { interrupts: line, notify: 'inline', vendorId: 7 }))
    const [rx, tx] = [new Ring(ram, 8), new Ring(ram, 8)]
    driver.start([rx, tx])
    tx.offer(tx.chain(packet(ram, pattern(64))))
    expect(tx.usedIndex).toBe(0)
    driver.kick(1)
    expect([tx.usedIndex, line.asserted, link.frames.length, driver.r(0xc)]).toEqual([1, true, 1, 7])
  })
})
