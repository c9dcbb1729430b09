import { BlkDevice, MemoryBlockStore, PciFunction } from '@guestdma/devices'
import { ACCESS_WRITE } from '@guestdma/memory'
import { beforeEach, describe, expect, test } from 'vitest'
import { DeviceMemory } from '../src/device-memory.ts'

const BYTES = 64 << 10
const BASE = 0xe010_0000
const COMMAND = 0x04
const BAR2 = 0x18
const MEMORY = 2

describe('the port of a device that reaches only its own memory', () => {
  let memory: DeviceMemory
  let pci: PciFunction
  const reached = (address: number): number => {
    memory.port.request[0] = address
    return memory.port.resolve(4, ACCESS_WRITE)
  }

  beforeEach(() => {
    memory = new DeviceMemory('disk', BYTES)
    const store = new MemoryBlockStore(new Uint8Array(512))
    pci = new PciFunction(new BlkDevice({ name: 'disk', port: memory.port, store }), {
      swiotlb: { window: memory.window },
      onWindows: () => memory.follow(pci),
    })
    pci.config.write(BAR2, 4, BASE)
    pci.config.write(COMMAND, 2, MEMORY)
  })

  test('begins and ends with the BAR', () => {
    expect([BASE - 4, BASE, BASE + BYTES - 4, BASE + BYTES].map(reached)).toEqual([0, 4, 4, 0])
    expect(memory.lookup(BASE + 16, 8)).toMatchObject({ offset: 16, length: 8 })
    expect([memory.lookup(BASE - 1, 2), memory.lookup(BASE + BYTES - 1, 2)]).toEqual([null, null])
  })

  test('follows where the guest moves it, and reaches nothing where it is not decoded', () => {
    pci.config.write(BAR2, 4, BASE + 0x10_0000)
    expect([reached(BASE), reached(BASE + 0x10_0000)]).toEqual([0, 4])
    pci.config.write(COMMAND, 2, 0)
    expect([reached(BASE + 0x10_0000), memory.spans]).toEqual([0, []])
    pci.config.write(COMMAND, 2, MEMORY)
    pci.reset()
    expect([reached(BASE + 0x10_0000), memory.lookup(0, 1)]).toEqual([0, null])
  })

  test('shows the device what the guest stored, and only the guest’s accesses are counted', () => {
    pci.bar(2)?.write(8, 4, 0x1234_5678)
    expect(reached(BASE + 8)).toBe(4)
    const { region, offset } = memory.port
    expect(region.view.getUint32(offset, true)).toBe(0x1234_5678)
    region.view.setUint32(offset, 1, true)
    expect(region.meter).toBeNull()
    expect(pci.bar(2)?.read(8, 4)).toBe(1)
    expect(memory.meter.snapshot()).toMatchObject({ bytesLoaded: 4, bytesStored: 4 })
  })
})
