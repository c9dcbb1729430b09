import { ACCESS_READ, ACCESS_WRITE, GuestMemory, Region } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { type BusWindow, BusWindows, everything, nothing, oneWindow } from '../src/index.ts'

const region = (bytes = 0x1_0000, name = 'region'): Region => new Region(new ArrayBuffer(bytes), name)

function ask(port: BusWindows, address: number, length: number, access: 1 | 2 = ACCESS_READ): [number, number] {
  port.request[0] = address
  const granted = port.resolve(length, access)
  return [granted, port.offset]
}

describe('BusWindows', () => {
  test('grants inside a window and tells where', () => {
    const memory = region()
    const port = oneWindow('pool', { base: 0x5000_0000, length: 0x1000, region: memory, offset: 0x400 })
    expect(ask(port, 0x5000_0010, 64)).toEqual([64, 0x410])
    expect(port.region).toBe(memory)
    expect(ask(port, 0x5000_0fff, 1, ACCESS_WRITE)).toEqual([1, 0x13ff])
    expect(port.faults.count).toBe(0)
  })

  test('grants less at an edge; the rest is the next window, or a fault that names the first byte out of reach', () => {
    const [low, high] = [region(0x1000, 'low'), region(0x1000, 'high')]
    const port = new BusWindows('two', [
      { base: 0x2000, length: 0x1000, region: high },
      { base: 0x1000, length: 0x1000, region: low },
    ])
    expect(ask(port, 0x1ff0, 0x40)).toEqual([0x10, 0xff0])
    expect(port.region).toBe(low)
    expect(ask(port, 0x2000, 0x30)).toEqual([0x30, 0])
    expect(port.region).toBe(high)
    expect(ask(port, 0x2ff0, 0x40)).toEqual([0x10, 0xff0])
    expect(ask(port, 0x3000, 0x30)[0]).toBe(0)
    expect(port.faults.last()).toEqual([{ port: 'two', address: 0x3000, length: 0x30, access: 1, reason: 'unmapped' }])
  })

  test('faults: permission, and addresses that no number holds as their halves', () => {
    const port = oneWindow('read only', { base: 0, length: 0x1000, region: region(), access: 1 })
    expect(ask(port, 0x10, 4)[0]).toBe(4)
    expect(ask(port, 0x10, 4, ACCESS_WRITE)[0]).toBe(0)
    port.outOfReach(0x20_0000, 5, 16, ACCESS_WRITE)
    expect(port.faults.last()).toEqual([
      { port: 'read only', address: 0x10, length: 4, access: 2, reason: 'permission' },
      { port: 'read only', address: { high: 0x20_0000, low: 5 }, length: 16, access: 2, reason: 'range' },
    ])
  })

  test('nothing reaches nothing', () => {
    const port = nothing('denied')
    expect(ask(port, 0, 1)[0]).toBe(0)
    expect(ask(port, 0x8000_0000, 1)[0]).toBe(0)
    expect(port.faults.count).toBe(2)
  })

  test('everything reaches all ranges, with a bus offset where there is one', () => {
    const buffer = new ArrayBuffer(0x3000)
    const memory = new GuestMemory([
      { base: 0x8000_0000, length: 0x1000, memory: buffer, offset: 0x1000 },
      { base: 0x1_0000_0000, length: 0x1000, memory: buffer, offset: 0x2000 },
    ])
    expect(ask(everything(memory), 0x1_0000_0008, 8)).toEqual([8, 0x2008])
    const shifted = everything(memory, { name: 'bus', busOffset: 0x10_0000_0000 })
    expect(ask(shifted, 0x10_8000_0000, 8)).toEqual([8, 0x1000])
    expect(ask(shifted, 0x8000_0000, 8)[0]).toBe(0)
  })

  test('setDoorbell: writes inside it are messages, and no others', () => {
    const port = oneWindow('pool', { base: 0x1000, length: 0x1000, region: region() })
    const messages: [number, number][] = []
    const message = (address: number, data: number): boolean => {
      port.request[0] = address
      return port.message(data)
    }
    expect(message(0, 1)).toBe(false)
    port.setDoorbell(0xfee0_0000, 0x1000, { level: () => {}, message: (...args) => messages.push(args) })
    expect([0xfee0_0000, 0xfee0_0ffc, 0xfedf_fffc, 0xfee0_1000, 0x1000, 0].map((at) => message(at, 7))).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ])
    expect(messages).toEqual([
      [0xfee0_0000, 7],
      [0xfee0_0ffc, 7],
    ])
    // A sink for lines only takes the message and drops it; windows are no matter.
    port.setDoorbell(0x1000, 4, { level: () => {} })
    port.setWindows([])
    expect([message(0x1000, 7), message(0xfee0_0000, 7), messages.length, port.faults.count]).toEqual([
      true,
      false,
      2,
      0,
    ])
    expect(() => port.setDoorbell(2 ** 53 - 4, 8, { level: () => {} })).toThrow(
      expect.objectContaining({ code: 'MEMORY_LENGTH' }),
    )
    expect(nothing('denied').message(1)).toBe(false)
  })

  test('windows near 2^53', () => {
    const base = 2 ** 53 - 0x1000
    const port = oneWindow('top', { base, length: 0x1000, region: region() })
    expect(ask(port, 2 ** 53 - 1, 8)).toEqual([1, 0xfff])
  })

  test('setWindows takes a window onto a memory that has grown since', () => {
    const memory = new WebAssembly.Memory({ initial: 1 })
    const grown = new Region(memory, 'wasm')
    const port = oneWindow('wasm', { base: 0, length: 0x1000, region: grown })
    memory.grow(1)
    port.setWindows([{ base: 0, length: 0x2000, region: grown, offset: 0x1_0000 }])
    expect(ask(port, 0x1000, 64)).toEqual([64, 0x1_1000])
  })

  test('setWindows replaces the windows and bumps the epoch', () => {
    const memory = region()
    const port = oneWindow('pool', { base: 0x1000, length: 0x1000, region: memory })
    const { epoch } = port
    expect(ask(port, 0x1000, 4)[0]).toBe(4)
    port.setWindows([{ base: 0x4000, length: 0x1000, region: memory, offset: 0x800, access: 2 }])
    expect(port.epoch).not.toBe(epoch)
    expect(ask(port, 0x1000, 4)[0]).toBe(0)
    expect(ask(port, 0x4000, 4, ACCESS_WRITE)).toEqual([4, 0x800])
    expect(port.windows).toEqual([{ base: 0x4000, length: 0x1000, region: memory, offset: 0x800, access: 2 }])
    port.setWindows([])
    expect(ask(port, 0x4000, 4)[0]).toBe(0)
  })

  test.each<[string, BusWindow[]]>([
    [
      'WINDOW_OVERLAP',
      [
        { base: 0, length: 0x20, region: region() },
        { base: 0x10, length: 0x20, region: region() },
      ],
    ],
    ['WINDOW_OUTSIDE', [{ base: 0, length: 0x20, region: region(0x10) }]],
    ['WINDOW_OUTSIDE', [{ base: 0, length: 0x10, region: region(0x10), offset: 1 }]],
    ['WINDOW_ACCESS', [{ base: 0, length: 0x10, region: region(), access: 0 as 1 }]],
    ['MEMORY_LENGTH', [{ base: 2 ** 53 - 1, length: 2, region: region() }]],
    ['MEMORY_ADDRESS', [{ base: -1, length: 2, region: region() }]],
  ])('refuses what cannot be: %s', (code, windows) => {
    expect(() => new BusWindows('bad', windows)).toThrow(expect.objectContaining({ code }))
  })
})
