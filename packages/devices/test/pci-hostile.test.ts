import { Region } from '@guestdma/memory'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BusWindows, LoopbackLink, NetDevice, PciFunction, virtioCapability } from '../src/index.ts'
import { MAC } from './support/devices.ts'
import { capabilities, MASTER, MEMORY } from './support/pci.ts'

const RAM = 0x1000
const GUARD = 0x1000
const DOORBELL = 0x10_0000

interface Access {
  readonly space: number
  readonly offset: number
  readonly size: 1 | 2 | 4
  readonly value: number
  readonly write: boolean
}

/** Offsets that mean something, in the configuration space (-1) and in the BARs, and any others. */
const access: fc.Arbitrary<Access> = fc
  .record({
    place: fc.oneof(
      { weight: 4, arbitrary: fc.tuple(fc.constant(0), fc.integer({ min: 0, max: 0x40 })) },
      { weight: 2, arbitrary: fc.tuple(fc.constant(0), fc.constantFrom(0x1000, 0x2000, 0x2006, 0x3000, 0x3004)) },
      { weight: 2, arbitrary: fc.tuple(fc.constant(-1), fc.integer({ min: 0, max: 0xff })) },
      { weight: 2, arbitrary: fc.tuple(fc.constant(1), fc.integer({ min: 0, max: 0x30 })) },
      fc.tuple(fc.constantFrom(1, 2, 4), fc.integer({ min: 0, max: 0x1010 })),
      fc.tuple(fc.integer({ min: -1, max: 5 }), fc.integer({ min: -8, max: 0x1_0000_0000 })),
    ),
    aligned: fc.boolean(),
    size: fc.constantFrom<1 | 2 | 4>(1, 2, 2, 4, 4),
    value: fc.oneof(
      fc.constantFrom(0, 1, 2, 3, 4, 11, 15, 0x100, 0x200, 0x8000, 0xc000, DOORBELL),
      fc.integer({ min: 0, max: 0xffff_ffff }),
      fc.constantFrom(-1, Number.NaN, 2 ** 40 + 1),
    ),
    write: fc.boolean(),
  })
  .map(({ place: [space, offset], aligned, size, value, write }) => ({
    space,
    offset: aligned ? Math.floor(offset / size) * size : offset,
    size,
    value,
    write,
  }))

test('pci, fuzzed: no access throws, reads are unsigned, and memory is touched through the port only', () => {
  fc.assert(
    fc.property(
      fc.array(access, { maxLength: 80 }),
      fc.constantFrom<'marked' | 'inline'>('marked', 'inline'),
      (accesses, notify) => {
        const buffer = new ArrayBuffer(RAM + 2 * GUARD)
        const bytes = new Uint8Array(buffer).fill(0xa5)
        bytes.fill(0, GUARD, GUARD + RAM)
        const ram = new Region(buffer, 'ram')
        const port = new BusWindows('fuzz', [{ base: 0, length: RAM, region: ram, offset: GUARD }])
        port.setDoorbell(DOORBELL, 0x10, { level: () => {}, message: () => {} })
        const device = new NetDevice({ name: 'fuzz', port, mac: MAC, queueSize: 16, link: new LoopbackLink() })
        // The memory behind the BARs lies between guards as well.
        const board = new Uint8Array(4 * GUARD).fill(0xa5)
        const memory = new Region(board.buffer, 'board')
        const pci = new PciFunction(device, {
          notify,
          swiotlb: { window: { region: memory, offset: GUARD, length: 0x800 } },
          sharedMemory: [{ id: 1, window: { region: memory, offset: 2 * GUARD, length: 0x800 } }],
        })
        pci.config.write(4, 2, MEMORY | MASTER)
        for (const { space, offset, size, value, write } of accesses) {
          const bus = space < 0 ? pci.config : pci.bar(space)
          if (bus === null) continue
          if (write) bus.write(offset, size, value)
          else {
            const got = bus.read(offset, size)
            expect(Number.isInteger(got) && got >= 0 && got < 2 ** (8 * size)).toBe(true)
          }
          device.poll(8)
          for (let i = 0; i < 6; i++) {
            const range = pci.range(i)
            if (range !== null) expect(range.address + range.size).toBeLessThanOrEqual(2 ** 53)
          }
        }
        const untouched = (array: Uint8Array, from: number, to: number): boolean =>
          array.subarray(from, to).every((byte) => byte === 0xa5)
        expect(untouched(bytes, 0, GUARD) && untouched(bytes, GUARD + RAM, RAM + 2 * GUARD)).toBe(true)
        expect(untouched(board, 0, GUARD) && untouched(board, GUARD + 0x800, 2 * GUARD)).toBe(true)
        expect(untouched(board, 2 * GUARD + 0x800, 4 * GUARD)).toBe(true)
      },
    ),
    { numRuns: 300 },
  )
})

test('pci, fuzzed: the access window over lists that promise what is not there never throws', () => {
  const capability = fc
    .record({
      type: fc.integer({ min: 0, max: 12 }),
      bar: fc.integer({ min: 0, max: 7 }),
      offset: fc.oneof(fc.constantFrom(0, 0x1000, 0xffff_fffc), fc.integer({ min: 0, max: 0xffff_ffff })),
      length: fc.oneof(fc.constantFrom(0, 1, 64, 0xffff_ffff), fc.integer({ min: 0, max: 0xffff_ffff })),
      extra: fc.uint8Array({ maxLength: 8 }),
    })
    .map((fields) => virtioCapability(fields))
  const aim = fc.record({
    bar: fc.integer({ min: 0, max: 7 }),
    offset: fc.oneof(fc.integer({ min: 0, max: 0x4000 }), fc.integer({ min: 0, max: 0xffff_ffff })),
    length: fc.constantFrom(0, 1, 2, 4, 4, 8, 0xffff_ffff),
    value: fc.integer({ min: 0, max: 0xffff_ffff }),
  })
  fc.assert(
    fc.property(fc.array(capability, { maxLength: 5 }), fc.array(aim, { maxLength: 20 }), (extra, aims) => {
      const port = new BusWindows('fuzz', [{ base: 0, length: RAM, region: new Region(new ArrayBuffer(RAM), 'ram') }])
      const device = new NetDevice({ name: 'fuzz', port, mac: MAC })
      const window = virtioCapability({ type: 5, extra: [0, 0, 0, 0] })
      const pci = new PciFunction(device, { msixVectors: 0, capabilities: () => [window, ...extra] })
      const [{ at }] = capabilities(pci)
      for (const { bar, offset, length, value } of aims) {
        pci.config.write(at + 4, 1, bar)
        pci.config.write(at + 8, 4, offset)
        pci.config.write(at + 12, 4, length)
        pci.config.write(at + 16, 4, value)
        expect(pci.config.read(at + 16, 4)).toBeGreaterThanOrEqual(0)
        device.poll(8)
      }
    }),
    { numRuns: 200 },
  )
})
