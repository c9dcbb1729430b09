import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { type DeviceAddress, type MemoryWindow, Region } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import type { VirtioTransport } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { AuditedTransport, type AuditOptions, DeviceAudit } from '../src/index.ts'

const BASE = 0x9000_0000
const BYTES = 0x4000
const SIZE = 8
const TABLE = BASE
const AVAILABLE = BASE + 0x1000
const USED = BASE + 0x2000
const INDIRECT = BASE + 0x3000
const BUFFER = BASE + 0x3800
const OUTSIDE = 0x1234_5678_9000

const NEXT = 1
const WRITE = 2
const INDIRECT_FLAG = 4

/** A driver's half of a ring, written by hand, and the audit of what a device is told by it. */
class Bench {
  readonly calls: string[] = []
  readonly view: DataView
  readonly audited: AuditedTransport
  readonly options: AuditOptions
  private index = 0

  constructor(offered: FeatureSet = FeatureSet.of(VIRTIO_F_VERSION_1)) {
    const region = new Region(new ArrayBuffer(BYTES), 'memory')
    this.view = region.view
    const note = (name: string) => (): void => void this.calls.push(name)
    const transport = {
      name: 'dev0',
      kind: 'mmio',
      deviceId: 2,
      transitional: false,
      readFeatures: () => offered,
      readStatus: () => 11,
      writeStatus: note('writeStatus'),
      writeFeatures: note('writeFeatures'),
      enableQueue: note('enableQueue'),
      resetQueue: note('resetQueue'),
      notify: note('notify'),
      takeInterrupts: () => 3,
    } as unknown as VirtioTransport
    const lookup = (address: number, length: number): MemoryWindow | null =>
      address >= BASE && address + length <= BASE + BYTES ? { region, offset: address - BASE, length } : null
    this.options = { allowed: [{ base: BASE, length: BYTES }], lookup }
    this.audited = new AuditedTransport(transport, this.options)
  }

  enable(descriptor = TABLE, driver = AVAILABLE, device = USED): this {
    const at = (value: number): DeviceAddress => value as DeviceAddress
    this.audited.enableQueue(1, SIZE, { descriptor: at(descriptor), driver: at(driver), device: at(device) })
    return this
  }

  describe(table: number, at: number, address: number, length: number, flags = 0, next = 0): this {
    const offset = table - BASE + 16 * at
    this.view.setBigUint64(offset, BigInt(address), true)
    this.view.setUint32(offset + 8, length, true)
    this.view.setUint16(offset + 12, flags, true)
    this.view.setUint16(offset + 14, next, true)
    return this
  }

  publish(head: number): this {
    this.view.setUint16(AVAILABLE - BASE + 4 + 2 * (this.index % SIZE), head, true)
    this.index = (this.index + 1) & 0xffff
    this.view.setUint16(AVAILABLE - BASE + 2, this.index, true)
    return this
  }

  notify(): AuditedTransport {
    this.audited.notify(1, 0)
    return this.audited
  }
}

