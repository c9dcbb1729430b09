import { type BusPort, Region } from '@guestdma/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  BlkDevice,
  BusWindows,
  eachFrame,
  LoopbackLink,
  MemoryBlockStore,
  MmioRegisters,
  NetDevice,
} from '../src/index.ts'
import { MAC } from './support/devices.ts'
import { Driver } from './support/guest.ts'

// Bus address 0 is byte 0x400 of the buffer; a second window lies elsewhere. All else must stay as it is.
const LOW = { base: 0, length: 0x800, offset: 0x400 }
const HIGH = { base: 0xffff_f000, length: 0x200, offset: 0x1000 }
const BYTES = 0x1400
const SIZE = 8
// Places that a table, a buffer or nothing may be at.
const address = fc.oneof(
  fc.integer({ min: 0, max: 0x7ff }),
  fc.constantFrom(0, 0x200, 0x300, 0x7ff, 0x800, 0xffff_f000, 0xffff_f1ff, 0xffff_f200, 0xffff_ffff),
)
const length = fc.oneof(
  fc.integer({ min: 0, max: 80 }),
  fc.constantFrom(16, 32, 48, 512, 513, 0x800, 0xffff_ffff, 0xffff_fff0),
)
const descriptor = fc.record({
  low: address,
  high: fc.oneof(
    { weight: 20, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.constantFrom(1, 0x1f_ffff, 0x20_0000, 0xffff_ffff) },
  ),
  length,
  flags: fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 0, max: 7 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
  ),
  next: fc.oneof(
    { weight: 9, arbitrary: fc.integer({ min: 0, max: 8 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
  ),
})
const scenario = fc.record({
  tables: fc.array(descriptor, { minLength: 48, maxLength: 48 }),
  heads: fc.array(
    fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 0, max: 7 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
    ),
    { minLength: 8, maxLength: 8 },
  ),
  steps: fc.array(
    fc.oneof(
      { weight: 5, arbitrary: fc.integer({ min: 0, max: 8 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff }) },
    ),
    { minLength: 1, maxLength: 4 },
  ),
  event: fc.integer({ min: 0, max: 0xffff }),
  features: fc.subarray([28, 29, 35]),
  kind: fc.constantFrom('net', 'blk'),
  bytes: fc.uint8Array({ minLength: 64, maxLength: 64 }),
})

// Rings: descriptor table at 0 (8), an area of 40 more descriptors behind it for indirect tables, available ring, used
// ring.
const TABLE = 0
const AVAILABLE = 0x300
const USED = 0x320

test('ring/chains, fuzzed: never throws, always ends, and touches nothing beyond what it was given', () => {
  fc.assert(
    fc.property(scenario, ({ tables, heads, steps, event, features, kind, bytes }) => {
      const buffer = new ArrayBuffer(BYTES)
      const region = new Region(buffer, 'ram')
      const all = new Uint8Array(buffer)
      const view = new DataView(buffer)
      for (let i = 0; i < BYTES; i++) all[i] = bytes[i % 64]
      tables.forEach(({ low, high, length: len, flags, next }, i) => {
        const at = LOW.offset + TABLE + 16 * i
        view.setUint32(at, low, true)
        view.setUint32(at + 4, high, true)
        view.setUint32(at + 8, len, true)
        view.setUint16(at + 12, flags, true)
        view.setUint16(at + 14, next, true)
      })
      heads.forEach((head, i) => {
        view.setUint16(LOW.offset + AVAILABLE + 4 + 2 * i, head, true)
      })
      view.setUint16(LOW.offset + AVAILABLE, 0, true)
      view.setUint16(LOW.offset + AVAILABLE + 4 + 2 * SIZE, event, true)
      const port = new BusWindows('fuzz', [
        { ...LOW, region },
        { ...HIGH, region },
      ])
      // Every byte that a writable descriptor anywhere names may be written, and the used ring.
      const writable = new Uint8Array(BYTES)
      const allow = (from: number, count: number): void => {
        for (const window of [LOW, HIGH]) {
          const first = Math.max(from, window.base)
          const end = Math.min(from + count, window.base + window.length)
          for (let a = first; a < end; a++) writable[a - window.base + window.offset] = 1
        }
      }
      allow(USED, 6 + 8 * SIZE)
      // An indirect table may begin anywhere, so any 16 bytes may be a descriptor; those that the device itself wrote,
      // where a buffer lies over the table, as well.
      const allowWhatIsNamed = (): void => {
        for (const { offset, length } of [LOW, HIGH]) {
          for (let at = offset; at + 16 <= offset + length; at++) {
            if ((view.getUint16(at + 12, true) & 2) === 0 || view.getUint32(at + 4, true) !== 0) continue
            allow(view.getUint32(at, true), view.getUint32(at + 8, true))
          }
        }
      }
      allowWhatIsNamed()
      const device =
        kind === 'net'
          ? new NetDevice({ name: 'fuzz', port, mac: MAC, link: new LoopbackLink(), queueSize: SIZE, offer: [35] })
          : new BlkDevice({
              name: 'fuzz',
              port,
              store: new MemoryBlockStore(new Uint8Array(4096)),
              queueSize: SIZE,
              offer: [35],
            })
      const driver = new Driver(new MmioRegisters(device))
      expect(driver.negotiate(32, ...features)).toBe(true)
      const before = all.slice()
      const reported: [number, number][] = []
      region.onDeviceWrite = (offset, count) => {
        reported.push([offset, count])
        allowWhatIsNamed()
      }
      for (let queue = 0; queue < device.queues.length; queue++) {
        driver.w(0x30, queue)
        driver.w(0x38, SIZE)
        driver.w(0x80, TABLE)
        driver.w(0x90, AVAILABLE)
        driver.w(0xa0, USED)
        driver.w(0x44, 1)
      }
      driver.driverOk()
      for (const step of steps) {
        view.setUint16(LOW.offset + AVAILABLE + 2, step, true)
        before.set(all.subarray(LOW.offset + AVAILABLE + 2, LOW.offset + AVAILABLE + 4), LOW.offset + AVAILABLE + 2)
        for (let queue = 0; queue < device.queues.length; queue++) driver.kick(queue)
        let polls = 0
        while (device.poll(4) > 0) expect(++polls).toBeLessThan(100)
      }
      for (let i = 0; i < BYTES; i++) {
        if (all[i] === before[i]) continue
        if (writable[i] === 0) throw new Error(`byte ${i.toString(16)} was written`)
        if (!reported.some(([from, count]) => i >= from && i < from + count))
          throw new Error(`byte ${i.toString(16)} was not reported`)
      }
      // A reset brings it back whatever happened.
      expect(driver.negotiate(32)).toBe(true)
      expect(device.status).toBe(11)
    }),
    { numRuns: 600 },
  )
})

test('mmio, fuzzed: no register access throws', () => {
  const access = fc.record({
    offset: fc.oneof(
      fc.constantFrom(0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0xa0, 0xc0),
      fc.integer({ min: 0, max: 0x140 }),
    ),
    size: fc.constantFrom<1 | 2 | 4>(1, 2, 4, 4, 4, 4),
    value: fc.oneof(fc.constantFrom(0, 1, 2, 3, 11, 15), fc.integer({ min: 0, max: 0xffff_ffff })),
    write: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
      const port = new BusWindows('fuzz', [
        { base: 0, length: 0x1000, region: new Region(new ArrayBuffer(0x1000), 'ram') },
      ])
      const device = new NetDevice({ name: 'fuzz', port, mac: MAC, queueSize: SIZE })
      const registers = new MmioRegisters(device, { notify: 'inline' })
      for (const { offset, size, value, write } of accesses) {
        if (write) registers.write(offset, size, value)
        else expect(registers.read(offset, size)).toBeGreaterThanOrEqual(0)
        device.poll(8)
      }
    }),
    { numRuns: 200 },
  )
})

