import {
  STATUS_DEVICE_NEEDS_RESET,
  VIRTIO_F_ADMIN_VQ,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_RESET,
} from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import {
  BlkDevice,
  everything,
  MemoryBlockStore,
  PciFunction,
  type RegisterFault,
  type RegisterFaultReason,
} from '../src/index.ts'
import { MAC, type PciMachine, packet, pciMachine, RecordingLink } from './support/devices.ts'
import { pattern, Ram, Ring } from './support/guest.ts'
import { COMMON, type CommonField, PciDriver } from './support/pci.ts'

const NO_VECTOR = 0xffff
const fields = Object.keys(COMMON) as CommonField[]

function lastFault(m: PciMachine): RegisterFault {
  return m.device.faults.last().at(-1) as RegisterFault
}

function expectFault(m: PciMachine, reason: RegisterFaultReason, field: CommonField, value: number | null): void {
  const [offset, size] = COMMON[field]
  expect(lastFault(m)).toEqual({ kind: 'register', device: 'net0', reason, space: 0, offset, size, value })
}

describe('common configuration (virtio 1.4 §4.1.4.3)', () => {
  test('fields in their own width; a read of a part gives the part, all else nothing (§4.1.3.1)', () => {
    const m = pciMachine({}, { offer: [38, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ] })
    m.driver.negotiate(32, VIRTIO_F_RING_RESET, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ)
    const bar = m.pci.bar(0)!
    // Something to be seen in the halves and bytes of as many fields as can hold it.
    m.driver.setQueue(1, m.tx)
    m.driver.set('driverFeatureSelect', 0x1234_5678)
    m.driver.set('deviceFeatureSelect', 1)
    const faults = m.device.faults.count
    const bytes = new DataView(new ArrayBuffer(64))
    for (const field of fields) {
      const [offset, size] = COMMON[field]
      const value = m.driver.get(field)
      if (size === 4) bytes.setUint32(offset, value, true)
      else if (size === 2) bytes.setUint16(offset, value, true)
      else bytes.setUint8(offset, value)
    }
    expect(m.device.faults.count).toBe(faults)
    const owner = (at: number): CommonField | undefined =>
      fields.find((field) => at >= COMMON[field][0] && at < COMMON[field][0] + COMMON[field][1])
    const widths = new Map(fields.map((field) => [COMMON[field][0], COMMON[field][1]] as [number, number]))
    for (let offset = 0; offset < 64; offset++) {
      for (const size of [1, 2, 4] as const) {
        const before = m.device.faults.count
        const value = bar.read(offset, size)
        const proper = widths.get(offset) === size
        const part = offset % size === 0 && owner(offset) !== undefined && owner(offset) === owner(offset + size - 1)
        expect([offset, size, m.device.faults.count - before]).toEqual([offset, size, part ? 0 : 1])
        const get = size === 4 ? 'getUint32' : size === 2 ? 'getUint16' : 'getUint8'
        expect([offset, size, value]).toEqual([offset, size, part ? bytes[get](offset, true) : 0])
        if (proper) continue
        if (!part) expect(lastFault(m)).toMatchObject({ reason: 'width', offset, size, value: null })
        bar.write(offset, size, 0)
        expect(lastFault(m)).toMatchObject({ reason: 'width', offset, size, value: 0 })
      }
    }
    expect(m.device.status).toBe(11)
  })

  test.each<CommonField>([
    'deviceFeature',
    'numQueues',
    'generation',
    'notifyOff',
    'notifConfigData',
    'adminIndex',
    'adminNum',
  ])('%s is read-only for the driver', (field) => {
    const m = pciMachine({}, { offer: [VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ] })
    m.driver.negotiate(32, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ)
    const before = m.driver.get(field)
    m.driver.set(field, 0x55)
    expectFault(m, 'read-only', field, 0x55)
    expect(m.driver.get(field)).toBe(before)
  })

  test('device_feature shows 32 bits for any device_feature_select, 0 where there are none', {
    tags: ['4.1.4.3.1/device-feature'],
  }, () => {
    const m = pciMachine({}, { offer: [70, 127] })
    const words = [0, 1, 2, 3, 4, 0xffff_ffff].map((word) => m.driver.deviceFeatures(word))
    expect(words).toEqual([m.device.offered.word(0), 1 | (1 << 8) | (1 << 11), 1 << 6, 0x8000_0000, 0, 0])
    expect(words[0]).not.toBe(0)
    expect([m.driver.get('deviceFeatureSelect'), m.device.faults.count]).toEqual([0xffff_ffff, 0])
  })

  test('driver_feature shows what the driver wrote', { tags: ['4.1.4.3.1/driver-feature'] }, () => {
    const m = pciMachine()
    m.driver.driverFeatures(0, 0x8000_0020)
    m.driver.driverFeatures(1, 1)
    const word = (index: number): number => {
      m.driver.set('driverFeatureSelect', index)
      return m.driver.get('driverFeature')
    }
    expect([0, 1, 2, 3, 4, 0xffff_ffff].map(word)).toEqual([0x8000_0020, 1, 0, 0, 0, 0])
    m.driver.status = 0
    expect([word(0), word(1)]).toEqual([0, 0])
    m.driver.negotiate(32, 5)
    m.driver.driverFeatures(0, 0)
    expectFault(m, 'order', 'driverFeature', 0)
    expect(word(0)).toBe(1 << 5)
  })

  test('num_queues; a queue that is not there has size 0 and takes nothing', { tags: ['4.1.4.3.1/no-queue'] }, () => {
    const m = pciMachine()
    m.driver.negotiate(32, VIRTIO_F_RING_RESET)
    expect(m.driver.get('numQueues')).toBe(2)
    for (const select of [2, 0xffff]) {
      m.driver.set('queueSelect', select)
      expect(m.driver.get('queueSelect')).toBe(select)
      const shown = fields.slice(fields.indexOf('queueSize'), fields.indexOf('notifConfigData'))
      expect(shown.map((field) => m.driver.get(field))).toEqual([0, NO_VECTOR, 0, 0, 0, 0, 0, 0, 0, 0])
      expect(m.driver.get('queueReset')).toBe(0)
      const before = m.device.faults.count
      for (const field of ['queueSize', 'queueVector', 'queueEnable', 'queueReset', 'descLow', 'deviceHigh'] as const) {
        m.driver.set(field, 1)
        expectFault(m, 'no-queue', field, 1)
      }
      expect(m.device.faults.count).toBe(before + 6)
    }
  })

  test('device_status: 0 resets at once, and reads 0', { tags: ['2.4.1/status-zero', '4.1.4.3.1/reset'] }, () => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    expect(m.driver.status).toBe(15)
    m.driver.set('queueSelect', 1)
    m.driver.status = 0
    expect(m.driver.status).toBe(0)
    expect([m.driver.get('queueSelect'), m.driver.get('deviceFeatureSelect')]).toEqual([0, 0])
    for (const queue of [0, 1]) {
      m.driver.set('queueSelect', queue)
      expect([m.driver.get('queueEnable'), m.driver.get('queueSize'), m.driver.get('descLow')]).toEqual([0, 256, 0])
    }
    m.driver.status = 1
    m.driver.status = 2
    expectFault(m, 'status-bits', 'status', 2)
  })

  test('queue_size: the maximum at first, then powers of two up to it', { tags: ['4.1.4.3.1/queue-size'] }, () => {
    const m = pciMachine({}, { queueSize: 64 })
    m.driver.negotiate(32)
    m.driver.set('queueSelect', 1)
    expect(m.driver.get('queueSize')).toBe(64)
    for (const size of [1, 2, 32, 64]) {
      m.driver.set('queueSize', size)
      expect(m.driver.get('queueSize')).toBe(size)
    }
    expect(m.device.faults.count).toBe(0)
    for (const size of [0, 3, 48, 128, 0x8000, 0xffff]) {
      m.driver.set('queueSize', size)
      expectFault(m, 'value', 'queueSize', size)
      expect(m.driver.get('queueSize')).toBe(64)
    }
  })

  test('64-bit addresses as halves in any order, up to 2^64 - 1', () => {
    const m = pciMachine()
    m.driver.negotiate(32)
    m.driver.set('queueSelect', 1)
    const halves = ['deviceHigh', 'descHigh', 'driverLow', 'descLow', 'driverHigh', 'deviceLow'] as const
    halves.forEach((field, i) => {
      m.driver.set(field, 0xffff_fff0 + i)
    })
    expect(halves.map((field) => m.driver.get(field))).toEqual([0, 1, 2, 3, 4, 5].map((i) => 0xffff_fff0 + i))
    expect([...m.device.queues[1].areas]).toEqual([3, 1, 2, 4, 5, 0].map((i) => 0xffff_fff0 + i))
    expect([...m.device.queues[0].areas]).toEqual([0, 0, 0, 0, 0, 0])
    m.driver.set('queueEnable', 1)
    expect(m.device.status & STATUS_DEVICE_NEEDS_RESET).not.toBe(0)
  })

  test('queue_enable: 1 enables after FEATURES_OK; 0 and anything else do nothing (§4.1.4.3.2)', {
    tags: ['4.1.4.3.1/enable-at-reset'],
  }, () => {
    const m = pciMachine()
    m.driver.status = 3
    m.driver.set('queueEnable', 1)
    expectFault(m, 'order', 'queueEnable', 1)
    expect(m.driver.get('queueEnable')).toBe(0)
    m.driver.start([m.rx, m.tx])
    for (const value of [0, 2, 0xffff]) {
      m.driver.set('queueEnable', value)
      expectFault(m, 'value', 'queueEnable', value)
      expect(m.driver.get('queueEnable')).toBe(1)
    }
  })

  test('the fields of an enabled queue are closed, but for its vector', () => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    for (const field of [
      'queueSize',
      'descLow',
      'descHigh',
      'driverLow',
      'driverHigh',
      'deviceLow',
      'deviceHigh',
    ] as const) {
      m.driver.set(field, 4)
      expectFault(m, 'queue-ready', field, 4)
    }
    expect([m.driver.get('queueSize'), m.driver.get('descLow')]).toEqual([8, m.tx.desc])
    m.driver.set('queueVector', 1)
    expect(m.driver.get('queueVector')).toBe(1)
  })

  test('queue_reset exists with RING_RESET only, and gives the queue back as after a reset (§2.6.1)', {
    tags: [
      '2.6.1.2.1/new-configuration',
      '4.1.4.3.1/queue-reset-at-enable',
      '4.1.4.3.1/queue-reset',
      '4.1.4.3.1/queue-reset-done',
    ],
  }, () => {
    const without = pciMachine()
    without.driver.start([without.rx, without.tx])
    expect(without.driver.get('queueReset')).toBe(0)
    expectFault(without, 'feature', 'queueReset', null)
    without.driver.set('queueReset', 1)
    expectFault(without, 'feature', 'queueReset', 1)
    expect(without.driver.get('queueEnable')).toBe(1)

    const link = new RecordingLink()
    const m = pciMachine({}, { link })
    m.driver.start([m.rx, m.tx], VIRTIO_F_RING_RESET)
    m.driver.set('queueVector', 2)
    m.driver.set('queueReset', 0)
    expect(m.driver.get('queueEnable')).toBe(1)
    m.driver.set('queueReset', 3)
    expectFault(m, 'value', 'queueReset', 3)
    m.driver.set('queueReset', 1)
    expect([m.driver.get('queueReset'), m.driver.get('queueEnable')]).toEqual([0, 0])
    expect([m.driver.get('queueSize'), m.driver.get('descLow'), m.driver.get('queueVector')]).toEqual([
      256,
      0,
      NO_VECTOR,
    ])
    const ring = new Ring(m.ram, 4)
    m.driver.queue(1, ring)
    expect(m.driver.get('queueReset')).toBe(0)
    ring.offer(ring.chain(packet(m.ram, pattern(64))))
    m.driver.kick(1)
    m.device.poll(64)
    expect(link.frames).toEqual([pattern(64)])
  })

  test('the fields of features that were not negotiated do not exist', () => {
    const m = pciMachine({}, { offer: [VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ] })
    m.driver.negotiate(32)
    for (const field of ['notifConfigData', 'adminIndex', 'adminNum'] as const) {
      expect(m.driver.get(field)).toBe(0)
      expectFault(m, 'feature', field, null)
    }
    m.driver.negotiate(32, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_ADMIN_VQ)
    m.driver.set('queueSelect', 1)
    expect([m.driver.get('notifConfigData'), m.driver.get('adminIndex'), m.driver.get('adminNum')]).toEqual([
      0xfffe, 2, 0,
    ])
  })
})

