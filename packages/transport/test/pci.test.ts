import type { DeviceAddress } from '@guestdma/memory'
import {
  FeatureSet,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DeviceStuckError, PciTransport, resetDevice, resetQueue } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { BAR4, COMMON, DEVICE, type FakeOptions, ISR, NOTIFY, PciFunction } from './support/pci-function.ts'

const at = (value: number): DeviceAddress => value as DeviceAddress
const AREAS = { descriptor: at(0x1000), driver: at(0x2000), device: at(0x3000) }
const BAR = BAR4.index
const MODERN = FeatureSet.of(VIRTIO_F_VERSION_1)
const ROUTES = { address: (vector: number) => 0x1_fee0_0000 + 16 * vector, data: (vector: number) => 0x40 + vector }

function probed(options: FakeOptions = {}): { fake: PciFunction; transport: PciTransport } {
  const fake = new PciFunction(options)
  const transport = PciTransport.probe(fake, 'net0')
  if (transport === null) throw new Error('no device')
  fake.log.length = 0
  return { fake, transport }
}

const code = (name: string): unknown => expect.objectContaining({ code: name })

/** Makes a register of the common configuration answer `answer`, whatever it holds. */
function script(fake: PciFunction, offset: number, answer: (proper: number) => number): void {
  fake.scripted.set(offset, answer)
}

describe('pci/access: registers in their order and width (virtio 1.4 §4.1.3.1, §4.1.4.3)', () => {
  it('selects before each read of device_feature and shows all 128 bits', () => {
    const { fake, transport } = probed()
    fake.offered = FeatureSet.of(0, 31, 32, 63, 64, 127)
    expect(transport.readFeatures().bits()).toEqual([0, 31, 32, 63, 64, 127])
    expect(fake.short(BAR)).toEqual([0, 1, 2, 3].flatMap((i) => [`w0/4=${i}`, 'r4/4']))
  })

  it('selects before each write of driver_feature and writes unsigned words', () => {
    const { fake, transport } = probed()
    transport.writeFeatures(FeatureSet.of(31, 32, 95, 127))
    expect(fake.accepted).toEqual([0x8000_0000, 1, 0x8000_0000, 0x8000_0000])
    expect(fake.short(BAR).filter((access) => access.startsWith('w8'))).toEqual([
      'w8/4=3',
      'w8/4=2',
      'w8/4=1',
      'w8/4=0',
      // Read back.
      'w8/4=0',
      'w8/4=1',
    ])
  })

  it('sets a queue up with queue_enable last, and 64-bit fields as two 32-bit halves', {
    tags: ['4.1.4.3.2/enable-last'],
  }, () => {
    const { fake, transport } = probed()
    transport.enableQueue(1, 64, { descriptor: at(0x1f_ffff_8000_0010), driver: at(0xffff_fffe), device: at(2 ** 32) })
    expect(fake.short(BAR)).toEqual([
      'w16/2=1',
      'r18/2',
      'w16/2=1',
      'r1c/2',
      'r1e/2',
      'w18/2=40',
      'r18/2',
      'w20/4=80000010',
      'w24/4=1fffff',
      'w28/4=fffffffe',
      'w2c/4=0',
      'w30/4=0',
      'w34/4=1',
      'w1c/2=1',
    ])
  })

  it('accesses 8-bit fields as 8 bits, and configuration in the width of the field', {
    tags: ['4.1.3.1/config-width'],
  }, () => {
    const { fake, transport } = probed()
    transport.writeStatus(1)
    transport.readStatus()
    transport.takeInterrupts()
    fake.deviceConfig.set([1, 2, 3, 4, 5, 6, 7, 8])
    expect(transport.readConfig((config) => [config.read8(5), config.read16(2), config.read32(4)])).toEqual([
      6, 0x0403, 0x0807_0605,
    ])
    transport.writeConfig(0x10, 4, 0xdead_beef)
    transport.writeConfig(0x15, 1, 0x77)
    expect(fake.short(BAR)).toEqual([
      'w14/1=1',
      'r14/1',
      'r1000/1',
      'r15/1',
      'r2005/1',
      'r2002/2',
      'r2004/4',
      'r15/1',
      'w2010/4=deadbeef',
      'w2015/1=77',
    ])
  })

  it('never writes a read-only field, and never 0 to queue_enable (§4.1.4.3.2)', {
    tags: ['4.1.4.3.2/read-only', '4.1.4.3.2/enable-only'],
  }, async () => {
    const { fake, transport } = probed({ msix: 4 })
    transport.useMessages(ROUTES)
    transport.readFeatures()
    transport.writeFeatures(MODERN)
    transport.enableQueue(0, 8, AREAS)
    await resetQueue(transport, 0, { pump: () => {} })
    transport.readConfig((config) => config.read8(0))
    transport.writeStatus(0)
    for (const offset of [0x04, 0x12, 0x15, 0x1e, 0x38, 0x3c, 0x3e]) expect(fake.writes(BAR, offset)).toEqual([])
    expect(fake.writes(BAR, 0x1c)).toEqual([1])
  })

  it('cuts answers to the width of the field', () => {
    const { fake, transport } = probed()
    script(fake, 0x14, () => 0x0fff_ff0f)
    script(fake, 0x18, () => -1)
    script(fake, 0x04, () => -1)
    expect(transport.readStatus()).toBe(0x0f)
    expect(transport.maxQueueSize(0)).toBe(0xffff)
    expect(transport.readFeatures().word(0)).toBe(0xffff_ffff)
  })

  it('does not show RING_RESET where the structure ends before queue_reset', () => {
    const short = { caps: [{ ...COMMON, length: 0x3a }, NOTIFY, ISR] }
    const { fake, transport } = probed(short)
    fake.offered = FeatureSet.of(32, VIRTIO_F_RING_RESET)
    expect(transport.readFeatures().bits()).toEqual([32])
    expect(() => transport.resetQueue(0)).toThrow(code('TRANSPORT_QUEUE'))
    expect(transport.queueResetDone(0)).toBe(false)
    expect(fake.log.filter(({ offset }) => offset === 0x3a)).toEqual([])
    const long = probed({ caps: [{ ...COMMON, length: 0x3c }, NOTIFY, ISR] })
    long.fake.offered = FeatureSet.of(32, VIRTIO_F_RING_RESET)
    expect(long.transport.readFeatures().has(VIRTIO_F_RING_RESET)).toBe(true)
  })
})

