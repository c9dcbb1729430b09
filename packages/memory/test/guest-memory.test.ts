import { describe, expect, test } from 'vitest'
import { ADDRESS_LIMIT, GuestMemory, guestAddress } from '../src/index.ts'

const at = (memory: GuestMemory, address: number, length: number): number =>
  memory.locate(Float64Array.of(address), 0, length)
const inside = (memory: GuestMemory, address: number, length: number): boolean =>
  memory.contains(Float64Array.of(address), 0, length)

describe('guest ranges', () => {
  test('may share a buffer, and have one region for it', () => {
    const ram = new ArrayBuffer(4096)
    const other = new ArrayBuffer(1024)
    const memory = new GuestMemory([
      { base: 0x9000, length: 1024, memory: ram, offset: 1024 },
      { base: 0x1000, length: 1024, memory: ram },
      { base: 0x5000, length: 1024, memory: other },
    ])
    expect(memory.regions.length).toBe(2)
    expect(memory.ranges.map(({ base }) => base)).toEqual([0x1000, 0x5000, 0x9000])
    memory.write(guestAddress(0x9000), new Uint8Array([7]))
    expect(new Uint8Array(ram)[1024]).toBe(7)
  })

  test('two ranges may show the same bytes, and a device write is reported at both addresses', () => {
    const ram = new ArrayBuffer(4096)
    const reports: [number, number][] = []
    const memory = new GuestMemory(
      [
        { base: 0x1000, length: 2048, memory: ram },
        { base: 0x8000, length: 2048, memory: ram, offset: 1024 },
      ],
      { onDeviceWrite: (address, length) => reports.push([address, length]) },
    )
    memory.regions[0].onDeviceWrite?.(1000, 100)
    expect(reports).toEqual([
      [0x1000 + 1000, 100],
      [0x8000, 76],
    ])
    reports.length = 0
    memory.regions[0].onDeviceWrite?.(3072, 10)
    expect(reports).toEqual([])
  })

  const buffer = new ArrayBuffer(4096)
  test.each([
    ['MEMORY_EMPTY', []],
    ['MEMORY_ADDRESS', [{ base: -16, length: 16, memory: buffer }]],
    ['MEMORY_ADDRESS', [{ base: 0.5, length: 16, memory: buffer }]],
    ['MEMORY_LENGTH', [{ base: 0, length: 0, memory: buffer }]],
    ['MEMORY_LENGTH', [{ base: ADDRESS_LIMIT - 16, length: 32, memory: buffer }]],
    ['MEMORY_OUTSIDE', [{ base: 0, length: 4097, memory: buffer }]],
    ['MEMORY_OUTSIDE', [{ base: 0, length: 4096, memory: buffer, offset: 16 }]],
    ['MEMORY_OUTSIDE', [{ base: 0, length: 16, memory: buffer, offset: -16 }]],
    ['MEMORY_OUTSIDE', [{ base: 0, length: 16, memory: buffer, offset: 0.5 }]],
    ['MEMORY_ALIGN', [{ base: 0x1008, length: 16, memory: buffer }]],
    ['MEMORY_ALIGN', [{ base: 0x1000, length: 16, memory: buffer, offset: 8 }]],
    ['MEMORY_SOURCE', [{ base: 0, length: 16, memory: new Uint8Array(16) as unknown as ArrayBuffer }]],
    ['MEMORY_SOURCE', [{ base: 0, length: 16, memory: undefined as unknown as ArrayBuffer }]],
    [
      'MEMORY_OVERLAP',
      [
        { base: 0x1000, length: 32, memory: buffer },
        { base: 0x1010, length: 16, memory: buffer, offset: 64 },
      ],
    ],
    [
      'MEMORY_OVERLAP',
      [
        { base: 0x1000, length: 16, memory: buffer },
        { base: 0x1000, length: 16, memory: new ArrayBuffer(16) },
      ],
    ],
  ])('are refused with %s (%#)', (expected, ranges) => {
    expect(() => new GuestMemory(ranges)).toThrow(expect.objectContaining({ code: expected }))
  })

  test('a high base and a low offset agree modulo 16, whichever is larger', () => {
    const made = (base: number, length: number, offset: number): GuestMemory =>
      new GuestMemory([{ base, length, memory: buffer, offset }])
    expect(() => made(0x10, 16, 0x20)).not.toThrow()
    expect(() => made(2 ** 40 + 4, 12, 4)).not.toThrow()
  })

  test('ranges that touch are two ranges', () => {
    const memory = new GuestMemory([
      { base: 0x1000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
      { base: 0x2000, length: 0x1000, memory: new ArrayBuffer(0x1000) },
    ])
    expect(at(memory, 0x1ff0, 32)).toBe(16)
    expect(inside(memory, 0x1ff0, 32)).toBe(false)
    expect(inside(memory, 0x1ff0, 16)).toBe(true)
    expect(inside(memory, 0x2000, 16)).toBe(true)
    expect(() => memory.read(guestAddress(0x1ff0), 32)).toThrow(expect.objectContaining({ code: 'MEMORY_OUTSIDE' }))
    expect(memory.describe()).toBe('0x1000 + 0x1000, 0x2000 + 0x1000')
  })
})

describe('locate and contains', () => {
  const [low, high] = [new ArrayBuffer(4096), new ArrayBuffer(8192)]
  const memory = new GuestMemory([
    { base: 0x1000, length: 0x1000, memory: low },
    { base: 2 ** 40, length: 0x1000, memory: high, offset: 0x1000 },
  ])

  test('find the bytes, in whatever order they are asked for', () => {
    for (const [address, length, granted, region, offset] of [
      [0x1000, 16, 16, 0, 0],
      [2 ** 40, 16, 16, 1, 0x1000],
      [0x1fff, 16, 1, 0, 0xfff],
      [2 ** 40 + 0xfff, 5, 1, 1, 0x1fff],
      [0x1800, 0x1000, 0x800, 0, 0x800],
    ]) {
      expect(at(memory, address, length)).toBe(granted)
      expect([memory.region, memory.offset]).toEqual([memory.regions[region], offset])
    }
  })

  test.each([0, 0xfff, 0x2000, 2 ** 40 - 1, 2 ** 40 + 0x1000, 2 ** 53, -1, Number.NaN, Number.POSITIVE_INFINITY])(
    'find nothing at %d',
    (address) => {
      expect(at(memory, address, 1)).toBe(0)
      expect(inside(memory, address, 1)).toBe(false)
    },
  )

  test('agree with a search through all ranges, after any earlier question', () => {
    const contained = (address: number, length: number): boolean =>
      memory.ranges.some(({ base, end }) => address >= base && address + length <= end)
    const edges = [0x1000, 0x2000, 2 ** 40, 2 ** 40 + 0x1000].flatMap((edge) => [edge - 2, edge - 1, edge, edge + 1])
    for (const before of edges) {
      for (const address of edges) {
        for (const length of [1, 2, 0x1000, 0x1001]) {
          at(memory, before, 1)
          expect([before, address, length, inside(memory, address, length)]).toEqual([
            before,
            address,
            length,
            contained(address, length),
          ])
        }
      }
    }
  })
})

describe('a WebAssembly.Memory may grow between uses', () => {
  test('views are derived again, offsets stay, and every access sees the same bytes', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 4 })
    const memory = new GuestMemory([{ base: 0x1_0000, length: 65_536, memory: ram }])
    memory.write(guestAddress(0x1_1000), new Uint8Array([1, 2, 3]))
    ram.grow(1)
    expect(memory.regions[0].u8.length).toBe(0)
    expect([...memory.read(guestAddress(0x1_1000), 3)]).toEqual([1, 2, 3])
    ram.grow(1)
    memory.write(guestAddress(0x1_1001), new Uint8Array([9]))
    expect([...new Uint8Array(ram.buffer, 0x1000, 3)]).toEqual([1, 9, 3])
    ram.grow(0)
    memory.refresh()
    expect(memory.regions[0].length).toBe(3 * 65_536)
    // What was declared is what is guest memory, however much there is now.
    expect(at(memory, 0x2_0000, 1)).toBe(0)
  })

  test('a refresh says whether anything changed', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 4 })
    const [region] = new GuestMemory([{ base: 0, length: 16, memory: ram }]).regions
    expect(region.refresh()).toBe(false)
    ram.grow(1)
    expect([region.refresh(), region.refresh()]).toEqual([true, false])
    expect(region.view.byteLength).toBe(2 * 65_536)
  })

  test('a shared one keeps its views', () => {
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true })
    const memory = new GuestMemory([{ base: 0, length: 65_536, memory: ram }])
    ram.grow(1)
    expect(memory.regions[0].refresh()).toBe(false)
    memory.write(guestAddress(0), new Uint8Array([5]))
    expect(new Uint8Array(ram.buffer)[0]).toBe(5)
  })
})