describe('MSI-X vector configuration (§4.1.5.1.2)', () => {
  test('a vector of the table is kept; any other reads back as NO_VECTOR; reset unmaps', {
    tags: [
      '4.1.5.1.2.1/any-vector',
      '4.1.5.1.2.1/unmapping',
      '4.1.5.1.2.1/read-back',
      '4.1.5.1.2.1/reset',
      '4.1.5.1.2.1/mapping-works',
    ],
  }, () => {
    const m = pciMachine({ msixVectors: 3 })
    expect(m.driver.get('configVector')).toBe(NO_VECTOR)
    for (const field of ['configVector', 'queueVector'] as const) {
      for (const vector of [0, 1, 2]) {
        m.driver.set(field, vector)
        expect(m.driver.get(field)).toBe(vector)
      }
      for (const vector of [3, 0x7ff, 0x800, 0xfffe]) {
        m.driver.set(field, 1)
        m.driver.set(field, vector)
        expectFault(m, 'vector', field, vector)
        expect(m.driver.get(field)).toBe(NO_VECTOR)
      }
      m.driver.set(field, 2)
    }
    const { count } = m.device.faults
    m.driver.set('queueVector', NO_VECTOR)
    expect([m.driver.get('queueVector'), m.device.faults.count]).toEqual([NO_VECTOR, count])
    m.driver.set('queueVector', 0)
    m.driver.set('queueSelect', 1)
    expect(m.driver.get('queueVector')).toBe(NO_VECTOR)
    m.driver.status = 0
    expect([m.driver.get('configVector'), m.driver.get('queueVector')]).toEqual([NO_VECTOR, NO_VECTOR])
  })

  test('without MSI-X every mapping fails', { tags: ['4.1.5.1.2.1/failure'] }, () => {
    const m = pciMachine({ msixVectors: 0 })
    m.driver.set('configVector', 0)
    expect(m.driver.get('configVector')).toBe(NO_VECTOR)
    m.driver.set('queueVector', 0)
    expect(m.driver.get('queueVector')).toBe(NO_VECTOR)
  })
})