describe('pci/queues (virtio 1.4 §4.1.4.3, §4.1.5.1.3)', () => {
  it('remembers the maximum, which queue_size does not show once a smaller size was written', () => {
    const { fake, transport } = probed()
    expect(transport.maxQueueSize(0)).toBe(256)
    transport.enableQueue(0, 16, AREAS)
    expect(fake.queues[0].size).toBe(16)
    expect(transport.maxQueueSize(0)).toBe(256)
    expect(transport.maxQueueSize(1)).toBe(256)
  })

  it('forgets the maximum with a reset', () => {
    const { fake, transport } = probed()
    transport.maxQueueSize(0)
    transport.writeStatus(0)
    fake.queues[0].size = 32
    expect(transport.maxQueueSize(0)).toBe(32)
  })

  it('says 0 for a queue that does not exist', () => {
    expect(probed().transport.maxQueueSize(2)).toBe(0)
  })

  it.each([512, 0, 3, 48, -8, 1.5, Number.NaN])(
    'never writes a size of %d',
    { tags: ['4.1.4.3.2/queue-size'] },
    (size) => {
      const { fake, transport } = probed()
      expect(() => transport.enableQueue(0, size, AREAS)).toThrow(code('TRANSPORT_QUEUE_SIZE'))
      expect(fake.writes(BAR, 0x18)).toEqual([])
      expect(fake.writes(BAR, 0x1c)).toEqual([])
    },
  )

  it('does not enable a queue whose size the device did not take', () => {
    const { fake, transport } = probed()
    script(fake, 0x18, () => 256)
    expect(() => transport.enableQueue(0, 64, AREAS)).toThrow(code('TRANSPORT_QUEUE_SIZE'))
    expect(fake.writes(BAR, 0x1c)).toEqual([])
  })

  it('leaves a queue alone that is in use already', () => {
    const { fake, transport } = probed()
    transport.enableQueue(0, 8, AREAS)
    fake.log.length = 0
    expect(() => transport.enableQueue(0, 8, AREAS)).toThrow(code('TRANSPORT_QUEUE_BUSY'))
    expect(fake.log.filter(({ kind }) => kind === 'w').map(({ offset }) => offset)).toEqual([0x16])
  })
})