describe('buffers', () => {
  test('that can be resized or grown are refused, with the reason', () => {
    const resizable = Reflect.construct(ArrayBuffer, [16, { maxByteLength: 32 }]) as ArrayBuffer
    const growable = Reflect.construct(SharedArrayBuffer, [16, { maxByteLength: 32 }]) as SharedArrayBuffer
    for (const memory of [resizable, growable]) {
      expect(() => new GuestMemory([{ base: 0, length: 16, memory }])).toThrow(
        expect.objectContaining({ code: 'MEMORY_RESIZABLE' }),
      )
    }
  })

  test('that are shared work like others', () => {
    const memory = new GuestMemory([{ base: 0, length: 16, memory: new SharedArrayBuffer(16) }])
    memory.write(guestAddress(1), new Uint8Array([4]))
    expect([...memory.read(guestAddress(0), 2)]).toEqual([0, 4])
  })

  test('of any length have views of whole elements only', () => {
    const [region] = new GuestMemory([{ base: 0, length: 13, memory: new ArrayBuffer(13) }]).regions
    expect([region.u8.length, region.u16.length, region.u32.length, region.u64.length]).toEqual([13, 6, 3, 1])
  })
})

describe('read and write', () => {
  const memory = new GuestMemory([{ base: 0x1000, length: 64, memory: new ArrayBuffer(64) }])

  test('refuse what is not memory', () => {
    expect(() => memory.write(guestAddress(0x103f), new Uint8Array(2))).toThrow(
      expect.objectContaining({ code: 'MEMORY_OUTSIDE' }),
    )
    expect(() => memory.read(guestAddress(0xfff), 1)).toThrow(expect.objectContaining({ code: 'MEMORY_OUTSIDE' }))
    expect(() => memory.window(guestAddress(0x1000), 0)).toThrow(expect.objectContaining({ code: 'MEMORY_LENGTH' }))
  })

  test('of nothing do nothing, anywhere', () => {
    memory.write(guestAddress(0), new Uint8Array(0))
    expect(memory.read(guestAddress(0), 0)).toEqual(new Uint8Array(0))
  })

  test('a read is a copy', () => {
    const read = memory.read(guestAddress(0x1000), 4)
    read.fill(9)
    expect([...memory.read(guestAddress(0x1000), 4)]).toEqual([0, 0, 0, 0])
  })
})