describe('device-specific configuration (§4.1.4.6, §2.5)', () => {
  test('in the width of its fields', () => {
    const m = pciMachine({}, { mtu: 9000 })
    const { offset: base } = m.driver.structure(4)
    expect([0, 1, 2, 3, 4, 5].map((i) => m.driver.config(i, 1))).toEqual(MAC)
    expect([m.driver.config(6, 2), m.driver.config(10, 2), m.device.faults.count]).toEqual([1, 9000, 0])
    // Of another width it is served, and recorded.
    expect(m.driver.config(4, 4)).toBe(0x0001_0302)
    expect(lastFault(m)).toMatchObject({ reason: 'width', space: 0, offset: base + 4, size: 4, value: null })
    expect(m.driver.config(10, 4)).toBe(0)
    expect(lastFault(m)).toMatchObject({ reason: 'unknown', offset: base + 10 })
    m.driver.setConfig(0, 1, 9)
    expect(lastFault(m)).toMatchObject({ reason: 'read-only', offset: base, value: 9 })
    m.driver.setConfig(6, 1, 9)
    expect(lastFault(m)).toMatchObject({ reason: 'width', offset: base + 6 })
    expect(m.driver.config(0, 1)).toBe(MAC[0])
  })

  test('a 64-bit field as two of 32; a writable field after negotiation only', { tags: ['4.1.3.2/halves'] }, () => {
    const ram = new Ram()
    const device = new BlkDevice({
      name: 'blk0',
      port: everything(ram.memory),
      store: new MemoryBlockStore(new Uint8Array(512)),
      writeback: true,
    })
    const driver = new PciDriver(new PciFunction(device))
    expect([driver.config(4, 4), driver.config(0, 4)]).toEqual([0, 1])
    driver.setConfig(0x20, 1, 0)
    expect(device.faults.last()).toMatchObject([{ reason: 'order' }])
    driver.negotiate(32, 9, 11)
    driver.setConfig(0x20, 1, 0)
    expect(driver.config(0x20, 1)).toBe(0)
    driver.negotiate(32, 9)
    driver.setConfig(0x20, 1, 1)
    expect(device.faults.last().at(-1)).toMatchObject({ reason: 'feature' })
  })

  test('config_generation differs after a changed value was read, and not before (§4.1.4.3.1)', {
    tags: ['4.1.4.3.1/generation'],
  }, () => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    m.driver.config(6, 2)
    const { generation } = m.driver
    m.driver.config(6, 2)
    expect(m.driver.generation).toBe(generation)
    m.device.setLink(false)
    expect(m.driver.config(6, 2)).toBe(0)
    const after = m.driver.generation
    expect(after).not.toBe(generation)
    m.driver.config(6, 2)
    expect(m.driver.generation).toBe(after)
  })

  test('config_generation differs also where 256 or 512 changes would wrap it', () => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    for (const changes of [255, 256, 257, 512]) {
      m.driver.config(6, 2)
      const { generation } = m.driver
      for (let i = 0; i < changes; i++) m.device.setLink(i % 2 !== 0)
      m.driver.config(6, 2)
      expect(m.driver.generation).not.toBe(generation)
      m.device.setLink(true)
    }
    // It has 8 bits, and wraps.
    for (let i = 0; i < 600; i++) {
      m.device.setLink(i % 2 === 0)
      m.driver.config(6, 2)
      expect(m.driver.generation).toBeLessThan(256)
    }
  })
})