describe('pci/notification (virtio 1.4 §4.1.4.4, §4.1.5.2)', () => {
  it('is a 16-bit write of the index at queue_notify_off × multiplier', {
    tags: ['4.1.5.2.1/width', '4.1.5.2.1/index'],
  }, () => {
    const { fake, transport } = probed({ queues: 8 })
    fake.queues[5].notifyOff = 7
    transport.writeFeatures(MODERN)
    transport.enableQueue(5, 8, AREAS)
    fake.log.length = 0
    transport.notify(5, 0xffff)
    expect(fake.short(BAR)).toEqual(['w301c/2=5'])
  })

  it('is a 32-bit write of index and position with NOTIFICATION_DATA, unsigned', {
    tags: ['4.1.5.2.1/data-width', '4.1.5.2.1/data-index'],
  }, () => {
    const { fake, transport } = probed()
    transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA))
    transport.enableQueue(1, 8, AREAS)
    fake.log.length = 0
    transport.notify(1, 0x7fff)
    transport.notify(1, 0x8000)
    expect(fake.short(BAR)).toEqual(['w3004/4=7fff0001', 'w3004/4=80000001'])
  })

  it.each([
    [[], 'w3004/2=1231'],
    [[VIRTIO_F_NOTIFICATION_DATA], 'w3004/4=80051231'],
  ])(
    'names the queue as the device wants it with NOTIF_CONFIG_DATA and %j',
    {
      tags: ['4.1.5.2.1/config-data', '4.1.5.2.1/config-data-index'],
    },
    (more, write) => {
      const { fake, transport } = probed()
      transport.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIF_CONFIG_DATA, ...more))
      transport.enableQueue(1, 8, AREAS)
      fake.log.length = 0
      transport.notify(1, 0x8005)
      expect(fake.short(BAR)).toEqual([write])
    },
  )

  it('is not offered NOTIF_CONFIG_DATA or RING_RESET where the common configuration ends before their fields', () => {
    const offered = [VIRTIO_F_VERSION_1, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_RING_RESET]
    const seen = (length: number): readonly number[] => {
      const { fake, transport } = probed({ caps: [{ ...COMMON, length }, NOTIFY, ISR] })
      fake.offered = FeatureSet.of(...offered)
      return transport.readFeatures().bits()
    }
    expect([0x38, 0x3a, 0x3c].map(seen)).toEqual([[32], [32, 39], [32, 39, 40]])
  })

  it('shares one address where the multiplier is 0', () => {
    const { fake, transport } = probed({ caps: [COMMON, { ...NOTIFY, length: 2, extra: [0] }, ISR] })
    transport.enableQueue(0, 8, AREAS)
    transport.enableQueue(1, 8, AREAS)
    transport.notify(0, 0)
    transport.notify(1, 0)
    expect(fake.writes(BAR, 0x3000)).toEqual([0, 1])
  })

  it.each([
    ['behind the structure', { ...NOTIFY, length: 6 }, 2, false],
    ['across its end, with NOTIFICATION_DATA', { ...NOTIFY, length: 6 }, 1, true],
    ['far behind it', { ...NOTIFY, extra: [0xffff_fffc] }, 0xffff, false],
    ['at an odd address', { ...NOTIFY, extra: [3] }, 1, false],
    ['at half a word, with NOTIFICATION_DATA', { ...NOTIFY, extra: [2] }, 1, true],
    ['at half a word by its capability', { ...NOTIFY, offset: 0x3002 }, 0, true],
  ])('of a queue %s stops it from being enabled, before anything is written', (_, notify, notifyOff, data) => {
    const { fake, transport } = probed({ caps: [COMMON, notify, ISR] })
    fake.queues[0].notifyOff = notifyOff
    transport.writeFeatures(data ? FeatureSet.of(32, VIRTIO_F_NOTIFICATION_DATA) : MODERN)
    expect(() => transport.enableQueue(0, 8, AREAS)).toThrow(code('TRANSPORT_PCI_NOTIFY'))
    expect(fake.writes(BAR, 0x18)).toEqual([])
    expect(fake.writes(BAR, 0x1c)).toEqual([])
  })

  it('reads queue_notify_off once for each time that a queue is enabled', () => {
    const { fake, transport } = probed()
    let reads = 0
    script(fake, 0x1e, () => 2 * reads++)
    transport.enableQueue(0, 8, AREAS)
    transport.notify(0, 0)
    transport.notify(0, 0)
    expect(reads).toBe(1)
    expect(fake.writes(BAR, 0x3000)).toEqual([0, 0])
  })

  it('goes nowhere for a queue that is not enabled, was reset or belongs to the time before a reset', () => {
    const { fake, transport } = probed()
    transport.notify(0, 0)
    transport.enableQueue(0, 8, AREAS)
    transport.enableQueue(1, 8, AREAS)
    transport.resetQueue(0)
    transport.notify(0, 0)
    transport.writeStatus(0)
    transport.notify(1, 0)
    transport.notify(7, 0)
    expect(fake.log.filter(({ kind, offset }) => kind === 'w' && offset >= 0x3000)).toEqual([])
  })
})

