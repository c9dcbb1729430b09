import type { DeviceAddress } from '@guestdma/memory'
import {
  FeatureSet,
  MMIO_CONFIG,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_INTERRUPT_ACK,
  MMIO_QUEUE_DESC_HIGH,
  MMIO_QUEUE_DESC_LOW,
  MMIO_QUEUE_DEVICE_HIGH,
  MMIO_QUEUE_DEVICE_LOW,
  MMIO_QUEUE_DRIVER_HIGH,
  MMIO_QUEUE_DRIVER_LOW,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_SIZE,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DeviceStuckError, MmioTransport, resetQueue } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { Registers, type RegistersOptions } from './support/registers.ts'

const at = (value: number): DeviceAddress => value as DeviceAddress
const AREAS = { descriptor: at(0x1000), driver: at(0x2000), device: at(0x3000) }

function probed(options: RegistersOptions = {}): { registers: Registers; transport: MmioTransport } {
  const registers = new Registers(options)
  const transport = MmioTransport.probe(registers, 'dev0')
  if (transport === null) throw new Error('no device')
  registers.log.length = 0
  return { registers, transport }
}

describe('mmio/probe (virtio 1.4 §4.2.2.2, §4.2.3.1)', () => {
  it('reads magic, version and device ID in this order and nothing else', { tags: ['4.2.3.1.1/magic-first'] }, () => {
    const registers = new Registers({ deviceId: 2 })
    expect(MmioTransport.probe(registers, 'dev0')?.deviceId).toBe(2)
    expect(registers.short()).toEqual(['r000', 'r004', 'r008'])
  })

  it('ignores a device with device ID 0 without an error and touches no other register', {
    tags: ['4.2.2.2/no-device', '4.2.3.1.1/device-id'],
  }, () => {
    const registers = new Registers({ deviceId: 0 })
    expect(MmioTransport.probe(registers, 'dev0')).toBeNull()
    expect(registers.short()).toEqual(['r000', 'r004', 'r008'])
  })

  it.each([0, 0xffff_ffff, 0x7472_6977, -1])(
    'refuses magic %d before it reads anything else',
    { tags: ['4.2.2.2/magic'] },
    (magic) => {
      const registers = new Registers({ magic })
      expect(() => MmioTransport.probe(registers, 'dev0')).toThrow(expect.objectContaining({ code: 'TRANSPORT_MAGIC' }))
      expect(registers.short()).toEqual(['r000'])
    },
  )

  it('accepts a magic value that a bus hands over as a signed number', () => {
    const registers = new Registers({ magic: 0x7472_6976 | 0 })
    expect(MmioTransport.probe(registers, 'dev0')).not.toBeNull()
  })

  it.each([0, 1, 3, 0xffff_ffff])(
    'refuses version %d and does not ask for the device ID',
    { tags: ['4.2.2.2/version'] },
    (version) => {
      const registers = new Registers({ version })
      expect(() => MmioTransport.probe(registers, 'dev0')).toThrow(
        expect.objectContaining({ code: 'TRANSPORT_VERSION' }),
      )
      expect(registers.short()).toEqual(['r000', 'r004'])
    },
  )
})