describe('an audit of what a device is told', () => {
  it('finds nothing where all of it is allowed', () => {
    const { audited } = new Bench().enable()
    expect([audited.passed, audited.outside]).toEqual([3, 0])
  })

  it.each([
    ['descriptor area', [OUTSIDE, AVAILABLE, USED], SIZE * 16],
    ['driver area', [TABLE, OUTSIDE, USED], 6 + SIZE * 2],
    ['device area', [TABLE, AVAILABLE, BASE + BYTES - 69], 6 + SIZE * 8],
  ] as const)('finds a %s that is outside, if only by a byte', (part, [descriptor, driver, device], length) => {
    const { audited } = new Bench().enable(descriptor, driver, device)
    const address = { 'descriptor area': descriptor, 'driver area': driver, 'device area': device }[part]
    expect(audited.findings).toEqual([{ queue: 1, part, address, length }])
  })

  it('follows chains, and finds each buffer that is outside', () => {
    const bench = new Bench().enable()
    bench.describe(TABLE, 3, BUFFER, 16, NEXT, 5).describe(TABLE, 5, OUTSIDE, 512, NEXT, 0)
    bench.describe(TABLE, 0, BASE + BYTES - 1, 2)
    const audited = bench.publish(3).notify()
    expect(audited.findings).toEqual([
      { queue: 1, part: 'buffer', address: OUTSIDE, length: 512 },
      { queue: 1, part: 'buffer', address: BASE + BYTES - 1, length: 2 },
    ])
    expect([audited.passed, audited.outside]).toEqual([6, 2])
    expect(bench.calls).toEqual(['enableQueue', 'notify'])
  })

  it('follows indirect tables, and finds one that is outside by itself', () => {
    const bench = new Bench().enable()
    bench.describe(INDIRECT, 0, BUFFER, 16, NEXT, 1).describe(INDIRECT, 1, OUTSIDE, 8)
    bench.describe(TABLE, 0, INDIRECT, 32, INDIRECT_FLAG).describe(TABLE, 1, OUTSIDE, 64, INDIRECT_FLAG)
    const audited = bench.publish(0).publish(1).notify()
    expect(audited.findings).toEqual([
      { queue: 1, part: 'buffer', address: OUTSIDE, length: 8 },
      { queue: 1, part: 'indirect table', address: OUTSIDE, length: 64 },
    ])
    expect(audited.indirect).toBe(2)
  })

  it('sees chains that were published without a doorbell, at the next audit, interrupt and reset', () => {
    const bench = new Bench().enable().describe(TABLE, 0, OUTSIDE, 1)
    bench.publish(0).audited.audit()
    expect(bench.audited.outside).toBe(1)
    expect(bench.publish(0).audited.takeInterrupts()).toBe(3)
    expect(bench.audited.outside).toBe(2)
    bench.publish(0).audited.writeStatus(0)
    expect(bench.audited.outside).toBe(3)
    // The ring ended with the reset.
    bench.publish(0).audited.audit()
    expect([bench.audited.outside, bench.audited.missed]).toEqual([3, 0])
  })

  it('counts what was overwritten before it looked', () => {
    const bench = new Bench().enable().describe(TABLE, 0, BUFFER, 1)
    for (let i = 0; i < SIZE + 3; i++) bench.publish(0)
    expect(bench.notify().missed).toBe(3)
  })

  it('goes on where the index wraps', () => {
    const bench = new Bench().enable().describe(TABLE, 0, BUFFER, 1)
    for (let i = 0; i < 0x1_0000 + 10; i++) bench.publish(0).notify()
    expect([bench.audited.passed, bench.audited.missed]).toEqual([3 + 0x1_0000 + 10, 0])
  })

  it('ends where a chain is a circle or leaves its table', () => {
    const bench = new Bench().enable().describe(TABLE, 0, BUFFER, 1, NEXT, 0)
    expect(bench.publish(0).notify().passed).toBe(3 + 2 * SIZE)
    bench.describe(TABLE, 1, BUFFER, 1, NEXT, 999)
    expect(bench.publish(1).notify().passed).toBe(3 + 2 * SIZE + 1)
    expect(bench.publish(999).notify().passed).toBe(3 + 2 * SIZE + 1)
  })

  it('keeps the first hundred findings and counts all', () => {
    const bench = new Bench().enable().describe(TABLE, 0, OUTSIDE, 1)
    for (let i = 0; i < 150; i++) bench.publish(0).notify()
    expect([bench.audited.findings.length, bench.audited.outside]).toEqual([100, 150])
  })

  it('passes on what it does not look at', () => {
    const offered = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)
    const { audited, calls } = new Bench(offered)
    expect(audited.readFeatures()).toEqual(offered)
    audited.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))
    expect(calls).toEqual(['writeFeatures'])
    expect([audited.name, audited.kind, audited.deviceId, audited.readStatus()]).toEqual(['dev0', 'mmio', 2, 11])
  })

  it('looks at a queue once more before it is reset alone', () => {
    const bench = new Bench().enable().describe(TABLE, 0, OUTSIDE, 1)
    bench.publish(0).audited.resetQueue(1)
    expect([bench.audited.outside, bench.calls.at(-1)]).toEqual([1, 'resetQueue'])
  })
})