describe('pci/reset', () => {
  it('of the device waits for device_status to read 0 (§4.1.4.3.2)', { tags: ['4.1.4.3.2/reset'] }, async () => {
    const { fake, transport } = probed()
    let reads = 0
    script(fake, 0x14, (status) => (++reads < 4 ? 4 : status))
    await resetDevice(transport, { pump: () => {} })
    expect(reads).toBe(4)
    expect(fake.resets).toBe(1)
  })

  it('of a queue is complete when queue_reset and queue_enable read 0 (§4.1.4.3.1)', {
    tags: ['4.1.4.3.2/queue-reset'],
  }, async () => {
    const { fake, transport } = probed()
    transport.enableQueue(1, 8, AREAS)
    const order: number[] = []
    script(fake, 0x3a, () => (order.push(0x3a) < 3 ? 1 : 0))
    fake.log.length = 0
    await resetQueue(transport, 1, { pump: () => {} })
    expect(fake.short(BAR).slice(0, 2)).toEqual(['w16/2=1', 'w3a/2=1'])
    expect(order.length).toBe(3)
    let time = 0
    script(fake, 0x1c, () => 1)
    const stuck = resetQueue(transport, 1, { pump: () => {}, now: () => (time += 10), deadlineMs: 30 })
    await expect(stuck).rejects.toBeInstanceOf(DeviceStuckError)
  })

  it('of a queue lets it be enabled again, with another size', {
    tags: ['2.6.1.2.2/whole-configuration'],
  }, async () => {
    const { fake, transport } = probed()
    transport.enableQueue(0, 8, AREAS)
    await resetQueue(transport, 0, { pump: () => {} })
    transport.enableQueue(0, 128, AREAS)
    transport.notify(0, 0)
    expect(fake.queues[0]).toMatchObject({ size: 128, enable: 1 })
    expect(fake.writes(BAR, 0x3000)).toEqual([0])
  })
})

