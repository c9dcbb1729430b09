import { type BusPort, GuestMemory } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import {
  BlkDevice,
  type BlockRequest,
  BusWindows,
  type DeviceState,
  everything,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  type MmioState,
  NetDevice,
  type PciFunction,
  type PciState,
  type VirtioDevice,
} from '../src/index.ts'
import {
  type AnyBlkMachine,
  blkMachine,
  blkMachineOver,
  DISK_BYTES,
  driverOf,
  header,
  MAC,
  netMachine,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
} from './support/devices.ts'
import { BASE, Driver, type GuestDriver, Line, OFFSET, pattern } from './support/guest.ts'
import { IommuMachine } from './support/iommu.ts'
import { PciDriver } from './support/pci.ts'

function transportOf(driver: GuestDriver): MmioRegisters | PciFunction {
  return driver instanceof PciDriver ? driver.pci : ((driver as Driver).bus as MmioRegisters)
}

describe('save and restore', () => {
  test('a network device goes on in another one, mid-ring, over JSON', () => {
    const m = netMachine({ link: new RecordingLink() })
    m.driver.start([m.rx, m.tx], 29)
    for (let i = 0; i < 5; i++) {
      m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
      m.driver.kick(1)
      m.device.poll(64)
    }
    m.rx.offer(m.rx.chain({ address: m.ram.alloc(1526), length: 1526, w: true }))
    // Received and not yet published, sent and not yet taken, link down and not yet told.
    expect(m.device.receive(pattern(70))).toBe(true)
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(99))))
    m.driver.kick(1)
    m.device.setLink(false)
    m.device.setLink(true)
    const state = JSON.parse(JSON.stringify(m.device.save())) as DeviceState
    const registers = JSON.parse(JSON.stringify(m.registers.save())) as ReturnType<MmioRegisters['save']>

    const link = new RecordingLink()
    const device = new NetDevice({ name: 'net1', port: everything(m.ram.memory), mac: MAC, link })
    const line = new Line()
    const file = new MmioRegisters(device, { interrupts: line })
    device.restore(state)
    file.restore(registers)
    const driver = new Driver(file)
    expect([device.negotiated.bits(), device.status, driver.r(0x60), line.asserted]).toEqual([
      m.device.negotiated.bits(),
      15,
      3,
      false,
    ])
    device.poll(64)
    expect(line.asserted).toBe(true)
    expect(link.frames).toEqual([pattern(99)])
    expect(m.tx.reap()).toHaveLength(6)
    expect(m.rx.reap()).toEqual([{ id: 0, length: 82 }])
    expect(file.read(0xfc, 4)).toBe(m.registers.read(0xfc, 4))
  })

  test('a busy block device refuses; poll(0) drains it', () => {
    const waiting: BlockRequest[] = []
    const store = { capacity: DISK_BYTES, read: (r: BlockRequest) => waiting.push(r), write: () => {}, flush: () => {} }
    const m = blkMachine({ store })
    m.driver.start([m.ring], 9)
    const ask = (): number => {
      m.ring.offer(m.ring.chain(header(m.ram, 0), { address: m.ram.alloc(512), length: 512, w: true }, status(m.ram)))
      m.driver.kick(0)
      return m.device.poll(0)
    }
    ask()
    m.device.poll(1)
    ask()
    expect(() => m.device.save()).toThrow(expect.objectContaining({ code: 'DEVICE_BUSY', details: { inFlight: 1 } }))
    waiting[0].data.fill(1)
    waiting[0].done(0)
    m.device.poll(0)
    expect([m.device.inFlight, waiting.length]).toEqual([0, 1])
    const state = structuredClone(m.device.save())
    const disk = new Uint8Array(DISK_BYTES).fill(0x42)
    const device = new BlkDevice({ name: 'blk0', port: everything(m.ram.memory), store: new MemoryBlockStore(disk) })
    new MmioRegisters(device)
    device.restore(state)
    device.poll(64)
    expect(m.ring.reap()).toHaveLength(2)
    expect(device.negotiated.has(9)).toBe(true)
  })

  test.each<[string, (device: BlkDevice) => void]>([
    ['DEVICE_NEEDS_RESET', (device) => device.needsReset('test')],
    ['FAILED', (device) => device.writeStatus(device.status | 0x80)],
  ])('a device that %s stopped is saved once its store has answered', (_, stop) => {
    const waiting: BlockRequest[] = []
    const take = (r: BlockRequest): void => void waiting.push(r)
    const m = blkMachine({ store: { capacity: DISK_BYTES, read: take, write: take, flush: take } })
    m.driver.start([m.ring], 9)
    for (let i = 0; i < 2; i++) {
      m.ring.offer(m.ring.chain(header(m.ram, 0), { address: m.ram.alloc(512), length: 512, w: true }, status(m.ram)))
    }
    m.driver.kick(0)
    m.device.poll(64)
    // One before it stops, and not yet completed; the other after.
    waiting[0].done(0)
    stop(m.device)
    expect(() => m.device.save()).toThrow(expect.objectContaining({ code: 'DEVICE_BUSY', details: { inFlight: 1 } }))
    waiting[1].done(0)
    m.device.poll(0)
    expect([m.device.inFlight, m.ring.usedIndex]).toEqual([0, 0])
    const other = blkMachine({}, 8, m.ram)
    other.device.restore(m.device.save())
    expect(other.device.status).toBe(m.device.status)
  })

  test('before DRIVER_OK, and after a fault', () => {
    const m = netMachine()
    m.driver.negotiate(32)
    m.driver.queue(0, m.rx)
    const again = netMachine({}, 8, m.ram)
    again.device.restore(m.device.save())
    expect([again.device.live, again.device.queues[0].ready]).toEqual([false, true])
    again.driver.driverOk()
    expect(again.device.live).toBe(true)
    again.device.needsReset('test')
    const third = netMachine({}, 8, m.ram)
    third.device.restore(again.device.save())
    expect([third.device.live, third.device.status]).toEqual([false, 0x4f])
  })

  test('what does not fit is refused and changes nothing', () => {
    const net = netMachine()
    net.driver.start([net.rx, net.tx], 5)
    const state = net.device.save()
    const other = netMachine({ withhold: [29] })
    for (const bad of [
      { ...state, format: 'x' as 'guestdma-device-1' },
      { ...state, deviceId: 2 },
      { ...state, queues: [] },
      { ...state, config: [] },
      { ...state, driverFeatures: [1 << 29, 1, 0, 0] },
      { ...state, queues: state.queues.map((queue) => ({ ...queue, size: 512 })) },
    ]) {
      expect(() => other.device.restore(bad)).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
      expect(other.device.status).toBe(0)
    }
    other.device.restore(state)
    expect(other.device.live).toBe(true)
  })

  test.each<[string, (state: MmioState) => unknown]>([
    ['null', () => null],
    ['no fields', () => ({ format: 'guestdma-mmio-1' })],
    ['another format', (state) => ({ ...state, format: 'x' })],
    ['an interrupt status of 4', (state) => ({ ...state, interruptStatus: 4 })],
    ['an interrupt status that is no number', (state) => ({ ...state, interruptStatus: Number.NaN })],
    ['null for selectors', (state) => ({ ...state, selectors: null })],
    ['two selectors', (state) => ({ ...state, selectors: [0, 0] })],
    ['a selector of -1', (state) => ({ ...state, selectors: [0, 0, -1] })],
    ['a selector of 2^32', (state) => ({ ...state, selectors: [0, 2 ** 32, 0] })],
    ['a selector as text', (state) => ({ ...state, selectors: ['0', 0, 0] })],
  ])('a register state with %s is refused and changes nothing', (_, change) => {
    const { registers, driver } = netMachine()
    driver.w(0x30, 1)
    const before = registers.save()
    const state = change({ ...before, interruptStatus: 3, selectors: [1, 1, 1] }) as MmioState
    expect(() => registers.restore(state)).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
    expect(registers.save()).toEqual(before)
  })

  test('a restored line that the guest acknowledges before the first poll falls', () => {
    const m = netMachine()
    m.driver.start([m.rx, m.tx])
    m.device.setLink(false)
    m.device.poll(1)
    expect(m.line.asserted).toBe(true)
    const other = netMachine()
    other.device.restore(m.device.save())
    other.registers.restore(m.registers.save())
    // As an interrupt controller is restored.
    other.line.level(true)
    other.driver.w(0x64, 2)
    expect(other.line.asserted).toBe(false)
  })

  test('a line that a platform left up falls with a state that has nothing pending', () => {
    const m = netMachine()
    m.line.level(true)
    m.registers.restore(m.registers.save())
    expect(m.line.asserted).toBe(false)
  })

  describe('a state that is not whole is refused with DEVICE_STATE, and nothing changes', () => {
    type Loose = Record<string, unknown> & { queues: Record<string, unknown>[] }
    const mutations: [string, (state: Loose) => unknown][] = [
      ['null', () => null],
      ['undefined', () => undefined],
      ['a number', () => 7],
      ['a string', () => 'guestdma-device-1'],
      ['nothing', () => ({})],
      ...['format', 'deviceId', 'status', 'driverFeatures', 'config', 'generation', 'queues'].flatMap(
        (key): [string, (state: Loose) => unknown][] => [
          [`no ${key}`, (state) => ({ ...state, [key]: undefined })],
          [`${key} null`, (state) => ({ ...state, [key]: null })],
          [`${key} 'x'`, (state) => ({ ...state, [key]: 'x' })],
          [`${key} -1`, (state) => ({ ...state, [key]: -1 })],
          [`${key} []`, (state) => ({ ...state, [key]: [] })],
        ],
      ),
      ['status 4: DRIVER_OK alone', (state) => ({ ...state, status: 4 })],
      ['status 8: FEATURES_OK alone', (state) => ({ ...state, status: 8 })],
      ['status 7: DRIVER_OK without FEATURES_OK', (state) => ({ ...state, status: 7 })],
      ['status 31: an unknown bit', (state) => ({ ...state, status: 31 })],
      ['status 256', (state) => ({ ...state, status: 256 })],
      ['ready queues without FEATURES_OK', (state) => ({ ...state, status: 3 })],
      ['three feature words', (state) => ({ ...state, driverFeatures: [0, 1, 0] })],
      ['a feature word of 2^32', (state) => ({ ...state, driverFeatures: [0, 1, 0, 2 ** 32] })],
      ['a config byte of 256', (state) => ({ ...state, config: (state.config as number[]).map(() => 256) })],
      ['a hole in config', (state) => ({ ...state, config: new Array(state.config as number) })],
      ['a queue that is null', (state) => ({ ...state, queues: [state.queues[0], null] })],
      ...(
        [
          ['size', 0, 3, 'x', 512, -8, 2 ** 31, Number.NaN, undefined],
          ['ready', 1, undefined, 'true'],
          ['marked', 0, null],
          ['areas', [], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, -1], 'areas'],
          ['next', 1e9, -1, 0.5, undefined, 1],
          ['used', 65536, null, 7],
          ['published', '0', 65536, 100],
        ] as const
      ).flatMap(([key, ...values]) =>
        values.map((value): [string, (state: Loose) => unknown] => [
          `queue ${key} ${JSON.stringify(value)}`,
          (state) => ({ ...state, queues: state.queues.map((queue) => ({ ...queue, [key]: value })) }),
        ]),
      ),
    ]
    test.each(mutations)('%s', (_, mutate) => {
      const started = [
        (): { device: VirtioDevice } => {
          const m = netMachine()
          m.driver.start([m.rx, m.tx], 29)
          return m
        },
        () => {
          const m = blkMachine()
          m.driver.start([m.ring], 29)
          return m
        },
        () => new IommuMachine().start(),
      ]
      for (const start of started) {
        const m = start()
        const good = JSON.parse(JSON.stringify(m.device.save())) as Loose
        const bad = mutate(good) as DeviceState
        const before = m.device.save()
        expect(() => m.device.restore(bad)).toThrow(expect.objectContaining({ code: 'DEVICE_STATE' }))
        expect(m.device.save()).toEqual(before)
        expect(m.device.live).toBe(true)
        m.device.restore(good as unknown as DeviceState)
        expect(m.device.save()).toEqual(before)
      }
    })
  })

  describe('whatever stands anywhere in a state is accepted, or refused with DEVICE_STATE and nothing changes', () => {
    interface Part {
      restore(state: never): void
      save(): object
    }
    const junk = [
      undefined,
      null,
      true,
      -1,
      0.5,
      Number.NaN,
      256,
      65536,
      2 ** 32,
      1n,
      Symbol('s'),
      'x'.repeat(100),
      [],
      new Array(6),
      {},
      // `String(value)` throws.
      { toString: 1 },
      Object.create(null),
      () => 1,
    ]

    /** Every copy of `value` in which something was replaced by something else. */
    function* replaced(value: unknown): Generator<unknown> {
      yield* junk
      if (typeof value !== 'object' || value === null) return
      for (const [key, inner] of Object.entries(value)) {
        for (const other of replaced(inner)) {
          const copy = Array.isArray(value) ? [...(value as unknown[])] : { ...value }
          ;(copy as Record<string, unknown>)[key] = other
          yield copy
        }
      }
      if (!Array.isArray(value)) return
      const holed = [...(value as unknown[])]
      delete holed[0]
      yield holed
    }

    test.each<[string, () => [part: Part, device: VirtioDevice]]>([
      ...TRANSPORTS.map((transport): [string, () => [Part, VirtioDevice]] => [
        `blk's registers over ${transport}`,
        () => {
          const m = blkMachineOver(transport)
          m.driver.start([m.ring], 29)
          return [transportOf(m.driver), m.device]
        },
      ]),
      [
        'blk',
        () => {
          const m = blkMachine()
          m.driver.start([m.ring], 29)
          return [m.device, m.device]
        },
      ],
      [
        'net',
        () => {
          const m = netMachine()
          m.driver.start([m.rx, m.tx], 29)
          return [m.device, m.device]
        },
      ],
    ])('%s', (_, start) => {
      const [part, device] = start()
      const good = part.save()
      let refused = 0
      for (const state of replaced(good)) {
        try {
          part.restore(state as never)
        } catch (error) {
          refused++
          expect(error).toMatchObject({ code: 'DEVICE_STATE' })
          expect(part.save()).toEqual(good)
          continue
        }
        device.poll(1)
        part.restore(good as never)
      }
      expect(refused).toBeGreaterThan(100)
    })
  })

  test('a device that was restored is due for a poll', () => {
    const m = netMachine()
    m.driver.start([m.rx, m.tx])
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
    m.driver.kick(1)
    let told = 0
    const link = new RecordingLink()
    const device = new NetDevice({ name: 'n', port: everything(m.ram.memory), mac: MAC, link, onWork: () => told++ })
    device.restore(m.device.save())
    expect(told).toBe(1)
    device.poll(64)
    expect(link.frames).toHaveLength(1)
  })

  describe.each(TRANSPORTS)(
    'what restore finds changed is told, although the transport is restored after it: over %s',
    (transport) => {
      function move(m: AnyBlkMachine, port: BusPort, disk: Uint8Array): { driver: GuestDriver; line: Line } {
        const device = new BlkDevice({ name: 'blk1', port, store: new MemoryBlockStore(disk) })
        const line = new Line()
        const driver = driverOf(device, transport, line)
        const saved = transportOf(m.driver).save()
        device.restore(m.device.save())
        transportOf(driver).restore(saved as MmioState & PciState)
        // Nothing of it is lost with another move before the first poll.
        const again = transportOf(driver).save()
        transportOf(driver).restore(again as MmioState & PciState)
        device.poll(64)
        return { driver, line }
      }

      test('the capacity of the store', () => {
        const m = blkMachineOver(transport)
        m.driver.start([m.ring], 9)
        m.device.poll(64)
        const { generation } = m.driver
        const { driver, line } = move(m, m.device.port, new Uint8Array(2 * DISK_BYTES))
        expect([line.asserted, driver.acknowledge(), driver.config(0, 4)]).toEqual([true, 2, (2 * DISK_BYTES) / 512])
        expect(driver.generation).not.toBe(generation)
      })

      test('a ring that is out of reach (DEVICE_NEEDS_RESET)', () => {
        const m = blkMachineOver(transport)
        m.driver.start([m.ring], 9)
        m.device.poll(64)
        const { driver, line } = move(m, new BusWindows('nothing', []), m.disk)
        expect([line.asserted, driver.acknowledge(), driver.status & 0x40]).toEqual([true, 2, 0x40])
      })
    },
  )

  test('a store that does not fit is found before anything changes', () => {
    const m = blkMachine()
    m.driver.start([m.ring])
    const state = m.device.save()
    const store = { capacity: DISK_BYTES, read: () => {}, write: () => {}, flush: () => {} }
    const other = blkMachine({ store })
    store.capacity = 700
    expect(() => other.device.restore(state)).toThrow(expect.objectContaining({ code: 'STORE_CAPACITY' }))
    expect(other.device.status).toBe(0)
  })

  test('what a driver wrote to the size of a queue that it did not enable is saved and restored', () => {
    const m = netMachine()
    m.driver.negotiate(32)
    m.driver.w(0x30, 0)
    m.driver.w(0x38, 3)
    const again = netMachine({}, 8, m.ram)
    again.device.restore(m.device.save())
    expect(again.device.queues[0].size).toBe(3)
  })

  test("a ring that is out of reach on the new machine is the guest's fault record, not a throw", () => {
    const m = netMachine()
    m.driver.start([m.rx, m.tx])
    const elsewhere = new GuestMemory([
      { base: 0x1000, length: 0x1000, memory: new ArrayBuffer(0x2000), offset: 0x1000 },
    ])
    const device = new NetDevice({ name: 'lost', port: everything(elsewhere), mac: MAC })
    device.restore(m.device.save())
    expect(device.live).toBe(false)
    expect(device.faults.last()).toMatchObject([{ reason: 'ring-unreachable' }, { reason: 'ring-unreachable' }])
  })
})