describe('an audit of a packed ring', () => {
  /** The driver's half by hand: what it writes has the marks of its lap. */
  class PackedBench extends Bench {
    private position = 0

    constructor() {
      super(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED))
      this.audited.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED))
    }

    offer(address: number, length: number, flags = 0): this {
      const marks = Math.floor(this.position / SIZE) % 2 === 0 ? 0x80 : 0x8000
      return this.write(TABLE, this.position++ % SIZE, address, length, flags | marks)
    }

    /** As the device does. */
    use(slot: number, lap: number): this {
      return this.write(TABLE, slot, 0, 0, lap % 2 === 0 ? 0x8080 : 0)
    }

    write(table: number, at: number, address: number, length: number, flags: number): this {
      return this.describe(table, at, address, length, 0, flags)
    }
  }

  it.each([
    ['descriptor area', [OUTSIDE, AVAILABLE, USED], SIZE * 16],
    ['driver area', [TABLE, OUTSIDE, USED], 4],
    ['device area', [TABLE, AVAILABLE, BASE + BYTES - 3], 4],
  ] as const)('finds a %s that is outside, if only by a byte', (part, [descriptor, driver, device], length) => {
    const { audited } = new PackedBench().enable(descriptor, driver, device)
    const address = { 'descriptor area': descriptor, 'driver area': driver, 'device area': device }[part]
    expect(audited.findings).toEqual([{ queue: 1, part, address, length }])
    expect(audited.passed).toBe(3)
  })

  it('finds each buffer of a list that is outside, once', () => {
    const bench = new PackedBench()
    bench.enable()
    bench
      .offer(BUFFER, 16, NEXT)
      .offer(OUTSIDE, 512, NEXT)
      .offer(BASE + BYTES - 1, 2)
      .notify()
    const audited = bench.notify()
    expect(audited.findings).toEqual([
      { queue: 1, part: 'buffer', address: OUTSIDE, length: 512 },
      { queue: 1, part: 'buffer', address: BASE + BYTES - 1, length: 2 },
    ])
    expect([audited.passed, audited.outside, audited.missed]).toEqual([6, 2, 0])
    expect(bench.calls).toEqual(['writeFeatures', 'enableQueue', 'notify', 'notify'])
  })

  it('follows indirect tables, and finds one that is outside by itself', () => {
    const bench = new PackedBench()
    bench.enable()
    bench.write(INDIRECT, 0, BUFFER, 16, 0).write(INDIRECT, 1, OUTSIDE, 8, 0).write(INDIRECT, 2, OUTSIDE, 9, 0)
    const audited = bench.offer(INDIRECT, 32, INDIRECT_FLAG).offer(OUTSIDE, 64, INDIRECT_FLAG).notify()
    expect(audited.findings).toEqual([
      { queue: 1, part: 'buffer', address: OUTSIDE, length: 8 },
      { queue: 1, part: 'indirect table', address: OUTSIDE, length: 64 },
    ])
    expect([audited.passed, audited.indirect]).toEqual([3 + 4, 2])
  })

  it('reads no more of a table than a queue may have descriptors', () => {
    const bench = new PackedBench()
    bench.enable()
    expect(bench.offer(INDIRECT, 16 * (SIZE + 1), INDIRECT_FLAG).notify().passed).toBe(3 + 1 + SIZE)
  })

  it('takes used descriptors for nothing that was published, lap after lap', () => {
    const bench = new PackedBench()
    bench.enable()
    for (let lap = 0; lap < 5; lap++) {
      for (let slot = 0; slot < SIZE; slot += 2) {
        bench.offer(BUFFER, 1, NEXT).offer(OUTSIDE, 1).notify()
        // The second descriptor of the list is skipped, and keeps its marks.
        bench.use(slot, lap).notify()
      }
    }
    expect([bench.audited.passed, bench.audited.outside, bench.audited.missed]).toEqual([3 + 5 * SIZE, 20, 0])
  })

  it('counts what was used before it looked, and sees what was not', () => {
    const bench = new PackedBench()
    bench.enable()
    bench.offer(OUTSIDE, 1).offer(OUTSIDE, 2).offer(OUTSIDE, 3).use(0, 0).audited.audit()
    expect([bench.audited.missed, bench.audited.findings.map(({ length }) => length)]).toEqual([1, [2, 3]])
    for (let slot = 3; slot < SIZE; slot++) bench.offer(BUFFER, 1)
    bench.notify()
    bench.offer(OUTSIDE, 4).use(0, 1).notify()
    expect([bench.audited.missed, bench.audited.outside]).toEqual([2, 2])
  })

  it('sees what a descriptor describes now, although it has the marks that it had two laps ago', () => {
    const bench = new PackedBench()
    bench.enable()
    bench.offer(BUFFER, 1).notify()
    for (let n = 1; n < 2 * SIZE; n++) bench.offer(BUFFER, 1)
    expect(bench.offer(OUTSIDE, 1).notify().outside).toBe(1)
  })

  it('ends with a reset, after which a ring may be a split one', () => {
    const bench = new PackedBench()
    bench.enable()
    bench.offer(OUTSIDE, 1).audited.writeStatus(0)
    expect(bench.audited.outside).toBe(1)
    bench.offer(OUTSIDE, 1).audited.audit()
    expect(bench.audited.outside).toBe(1)
    bench.audited.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))
    bench.enable().describe(TABLE, 0, OUTSIDE, 7)
    expect(
      bench
        .publish(0)
        .notify()
        .findings.map(({ length }) => length),
    ).toEqual([1, 7])
  })
})