describe('pci/config: generation (virtio 1.4 §2.5.1, §4.1.4.3)', () => {
  it('reads again until the generation stands still', { tags: ['2.5.1/generations'] }, () => {
    const { fake, transport } = probed()
    const generations = [0, 1, 255, 0, 7, 7]
    let reads = 0
    script(fake, 0x15, () => generations[reads++])
    let attempts = 0
    expect(transport.readConfig(() => ++attempts)).toBe(3)
  })

  it('gives up on a generation that never settles', () => {
    const { fake, transport } = probed()
    let reads = 0
    script(fake, 0x15, () => reads++ & 0xff)
    expect(() => transport.readConfig((config) => config.read32(0))).toThrow(code('TRANSPORT_CONFIG_UNSTABLE'))
    expect(fake.log.length).toBeLessThan(100)
  })

  it.each([
    [6, 4],
    [8, 1],
    [7, 2],
    [1, 2],
    [-1, 1],
    [2 ** 53, 1],
  ] as const)('does not access an offset of %d in %d bytes of an 8-byte structure', (offset, size) => {
    const { fake, transport } = probed({ caps: [COMMON, NOTIFY, ISR, { ...DEVICE, length: 8 }] })
    const read = size === 4 ? 'read32' : size === 2 ? 'read16' : 'read8'
    expect(() => transport.readConfig((config) => config[read](offset))).toThrow(code('TRANSPORT_CONFIG_RANGE'))
    expect(() => transport.writeConfig(offset, size, 0)).toThrow(code('TRANSPORT_CONFIG_RANGE'))
    expect(fake.log.filter((access) => access.offset >= 0x2000)).toEqual([])
    expect(transport.readConfig((config) => config.read32(4))).toBe(0)
  })
})

describe('pci/interrupts: INTx (virtio 1.4 §4.1.4.5)', () => {
  it('reads the ISR status once, which clears it, and ignores reserved bits', () => {
    const { fake, transport } = probed()
    fake.isr = 0xfe
    expect(transport.takeInterrupts()).toBe(2)
    expect(transport.takeInterrupts()).toBe(0)
    expect(fake.short(BAR)).toEqual(['r1000/1', 'r1000/1'])
  })
})