describe('mmio/access: registers in their order and width (virtio 1.4 §4.2.2.2)', () => {
  it('selects before each read of DeviceFeatures and shows all 128 bits', { tags: ['4.2.2.2/device-features'] }, () => {
    const offered = FeatureSet.of(0, 31, 32, 63, 64, 127)
    const { registers, transport } = probed({ offered: () => offered })
    expect(transport.readFeatures().bits()).toEqual(offered.bits())
    const order = registers.log.map(({ offset }) => offset)
    expect(order).toEqual([0, 1, 2, 3].flatMap(() => [MMIO_DEVICE_FEATURES_SEL, MMIO_DEVICE_FEATURES]))
    expect(registers.writes(MMIO_DEVICE_FEATURES_SEL)).toEqual([0, 1, 2, 3])
  })

  it('selects before each write of DriverFeatures and writes unsigned words', {
    tags: ['4.2.2.2/driver-features'],
  }, () => {
    const features = FeatureSet.of(31, 32, 95, 127)
    const { registers, transport } = probed()
    transport.writeFeatures(features)
    expect(registers.short()).toEqual([
      'w024=3',
      'w020=80000000',
      'w024=2',
      'w020=80000000',
      'w024=1',
      'w020=1',
      'w024=0',
      'w020=80000000',
    ])
    expect(registers.written.equals(features)).toBe(true)
  })

  it('sets a queue up in the order of §4.2.3.2: selected, not in use, maximum, size, areas, ready last', () => {
    const { registers, transport } = probed()
    transport.enableQueue(3, 64, AREAS)
    expect(registers.log[0]).toMatchObject({ kind: 'w', offset: 0x30, value: 3 })
    const writes = registers.log.filter(({ kind }) => kind === 'w').map(({ offset }) => offset)
    expect(writes.slice(1)).toEqual([
      MMIO_QUEUE_SIZE,
      MMIO_QUEUE_DESC_LOW,
      MMIO_QUEUE_DESC_HIGH,
      MMIO_QUEUE_DRIVER_LOW,
      MMIO_QUEUE_DRIVER_HIGH,
      MMIO_QUEUE_DEVICE_LOW,
      MMIO_QUEUE_DEVICE_HIGH,
      MMIO_QUEUE_READY,
    ])
    const firstWrite = registers.short().indexOf('w038=40')
    expect(registers.short().slice(0, firstWrite).sort()).toEqual(['r034', 'r044', 'w030=3'])
  })

  it('writes 64-bit addresses as two unsigned halves', () => {
    const { registers, transport } = probed()
    transport.enableQueue(0, 8, {
      descriptor: at(0x1f_ffff_8000_0010),
      driver: at(0xffff_fffe),
      device: at(0x1_0000_0000),
    })
    const halves = [
      MMIO_QUEUE_DESC_LOW,
      MMIO_QUEUE_DESC_HIGH,
      MMIO_QUEUE_DRIVER_LOW,
      MMIO_QUEUE_DRIVER_HIGH,
      MMIO_QUEUE_DEVICE_LOW,
      MMIO_QUEUE_DEVICE_HIGH,
    ].map((offset) => registers.writes(offset))
    expect(halves).toEqual([[0x8000_0010], [0x1f_ffff], [0xffff_fffe], [0], [0], [1]])
  })

  it('accesses every control register as one aligned 32-bit word, and configuration in the width of the field', {
    tags: ['4.2.2.2/words', '4.2.2.2/config-width'],
  }, () => {
    const { registers, transport } = probed({ interrupts: 3, queueReset: () => 0 })
    transport.readFeatures()
    transport.writeFeatures(FeatureSet.of(32))
    transport.writeStatus(1)
    transport.readStatus()
    transport.enableQueue(1, 8, AREAS)
    transport.resetQueue(1)
    transport.queueResetDone(1)
    transport.notify(1, 5)
    transport.takeInterrupts()
    transport.readConfig((config) => config.read8(5) + config.read16(10) + config.read32(20))
    const control = registers.log.filter(({ offset }) => offset < MMIO_CONFIG)
    expect(control.filter(({ offset, size }) => size !== 4 || offset % 4 !== 0)).toEqual([])
    expect(control.filter(({ value }) => value < 0 || value > 0xffff_ffff)).toEqual([])
    const config = registers.log.filter(({ offset }) => offset >= MMIO_CONFIG)
    expect(config.map(({ offset, size }) => [offset - MMIO_CONFIG, size])).toEqual([
      [5, 1],
      [10, 2],
      [20, 4],
    ])
  })

  it('never reads a write-only register and never writes a read-only one', {
    tags: ['4.2.2.2/registers', '4.2.3.1.1/shared-memory'],
  }, () => {
    const { registers, transport } = probed({ interrupts: 3 })
    transport.readFeatures()
    transport.writeFeatures(FeatureSet.of(32))
    transport.enableQueue(0, 8, AREAS)
    transport.resetQueue(0)
    transport.queueResetDone(0)
    transport.takeInterrupts()
    transport.readConfig((config) => config.read32(0))
    const writeOnly = [0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac]
    const readOnly = [0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc]
    expect(registers.log.filter((a) => a.kind === 'r' && writeOnly.includes(a.offset))).toEqual([])
    expect(registers.log.filter((a) => a.kind === 'w' && readOnly.includes(a.offset))).toEqual([])
    // Drivers that expect no shared memory must not use its registers (§4.2.3.1).
    expect(registers.log.filter((a) => a.offset >= 0xac && a.offset <= 0xbc)).toEqual([])
  })
})

describe('ring/geometry: queues that the device does not grant', () => {
  it('never writes a size above QueueSizeMax', { tags: ['4.2.2.2/queue-size'] }, () => {
    const { registers, transport } = probed({ queueMax: () => 64 })
    expect(() => transport.enableQueue(0, 128, AREAS)).toThrow(
      expect.objectContaining({ code: 'TRANSPORT_QUEUE_SIZE' }),
    )
    expect(registers.writes(MMIO_QUEUE_SIZE)).toEqual([])
    expect(registers.writes(MMIO_QUEUE_READY)).toEqual([])
  })

  it('notices a QueueSizeMax that shrinks between the driver’s question and the set-up', () => {
    const { registers, transport } = probed({ queueMax: (reads) => (reads === 0 ? 256 : 4) })
    expect(transport.maxQueueSize(0)).toBe(256)
    expect(() => transport.enableQueue(0, 256, AREAS)).toThrow(
      expect.objectContaining({ code: 'TRANSPORT_QUEUE_SIZE' }),
    )
    expect(registers.writes(MMIO_QUEUE_SIZE)).toEqual([])
  })

  it('reads a QueueSizeMax with the top bit set as unsigned', () => {
    const { transport } = probed({ queueMax: () => 0x8000_0000 | 0 })
    expect(transport.maxQueueSize(0)).toBe(0x8000_0000)
  })

  it('leaves a queue alone that is in use already', { tags: ['4.2.2.2/ready'] }, () => {
    const { registers, transport } = probed({ queueReady: 1 })
    expect(() => transport.enableQueue(2, 8, AREAS)).toThrow(expect.objectContaining({ code: 'TRANSPORT_QUEUE_BUSY' }))
    expect(registers.log.filter((a) => a.kind === 'w').map((a) => a.offset)).toEqual([0x30])
  })
})