describe('an audit of what a foreign driver tells a device model', () => {
  const start = () => {
    const bench = new Bench()
    const buffers: unknown[] = []
    // A port that reaches nothing: the audit does not ask it, and looks on where the device gave up.
    const store = new MemoryBlockStore(new Uint8Array(512))
    const device = new BlkDevice({ name: 'disk', port: new BusWindows('disk'), store })
    const audit = new DeviceAudit(device, { ...bench.options, onBuffer: (...buffer) => buffers.push(buffer) })
    const enable = (areas: readonly number[]): void => {
      device.writeStatus(0)
      device.writeStatus(1 | 2)
      device.writeDriverFeatures(1, 1)
      device.writeStatus(1 | 2 | 8)
      const [queue] = device.queues
      queue.size = SIZE
      queue.areas.set(areas)
      device.enableQueue(queue)
      audit.audit()
    }
    return { bench, audit, buffers, enable }
  }

  it('looks at the areas of a queue once it is enabled, and anew after a reset', () => {
    const { audit, enable } = start()
    audit.audit()
    expect(audit.passed).toBe(0)
    enable([TABLE, 0, AVAILABLE, 0, USED, 1])
    expect([audit.passed, audit.findings]).toEqual([
      3,
      [{ queue: 0, part: 'device area', address: 2 ** 32 + USED, length: 6 + SIZE * 8 }],
    ])
    enable([TABLE, 0, AVAILABLE, 0, USED, 0])
    expect([audit.passed, audit.outside]).toEqual([6, 1])
  })

  it('tells of each buffer, and whether the device is to fill it', () => {
    const { bench, audit, buffers, enable } = start()
    enable([TABLE, 0, AVAILABLE, 0, USED, 0])
    bench.describe(TABLE, 0, BUFFER, 16, NEXT, 1).describe(TABLE, 1, OUTSIDE, 512, WRITE)
    bench.publish(0)
    audit.audit()
    audit.audit()
    expect(buffers).toEqual([
      [BUFFER, 16, false],
      [OUTSIDE, 512, true],
    ])
    expect([audit.outside, audit.missed]).toEqual([1, 0])
  })
})