describe('growth of a WebAssembly.Memory', () => {
  test('between polls, between frames, and from within transmit', () => {
    const wasm = new WebAssembly.Memory({ initial: 32, maximum: 64 })
    const memory = new GuestMemory([{ base: BASE, length: 0x10_0000, memory: wasm, offset: OFFSET }])
    const view = (): DataView => new DataView(wasm.buffer)
    const at = (address: number): number => address - BASE + OFFSET
    let grow = 0
    const loop = new LoopbackLink()
    const sent: number[] = []
    const device = new NetDevice({
      name: 'net0',
      port: everything(memory),
      mac: MAC,
      link: {
        transmit: (frames) => {
          for (let i = 0; i < frames.count; i++) sent.push(frames.bytes(i)[0])
          if (grow-- > 0) wasm.grow(1)
          return loop.transmit(frames)
        },
        attach: (receiver) => loop.attach(receiver),
      },
    })
    const driver = new Driver(new MmioRegisters(device))
    driver.negotiate(32)
    // Receive ring at BASE, transmit ring at BASE + 0x1000, buffers behind; eight descriptors each.
    for (const [queue, base] of [
      [0, BASE],
      [1, BASE + 0x1000],
    ]) {
      driver.w(0x30, queue)
      driver.w(0x38, 8)
      driver.w(0x80, base)
      driver.w(0x90, base + 0x100)
      driver.w(0xa0, base + 0x200)
      for (let i = 0; i < 8; i++) {
        view().setUint32(at(base + 16 * i), base + 0x10_000 * (queue + 1) + 0x800 * i, true)
        view().setUint32(at(base + 16 * i) + 8, queue === 0 ? 0x800 : 76, true)
        view().setUint16(at(base + 16 * i) + 12, queue === 0 ? 2 : 0, true)
        view().setUint16(at(base + 0x100) + 4 + 2 * i, i, true)
        view().setUint8(at(base + 0x10_000 * (queue + 1) + 0x800 * i) + 12, 0x40 + i)
      }
      driver.w(0x44, 1)
    }
    driver.driverOk()
    view().setUint16(at(BASE + 0x102), 8, true)
    wasm.grow(1)
    const offer = (count: number): void => {
      view().setUint16(at(BASE + 0x1102), count, true)
      driver.kick(1)
    }
    offer(2)
    expect(device.poll(64)).toBe(2)
    wasm.grow(1)
    grow = 2
    offer(8)
    expect(device.poll(64)).toBe(6)
    expect(sent).toEqual([0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47])
    expect([view().getUint16(at(BASE + 0x202), true), view().getUint16(at(BASE + 0x1202), true)]).toEqual([8, 8])
    expect(Array.from({ length: 8 }, (_, i) => view().getUint8(at(BASE + 0x10_000 + 0x800 * i) + 12))).toEqual(sent)
    expect([device.faults.count, device.counters.received]).toEqual([0, 8])
  })

  test('from within a store that ends its request at once: data and status arrive', () => {
    const wasm = new WebAssembly.Memory({ initial: 32, maximum: 64 })
    const memory = new GuestMemory([{ base: BASE, length: 0x10_0000, memory: wasm, offset: OFFSET }])
    const at = (address: number): number => address - BASE + OFFSET
    const disk = new Uint8Array(64 * 512).map((_, i) => 1 + (i % 251))
    class Growing extends MemoryBlockStore {
      override read(request: BlockRequest): void {
        wasm.grow(1)
        super.read(request)
      }
    }
    const device = new BlkDevice({ name: 'disk0', port: everything(memory), store: new Growing(disk) })
    const driver = new Driver(new MmioRegisters(device))
    driver.negotiate(32)
    driver.w(0x30, 0)
    driver.w(0x38, 8)
    driver.w(0x80, BASE)
    driver.w(0x90, BASE + 0x100)
    driver.w(0xa0, BASE + 0x200)
    const view = new DataView(wasm.buffer)
    // A header of zeros (IN, sector 0), 8 KiB of data, a status byte.
    for (const [i, [address, length, flags]] of [
      [BASE + 0x1000, 16, 1],
      [BASE + 0x2000, 8192, 3],
      [BASE + 0x1010, 1, 2],
    ].entries()) {
      view.setUint32(at(BASE + 16 * i), address, true)
      view.setUint32(at(BASE + 16 * i) + 8, length, true)
      view.setUint16(at(BASE + 16 * i) + 12, flags, true)
      view.setUint16(at(BASE + 16 * i) + 14, i + 1, true)
    }
    view.setUint8(at(BASE + 0x1010), 0xff)
    view.setUint16(at(BASE + 0x102), 1, true)
    driver.w(0x44, 1)
    driver.w(0x70, 15)
    driver.w(0x50, 0)
    device.poll(8)
    const bytes = new Uint8Array(wasm.buffer)
    expect(bytes[at(BASE + 0x1010)]).toBe(0)
    expect(bytes.slice(at(BASE + 0x2000), at(BASE + 0x4000))).toEqual(disk.slice(0, 8192))
  })
})