describe('ring/notification: what QueueNotify is given (virtio 1.4 §2.9, §4.2.3.3)', () => {
  it('is the queue index alone without NOTIFICATION_DATA', () => {
    const { registers, transport } = probed()
    transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))
    transport.notify(1, 0xffff)
    expect(registers.writes(MMIO_QUEUE_NOTIFY)).toEqual([1])
  })

  it('is index, 15 bits of offset and the wrap bit with NOTIFICATION_DATA, unsigned', () => {
    const { registers, transport } = probed()
    transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA))
    transport.notify(1, 0)
    transport.notify(0, 0x7fff)
    transport.notify(2, 0x8000)
    transport.notify(5, 0xffff)
    expect(registers.writes(MMIO_QUEUE_NOTIFY)).toEqual([1, 0x7fff_0000, 0x8000_0002, 0xffff_0005])
  })

  it('forgets NOTIFICATION_DATA with the negotiation that agreed on it', () => {
    const { registers, transport } = probed()
    transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA))
    transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))
    transport.notify(1, 7)
    expect(registers.writes(MMIO_QUEUE_NOTIFY)).toEqual([1])
  })
})

describe('mmio/interrupts (virtio 1.4 §4.2.2.2)', () => {
  it('ignores undefined bits and never acknowledges them', {
    tags: ['4.2.2.2/undefined-bits', '4.2.2.2/acknowledge', '4.2.3.4.1/read-status', '4.2.3.4.1/acknowledge'],
  }, () => {
    const { registers, transport } = probed({ interrupts: 0xffff_fffe })
    expect(transport.takeInterrupts()).toBe(2)
    expect(registers.writes(MMIO_INTERRUPT_ACK)).toEqual([2])
  })

  it('acknowledges nothing where nothing defined is set', () => {
    const { registers, transport } = probed({ interrupts: 0xfc })
    expect(transport.takeInterrupts()).toBe(0)
    expect(registers.writes(MMIO_INTERRUPT_ACK)).toEqual([])
  })
})

describe('config/generation (virtio 1.4 §2.5.1)', () => {
  it('reads again until the generation stands still, and returns what that attempt read', {
    tags: ['2.5.1/generations'],
  }, () => {
    // Changes during the first and the second attempt.
    const generations = [0, 1, 1, 2, 2, 2]
    const { registers, transport } = probed({ generation: (reads) => generations[reads] })
    let attempts = 0
    const value = transport.readConfig((config) => {
      registers.config[0] = ++attempts
      return config.read8(0)
    })
    expect(value).toBe(3)
    expect(attempts).toBe(3)
  })

  it('gives up on a generation that never settles, after a bounded number of reads', () => {
    const { registers, transport } = probed({ generation: (reads) => reads })
    expect(() => transport.readConfig((config) => config.read32(0))).toThrow(
      expect.objectContaining({ code: 'TRANSPORT_CONFIG_UNSTABLE' }),
    )
    expect(registers.log.length).toBeLessThan(100)
  })

  it('reads each field once per attempt between two reads of the generation', () => {
    const { registers, transport } = probed()
    transport.readConfig((config) => [config.read32(0), config.read32(4)])
    expect(registers.short()).toEqual(['r0fc', 'r100', 'r104', 'r0fc'])
  })
})

describe('reset/queue (virtio 1.4 §2.6.1, §4.2.2.2)', () => {
  it('is not complete before QueueReset reads back 0', {
    tags: ['2.6.1.1.2/verified', '4.2.2.2/queue-reset'],
  }, async () => {
    let pumps = 0
    const { registers, transport } = probed({ queueReset: (reads) => (reads < 3 ? 1 : 0) })
    await resetQueue(transport, 1, { pump: () => pumps++ })
    expect(registers.writes(0xc0)).toEqual([1])
    expect(registers.log.filter((a) => a.kind === 'r' && a.offset === 0xc0).length).toBe(4)
    expect(pumps).toBeGreaterThan(0)
  })

  it('gives up at its deadline and says that the memory is quarantined', async () => {
    let time = 0
    const { transport } = probed({ queueReset: () => 1 })
    const error = await resetQueue(transport, 1, { pump: () => {}, now: () => (time += 10), deadlineMs: 50 }).catch(
      (e: unknown) => e,
    )
    expect(error).toBeInstanceOf(DeviceStuckError)
    expect(error).toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK', details: { waitedMs: 50, quarantined: true } })
  })

  it('is not complete while QueueReady still reads 1', async () => {
    let time = 0
    const { transport } = probed({ queueReset: () => 0, queueReady: 1 })
    await expect(
      resetQueue(transport, 0, { pump: () => {}, now: () => (time += 10), deadlineMs: 30 }),
    ).rejects.toBeInstanceOf(DeviceStuckError)
  })
})