describe('double fetches', () => {
  // A region whose 16- and 32-bit fields turn hostile once they were loaded: a second load of the same field would see
  // something else.
  class Trap extends Region {
    readonly loads = new Map<string, number>()

    // Atomics take no proxies.
    override storeThenLoad(half: number, value: number, other: Region, otherHalf: number): number {
      this.u16[half] = value
      return other.loadShared(otherHalf)
    }

    override loadShared(half: number): number {
      return this.u16[half]
    }

    arm(watch: (offset: number) => boolean): void {
      const trap = <T extends Uint8Array | Uint16Array | Uint32Array>(array: T, width: number): T =>
        new Proxy(array, {
          get: (target, key) => {
            const index = typeof key === 'string' ? Number(key) : Number.NaN
            if (!Number.isInteger(index)) return Reflect.get(target, key, target) as unknown
            const value = target[index]
            const offset = index * width
            if (watch(offset)) {
              for (let i = 0; i < width; i++) {
                const name = `${offset + i}`
                this.loads.set(name, (this.loads.get(name) ?? 0) + 1)
              }
              // All ones: beyond every bound.
              target[index] = 0xffff_ffff
            }
            return value
          },
          set: (target, key, value) => Reflect.set(target, key, value, target),
        })
      this.u8 = trap(this.u8, 1)
      this.u16 = trap(this.u16, 2)
      this.u32 = trap(this.u32, 4)
    }
  }

  const boot = (
    chain: (view: DataView) => void,
    features: number[],
    link = new LoopbackLink(),
  ): { ram: Trap; device: NetDevice; run(): void } => {
    const buffer = new ArrayBuffer(0x2000)
    const ram = new Trap(buffer, 'trap')
    const view = new DataView(buffer)
    const port: BusPort = new BusWindows('trap', [{ base: 0, length: 0x2000, region: ram }])
    const device = new NetDevice({ name: 'net0', port, mac: MAC, link, queueSize: SIZE })
    const driver = new Driver(new MmioRegisters(device))
    driver.negotiate(32, ...features)
    for (const [queue, base] of [
      [0, 0],
      [1, 0x400],
    ]) {
      driver.w(0x30, queue)
      driver.w(0x38, SIZE)
      driver.w(0x80, base)
      driver.w(0x90, base + 0x100)
      driver.w(0xa0, base + 0x200)
      driver.w(0x44, 1)
    }
    driver.driverOk()
    chain(view)
    view.setUint16(0x502, 1, true)
    return {
      ram,
      device,
      run: () => {
        driver.kick(1)
        device.poll(8)
      },
    }
  }

  const describeAt = (
    view: DataView,
    at: number,
    address: number,
    length: number,
    flags: number,
    next: number,
  ): void => {
    view.setUint32(at, address, true)
    view.setUint32(at + 8, length, true)
    view.setUint16(at + 12, flags, true)
    view.setUint16(at + 14, next, true)
  }

  test.each([
    [
      'direct',
      [29],
      (view: DataView) => {
        describeAt(view, 0x400, 0x1000, 12, 1, 1)
        describeAt(view, 0x410, 0x100c, 64, 0, 0)
      },
    ],
    [
      'indirect',
      [28],
      (view: DataView) => {
        describeAt(view, 0x400, 0x1800, 32, 4, 0)
        describeAt(view, 0x1800, 0x1000, 12, 1, 1)
        describeAt(view, 0x1810, 0x100c, 64, 0, 0)
      },
    ],
    [
      'with an empty element',
      [],
      (view: DataView) => {
        describeAt(view, 0x400, 0x1000, 0, 1, 1)
        describeAt(view, 0x410, 0x1000, 76, 0, 0)
      },
    ],
    ['a header that asks for nothing', [], (view: DataView) => describeAt(view, 0x400, 0x1000, 76, 0, 0)],
  ] as const)('%s: descriptors, heads, indices and headers are loaded once', (_, features, chain) => {
    const frames: Uint8Array[] = []
    const link = new LoopbackLink()
    link.transmit = eachFrame((frame) => frames.push(frame.slice()))
    const { ram, device, run } = boot(chain, [...features], link)
    new Uint8Array(ram.source as ArrayBuffer).fill(0x5a, 0x100c, 0x104c)
    // Descriptors, the available ring's head, the indirect table, the header's first two bytes.
    const watched = (offset: number): boolean =>
      (offset >= 0x400 && offset < 0x480) ||
      (offset >= 0x504 && offset < 0x514) ||
      (offset >= 0x1800 && offset < 0x1840) ||
      (offset >= 0x1000 && offset < 0x100c)
    ram.arm(watched)
    run()
    expect(frames).toEqual([new Uint8Array(64).fill(0x5a)])
    expect(device.faults.last()).toEqual([])
    expect(Math.max(...ram.loads.values())).toBe(1)
    expect(ram.loads.size).toBeGreaterThan(10)
  })

  test('the available index is loaded once per look, and never acted on twice', () => {
    const { ram, device, run } = boot((view) => describeAt(view, 0x400, 0x1000, 76, 0, 0), [])
    ram.arm((offset) => offset === 0x502)
    run()
    expect(device.counters.transmitted).toBe(1)
    expect([ram.loads.get(`${0x502}`), device.faults.count]).toEqual([1, 0])
  })

  test("a block request's header is judged from one copy", () => {
    const buffer = new ArrayBuffer(0x2000)
    const region = new Region(buffer, 'ram')
    const view = new DataView(buffer)
    const disk = new Uint8Array(4096)
    const port = new BusWindows('ram', [{ base: 0, length: 0x2000, region }])
    const device = new BlkDevice({
      name: 'blk0',
      port,
      queueSize: SIZE,
      // The guest rewrites header and data as soon as the store is asked.
      store: {
        capacity: 4096,
        read: (r) => r.done(0),
        write: (r) => {
          view.setUint32(0x1008, 0xffff_ffff, true)
          new Uint8Array(buffer).fill(0xee, 0x1010, 0x1210)
          disk.set(r.data, r.sector * 512)
          r.done(0)
        },
        flush: (r) => r.done(0),
      },
    })
    const driver = new Driver(new MmioRegisters(device))
    driver.negotiate(32, 9)
    driver.w(0x38, SIZE)
    driver.w(0x90, 0x100)
    driver.w(0xa0, 0x200)
    driver.w(0x44, 1)
    driver.driverOk()
    view.setUint32(0x1000, 1, true)
    view.setUint32(0x1008, 2, true)
    new Uint8Array(buffer).fill(0x33, 0x1010, 0x1210)
    describeAt(view, 0, 0x1000, 528, 1, 1)
    describeAt(view, 16, 0x1300, 1, 2, 0)
    view.setUint16(0x102, 1, true)
    driver.kick(0)
    device.poll(8)
    expect(disk.subarray(1024, 1536).every((byte) => byte === 0x33)).toBe(true)
  })
})