describe('pci/messages: MSI-X (virtio 1.4 §4.1.5.1.2)', () => {
  it.each([0, 1])('stays with INTx where there are %d vectors', { tags: ['4.1.5.1.2.2/any-table'] }, (msix) => {
    const { fake, transport } = probed({ msix })
    expect(transport.useMessages(ROUTES)).toBe(false)
    expect(fake.log).toEqual([])
    fake.isr = 1
    transport.messageArrived(0)
    expect(transport.takeInterrupts()).toBe(1)
  })

  it('stays with INTx where the table is not within reach', () => {
    const outside = new PciFunction({ msix: 4 })
    outside.put(0xf4, 4, 0xff1)
    expect((PciTransport.probe(outside, 'net0') as PciTransport).useMessages(ROUTES)).toBe(false)
    for (const bir of [0, 6, 7]) {
      const wrong = new PciFunction({ msix: 4 })
      wrong.put(0xf4, 4, bir)
      expect((PciTransport.probe(wrong, 'net0') as PciTransport).useMessages(ROUTES)).toBe(false)
    }
  })

  it('programs as many vectors as it uses, masks the others and preserves reserved bits', {
    tags: ['4.1.5.1.2.2/any-table', '4.1.5.1.2.2/in-table'],
  }, () => {
    const { fake, transport } = probed({ msix: 5 })
    expect(transport.useMessages(ROUTES)).toBe(true)
    expect([...fake.table.subarray(0, 20)]).toEqual([
      ...[0xfee0_0000, 1, 0x40, 0xabc0_0000],
      ...[0xfee0_0010, 1, 0x41, 0xabc0_0000],
      ...[0xfee0_0020, 1, 0x42, 0xabc0_0000],
      ...[0, 0, 0, 0xabc0_0001],
      ...[0, 0, 0, 0xabc0_0001],
    ])
    expect(fake.msixControl).toBe(0x8004)
  })

  it('masks the function while it programs, and maps events only once messages are on', () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    const control = fake.log.flatMap((a, i) => (a.where === 'config' && a.kind === 'w' ? [[i, a.value]] : []))
    expect(control.map(([, value]) => value)).toEqual([0xc002, 0x8002])
    const tableAt = fake.log.flatMap(({ where }, i) => (where === 1 ? [i] : []))
    const mapAt = fake.log.findIndex(({ where, kind, offset }) => where === BAR && kind === 'w' && offset === 0x10)
    expect(tableAt[0]).toBeGreaterThan(control[0][0])
    expect(control[1][0]).toBeGreaterThan(tableAt[tableAt.length - 1])
    expect(mapAt).toBeGreaterThan(control[1][0])
  })

  it.each([
    [2, [1, 1, 1, 1]],
    [5, [1, 2, 3, 4]],
    [9, [1, 2, 3, 4]],
    [3, [1, 2, 1, 2]],
  ])('with %d vectors maps four queues to %j, and never beyond the table', (msix, vectors) => {
    const { fake, transport } = probed({ msix, queues: 4 })
    transport.useMessages(ROUTES)
    for (let i = 0; i < 4; i++) transport.enableQueue(i, 8, AREAS)
    expect(fake.queues.map(({ vector }) => vector)).toEqual(vectors)
    expect(fake.configVector).toBe(0)
  })

  it('maps a queue before it is enabled and reads the mapping back', { tags: ['4.1.5.1.2.2/verified'] }, () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    fake.log.length = 0
    transport.enableQueue(1, 8, AREAS)
    expect(fake.short(BAR).slice(-3)).toEqual(['w1a/2=2', 'r1a/2', 'w1c/2=1'])
  })

  it('asks for the shared vector where the device cannot map one of its own', () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    fake.vectors = 2
    transport.enableQueue(1, 8, AREAS)
    expect(fake.queues[1]).toMatchObject({ vector: 1, enable: 1 })
  })

  it('does not enable a queue that cannot be mapped at all', { tags: ['4.1.5.1.2.2/verified'] }, () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    fake.vectors = 1
    expect(() => transport.enableQueue(1, 8, AREAS)).toThrow(code('TRANSPORT_MSIX_VECTOR'))
    expect(fake.writes(BAR, 0x1c)).toEqual([])
  })

  it('goes back to INTx where the configuration cannot be mapped', () => {
    const { fake, transport } = probed({ msix: 3 })
    fake.vectors = 0
    expect(transport.useMessages(ROUTES)).toBe(false)
    expect(fake.msixControl).toBe(2)
    transport.enableQueue(0, 8, AREAS)
    expect(fake.writes(BAR, 0x1a)).toEqual([])
    fake.isr = 3
    expect(transport.takeInterrupts()).toBe(3)
  })

  it('maps again after a reset, which unmapped everything, before DRIVER_OK', () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    transport.writeStatus(0)
    expect(fake.configVector).toBe(0xffff)
    transport.enableQueue(0, 8, AREAS)
    fake.log.length = 0
    transport.writeStatus(0x0f)
    expect(fake.short(BAR)).toEqual(['w10/2=0', 'r10/2', 'w14/1=f'])
    expect(fake.queues[0].vector).toBe(1)
    transport.writeStatus(0x0f)
    expect(fake.writes(BAR, 0x10)).toEqual([0])
  })

  it('fails where a reset cost the configuration its vector, but not a driver that gives up', () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    transport.writeStatus(0)
    fake.vectors = 0
    expect(() => transport.writeStatus(0x0f)).toThrow(code('TRANSPORT_MSIX_VECTOR'))
    expect(fake.status).toBe(0)
    transport.writeStatus(0x8f)
    expect(fake.status).toBe(0x8f)
  })

  it('says what messages said since the last time, without a read of the ISR status (§4.1.4.5.2)', {
    tags: ['4.1.4.5.2/not-with-msix'],
  }, () => {
    const { fake, transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    fake.log.length = 0
    expect(transport.takeInterrupts()).toBe(0)
    transport.messageArrived(2)
    expect(transport.takeInterrupts()).toBe(1)
    transport.messageArrived(1)
    transport.messageArrived(0)
    expect(transport.takeInterrupts()).toBe(3)
    expect(transport.takeInterrupts()).toBe(0)
    for (const stray of [3, -1, 0xffff]) transport.messageArrived(stray)
    expect(transport.takeInterrupts()).toBe(0)
    // Woken by no message, it looks whether the function is still there.
    const status = { where: COMMON.bar, kind: 'r', offset: 20, size: 1, value: 0 }
    expect(fake.log).toEqual([status, status, status])
  })

  it('forgets with a reset what messages said before it', () => {
    const { transport } = probed({ msix: 3 })
    transport.useMessages(ROUTES)
    transport.messageArrived(1)
    transport.writeStatus(0)
    expect(transport.takeInterrupts()).toBe(0)
  })
})
