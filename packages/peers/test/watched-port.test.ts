import { BusWindows } from '@guestdma/devices'
import { Region } from '@guestdma/memory'
import type { MappedWindow } from '@guestdma/vhost-user'
import { describe, expect, test } from 'vitest'
import { SpanPort, TranslatedPort, type WatchedPort } from '../src/guests/watched-port.ts'

const [READ, WRITE] = [1, 2] as const
const SECRET = 'top secret'
const RAM = 0x4000_0000
const USER = 0x7000_0000

function ram(): { region: Region; window: MappedWindow } {
  const region = new Region(new ArrayBuffer(0x8000), 'ram')
  return { region, window: { base: RAM, length: 0x7000, region, offset: 0x1000, user: USER } }
}

/** Writes the secret at an offset of RAM. */
function hide(region: Region, offset: number): void {
  region.u8.set(new TextEncoder().encode(SECRET), 0x1000 + offset)
}

function resolve(port: WatchedPort, address: number, length: number, access: 1 | 2): number {
  port.request[0] = address
  return port.resolve(length, access)
}

describe('a port of one span', () => {
  function pool() {
    const { region, window } = ram()
    const port = new SpanPort('disk0', { base: RAM + 0x2000, length: 0x1000 }, SECRET)
    port.setWindows([window])
    return { region, window, port }
  }

  test('reaches its span, and nothing beside it', () => {
    const { port } = pool()
    expect(resolve(port, RAM + 0x2000, 0x2000, READ)).toBe(0x1000)
    expect(port.offset).toBe(0x3000)
    expect([resolve(port, RAM + 0x1fff, 1, READ), resolve(port, RAM + 0x3000, 1, READ)]).toEqual([0, 0])
    expect([port.granted, port.outside, port.faults.count]).toEqual([1, 0, 2])
  })

  test('an access that is granted outside of the span is counted', () => {
    const { port, window } = pool()
    BusWindows.prototype.setWindows.call(port, [window])
    resolve(port, RAM + 0x2800, 0x1000, READ)
    resolve(port, RAM, 16, READ)
    expect([port.granted, port.outside]).toEqual([2, 2])
  })

  test('finds the secret within its span, and in what is handed over to be written', () => {
    const { port, region } = pool()
    for (const at of [0x100, 0x2100, 0x2900]) hide(region, at)
    expect(port.secretInReach()).toBe(2 * SECRET.length)
    resolve(port, RAM + 0x2100, 0x100, READ)
    expect(port.handedOver).toBe(0)
    resolve(port, RAM + 0x2100, 0x100, WRITE)
    expect(port.handedOver).toBe(SECRET.length)
  })
})

test('a watched port tells no window, so that a device asks it for each access', () => {
  const { window } = ram()
  const ports = [new SpanPort('disk0', { base: RAM, length: 0x7000 }, SECRET), new TranslatedPort('disk1', SECRET)]
  for (const port of ports) {
    port.setWindows([window])
    expect([resolve(port, RAM, 16, READ), port.window[1], resolve(port, RAM + 16, 16, READ)]).toEqual([16, 0, 16])
  }
})

describe('a port behind an IOMMU', () => {
  function translated() {
    const { region, window } = ram()
    const port = new TranslatedPort('disk0', SECRET)
    port.setWindows([window])
    port.setTranslating(true)
    return { region, port }
  }

  test('counts the messages that change what it reaches', () => {
    const { port } = translated()
    port.update(0x1000, 0x1000, USER, 3)
    port.update(0x1000, 0x1000, USER + 0x1000, 3)
    port.invalidate(0x1000, 0x1000)
    expect(port.messages).toBe(3)
    expect(resolve(port, 0x1000, 16, READ)).toBe(0)
  })

  test('finds the secret only where the device may read', () => {
    const { port, region } = translated()
    hide(region, 0x100)
    hide(region, 0x1100)
    port.update(0x10_0000, 0x1000, USER, 1)
    port.update(0x10_0000, 0x1000, USER, 1)
    port.update(0x20_0000, 0x1000, USER + 0x1000, 2)
    expect(port.secretInReach()).toBe(SECRET.length)
    resolve(port, 0x20_0100, 0x100, WRITE)
    expect([port.granted, port.outside, port.handedOver]).toEqual([1, 0, SECRET.length])
    port.invalidate(0x10_0000, 0x1000)
    expect(port.secretInReach()).toBe(0)
  })
})
