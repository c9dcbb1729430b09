import { VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { BlkDevice, BusWindows, MemoryBlockStore, MmioRegisters } from '../src/index.ts'
import { header, status } from './support/devices.ts'
import { Driver, Ram, Ring } from './support/guest.ts'
import { access, BOTH, F_MAP_UNMAP, IommuMachine, OK, pages, RANGE, READ, WRITE } from './support/iommu.ts'

const RAM = 0x8000_0000
const R = 1
const W = 2
// struct virtio_iommu_fault: §5.13.6.9
const UNKNOWN = 0
const DOMAIN = 1
const MAPPING = 2
const F_READ = 0x101
const F_WRITE = 0x102

function attached(options: ConstructorParameters<typeof IommuMachine>[0] = {}, endpoint = {}) {
  const m = new IommuMachine(options).start()
  const port = m.endpoint(8, endpoint)
  expect(m.attach(1, 8)).toBe(OK)
  return { m, port, at: (address: number, length: number, kind: 1 | 2) => access(port, m.ram, address, length, kind) }
}

describe('translation (virtio 1.4 §5.13.6.5)', () => {
  test('PA = VA - virt_start + phys_start, up to the end of the mapping; the rest is asked for again', () => {
    const { m, at } = attached()
    expect(m.map(1, 0x1000, 0x2fff, RAM + 0x5000)).toBe(OK)
    expect(m.map(1, 0x3000, 0x3fff, RAM)).toBe(OK)
    expect(at(0x1000, 16, R)).toEqual([16, RAM + 0x5000])
    expect(at(0x2ff0, 64, W)).toEqual([16, RAM + 0x6ff0])
    expect(at(0x3000, 48, W)).toEqual([48, RAM])
    expect(at(0x3fff, 4, R)).toEqual([1, RAM + 0xfff])
    expect(at(0x4000, 1, R)).toBe(null)
    expect(at(0xfff, 1, R)).toBe(null)
  })

  test.each([1, 64, 4096, 65536])('granule %i: neighbours stay apart, to the byte', (granule) => {
    const { m, at } = attached({ granule })
    const length = granule === 1 ? 3 : granule
    // In reverse order of what they are mapped to.
    for (let i = 0; i < 8; i++) {
      expect(m.map(1, i * length, (i + 1) * length - 1, RAM + (8 - i) * length - (((8 - i) * length) % granule))).toBe(
        OK,
      )
    }
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 8; i++) {
        expect(at(i * length, 1e6, R)).toEqual([length, RAM + (8 - i) * length])
        expect(at((i + 1) * length - 1, 1e6, R)).toEqual([1, RAM + (9 - i) * length - 1])
      }
    }
    expect(at(8 * length, 1, R)).toBe(null)
  })

  test('permissions: write-only mappings cannot be read, read-only ones not written, and none is none', {
    tags: ['5.13.6.5.2/write'],
  }, () => {
    const { m, at, port } = attached()
    expect(m.map(1, 0x1000, 0x1fff, RAM, READ)).toBe(OK)
    expect(m.map(1, 0x2000, 0x2fff, RAM, WRITE)).toBe(OK)
    expect(m.map(1, 0x3000, 0x3fff, RAM, 0)).toBe(OK)
    for (let round = 0; round < 2; round++) {
      expect([at(0x1000, 4, R), at(0x1000, 4, W)]).toEqual([[4, RAM], null])
      expect([at(0x2000, 4, R), at(0x2000, 4, W)]).toEqual([null, [4, RAM]])
      expect([at(0x3000, 4, R), at(0x3000, 4, W)]).toEqual([null, null])
    }
    expect(port.faults.last()[0]).toEqual({ port: 'ep8', address: 0x1000, length: 4, access: 2, reason: 'permission' })
  })

  test('a MAP after a refusal counts at once, and needs no new epoch', () => {
    const { m, at, port } = attached()
    expect(at(0x1000, 4, R)).toBe(null)
    const { epoch } = port
    expect(m.map(1, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(at(0x1000, 4, R)).toEqual([4, RAM])
    expect(port.epoch).toBe(epoch)
  })

  test('addresses near 2^53 are exact', () => {
    const { m, at, port } = attached({ granule: 1, inputRange: { start: 0, end: 2 ** 53 - 1 } })
    expect(m.map(1, 2 ** 53 - 5, 2 ** 53 - 1, RAM + 1)).toBe(OK)
    expect(at(2 ** 53 - 3, 9, R)).toEqual([3, RAM + 3])
    expect([...port.window.slice(0, 2)]).toEqual([2 ** 53 - 5, 5])
    expect(at(2 ** 53 - 6, 9, R)).toBe(null)
  })

  test('the window is the mapping, and requests inside may be answered from it', () => {
    const { m, at, port } = attached()
    expect(m.map(1, 0x4000, 0x7fff, RAM + 0x1000, READ)).toBe(OK)
    expect([...port.window]).toEqual([0, 0, 0, 0])
    at(0x5000, 4, R)
    expect([...port.window]).toEqual([0x4000, 0x4000, m.ram.at(RAM + 0x1000), 1])
    expect(port.region).toBe(m.ram.memory.regions[0])
  })
})

describe('unattached endpoints and bypass (§5.13.6)', () => {
  test('bypass off: blocked before, while and after a driver runs, with reason DOMAIN', {
    tags: ['5.13.6.2/unattached'],
  }, () => {
    const m = new IommuMachine({ bypass: 'off' })
    const port = m.endpoint(8)
    expect(access(port, m.ram, RAM, 4, R)).toBe(null)
    m.start()
    m.buffer(24, 24)
    expect(access(port, m.ram, RAM, 4, R)).toBe(null)
    expect(m.faults()).toMatchObject([{ reason: DOMAIN, endpoint: 8, flags: F_READ }])
    expect(port.faults.count).toBe(2)
    // There was no driver to tell about the first.
    expect(m.device.counters).toMatchObject({ faultsReported: 1, faultsDropped: 1 })
  })

  test('boot bypass: an endpoint reaches everything until the driver turns it off', () => {
    const m = new IommuMachine({ bypass: 'on' })
    const port = m.endpoint(8)
    expect(access(port, m.ram, RAM + 16, 64, W)).toEqual([64, RAM + 16])
    // Not accepting the feature changes nothing.
    m.start([F_MAP_UNMAP])
    expect(access(port, m.ram, RAM + 16, 64, W)).toEqual([64, RAM + 16])
    m.start()
    expect(access(port, m.ram, RAM + 16, 64, W)).toEqual([64, RAM + 16])
    const { epoch } = port
    m.registers.write(0x124, 1, 0)
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect(access(port, m.ram, RAM + 16, 64, W)).toBe(null)
    m.device.reset()
    expect(access(port, m.ram, RAM + 16, 64, W)).toBe(null)
    m.device.systemReset()
    expect(access(port, m.ram, RAM + 16, 64, W)).toEqual([64, RAM + 16])
  })

  test('attached: bypass of the configuration does not matter; detached, it does', {
    tags: ['5.13.6.4.2/revoked'],
  }, () => {
    const { m, at } = attached({ bypass: 'on' })
    expect(at(RAM, 4, R)).toBe(null)
    m.registers.write(0x124, 1, 0)
    m.registers.write(0x124, 1, 1)
    expect(at(RAM, 4, R)).toBe(null)
    expect(m.detach(1, 8)).toBe(OK)
    expect(at(RAM, 4, R)).toEqual([4, RAM])
  })

  test('a bypass domain: everything, whatever the configuration says', () => {
    const { m, at } = attached()
    expect(m.attach(5, 8, 1)).toBe(OK)
    expect(at(RAM + 1, 4, W)).toEqual([4, RAM + 1])
    expect(m.detach(5, 8)).toBe(OK)
    expect(at(RAM + 1, 4, W)).toBe(null)
  })

  test('what downstream refuses in bypass mode is no fault of translation', () => {
    const m = new IommuMachine({ bypass: 'on' }).start()
    const port = m.endpoint(8)
    m.buffer(24)
    expect(access(port, m.ram, 0x1000, 4, R)).toBe(null)
    port.outOfReach(2 ** 21, 0, 4, R)
    expect([m.faults(), port.faults.count]).toEqual([[], 2])
    expect((port.downstream as BusWindows).faults.last()).toMatchObject([{ reason: 'unmapped' }, { reason: 'range' }])
  })

  test('reserved regions are reached in no mode (§5.13.6.8.1.2)', { tags: ['5.13.6.8.1.2/no-effect'] }, () => {
    const { m, at, port } = attached(
      { bypass: 'on' },
      {
        reserved: [
          { start: RAM + 0x1000, end: RAM + 0x1fff, kind: 'reserved' },
          { start: RAM + 0x3000, end: RAM + 0x3fff, kind: 'msi' },
        ],
      },
    )
    m.buffer(24)
    expect(at(RAM + 0x1000, 4, R)).toBe(null)
    expect(m.faults()).toMatchObject([{ reason: MAPPING }])
    expect(m.detach(1, 8)).toBe(OK)
    expect(at(RAM + 0x1000, 4, R)).toBe(null)
    expect(at(RAM + 0x3fff, 4, W)).toBe(null)
    expect(at(RAM + 0xff0, 64, W)).toEqual([16, RAM + 0xff0])
    expect(at(RAM + 0x2000, 1e5, W)).toEqual([0x1000, RAM + 0x2000])
    expect([...port.window.slice(0, 2)]).toEqual([RAM + 0x2000, 0x1000])
    expect(at(RAM + 0x4000, 8, W)).toEqual([8, RAM + 0x4000])
  })
})

describe('revocation', () => {
  test('UNMAP: epoch, window and every recent translation, near and far', () => {
    const { m, at, port } = attached()
    for (let i = 0; i < 100; i++) expect(m.map(1, i * 0x1000, i * 0x1000 + 0xfff, RAM)).toBe(OK)
    for (let round = 0; round < 3; round++) for (let i = 0; i < 60; i++) expect(at(i * 0x1000, 4, R)).not.toBe(null)
    expect(m.device.counters.tlbMisses).toBe(60)
    expect(m.device.counters.tlbHits).toBe(120)
    at(0x5000, 4, R)
    const { epoch } = port
    expect(m.unmap(1, 0x5000, 0x5fff)).toBe(OK)
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect(at(0x5000, 4, R)).toBe(null)
    expect(at(0x5fff, 4, R)).toBe(null)
    // The neighbours' translations are still good.
    const misses = m.device.counters.tlbMisses
    expect(at(0x4000, 4, R)).not.toBe(null)
    expect(at(0x6000, 4, R)).not.toBe(null)
    expect(m.device.counters.tlbMisses).toBe(misses)
    expect(m.unmap(1, 0, 0xffff_ffff)).toBe(OK)
    for (let i = 0; i < 100; i++) expect(at(i * 0x1000, 4, R)).toBe(null)
  })

  test('one large mapping, seen at many addresses', () => {
    const { m, at } = attached()
    expect(m.map(1, 0, 0xf_ffff, RAM)).toBe(OK)
    for (let i = 0; i < 256; i++) expect(at(i * 0x1000, 4, R)).toEqual([4, RAM + i * 0x1000])
    expect(m.unmap(1, 0, 0xf_ffff)).toBe(OK)
    for (let i = 0; i < 256; i++) expect(at(i * 0x1000, 4, R)).toBe(null)
  })

  test('mappings of a few bytes share a place in the cache, and are told apart', () => {
    const { m, at } = attached({ granule: 1 })
    for (let i = 0; i < 50; i++) expect(m.map(1, i * 4, i * 4 + 3, RAM + i * 64)).toBe(OK)
    for (let i = 0; i < 50; i++) expect(at(i * 4 + 1, 9, R)).toEqual([3, RAM + i * 64 + 1])
    expect(at(40, 4, R)).toEqual([4, RAM + 640])
    expect(m.unmap(1, 40, 43)).toBe(OK)
    expect([at(40, 4, R), at(36, 4, R)]).toEqual([null, [4, RAM + 9 * 64]])
    // Another place for the same addresses.
    expect(m.map(1, 40, 43, RAM + 0x8000)).toBe(OK)
    expect(at(40, 4, R)).toEqual([4, RAM + 0x8000])
  })

  test.each([
    ['DETACH', (m: IommuMachine) => m.detach(1, 8)],
    ['ATTACH to another domain', (m: IommuMachine) => m.attach(2, 8)],
    ['ATTACH to a bypass domain', (m: IommuMachine) => m.attach(3, 8, 1)],
    ['a device reset', (m: IommuMachine) => m.device.reset()],
    ['a system reset', (m: IommuMachine) => m.device.systemReset()],
  ])('%s: nothing of before is granted', (_, change) => {
    const { m, at, port } = attached()
    const other = m.endpoint(9)
    expect(m.attach(1, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(at(0x1000, 4, R)).toEqual([4, RAM])
    expect(access(other, m.ram, 0x1000, 4, R)).toEqual([4, RAM])
    const { epoch } = port
    change(m)
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect(at(0x1000, 4, R)).toBe(null)
  })

  test('a request that changes nothing revokes nothing', () => {
    const { m, at, port } = attached()
    expect(m.map(1, 0x1000, 0x2fff, RAM)).toBe(OK)
    at(0x1000, 4, R)
    const { epoch } = port
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(RANGE)
    expect(m.unmap(1, 0x4000, 0x1_ffff)).toBe(OK)
    expect(m.attach(1, 8)).toBe(OK)
    m.map(1, 0x1000, 0x1fff, RAM)
    m.detach(2, 8)
    expect([port.epoch === epoch, port.window[1]]).toEqual([true, 0x2000])
  })

  test('a change downstream: the epoch says so, and no old answer is given, even without asking for it', () => {
    const ram = new Ram()
    const stage = pages(ram, [RAM, 0x1000])
    const { m, at, port } = attached({}, { downstream: stage })
    expect(m.map(1, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(access(port, ram, 0x1000, 4, R)).toEqual([4, RAM])
    const { epoch } = port
    stage.setWindows([])
    expect(at(0x1000, 4, R)).toBe(null)
    expect(port.epoch).not.toBe(epoch)
  })

  test('growth of a WebAssembly memory: refresh changes the epoch', () => {
    const memory = new WebAssembly.Memory({ initial: 1 })
    const ram = new Ram()
    const region = new (
      ram.memory.regions[0].constructor as new (
        source: WebAssembly.Memory,
        name: string,
      ) => (typeof ram.memory.regions)[0]
    )(memory, 'wasm')
    const { m, port } = attached({}, { downstream: new BusWindows('wasm', [{ base: 0, length: 65536, region }]) })
    expect(m.map(1, 0x1000, 0x1fff, 0)).toBe(OK)
    port.request[0] = 0x1000
    expect(port.resolve(4, R)).toBe(4)
    const { epoch } = port
    port.refresh()
    expect(port.epoch).toBe(epoch)
    memory.grow(1)
    port.refresh()
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect(port.resolve(4, R)).toBe(4)
    expect(port.region.u8.length).toBe(131072)
  })
})

describe('two stages: what both allow', () => {
  test('downstream has two pages: the intersection decides, and its window', () => {
    const m = new IommuMachine().start()
    const stage = pages(m.ram, [RAM + 0x1000, 0x1000], [RAM + 0x3000, 0x1000, 1])
    const port = m.endpoint(8, { downstream: stage })
    const at = (address: number, length: number, kind: 1 | 2) => access(port, m.ram, address, length, kind)
    expect(m.attach(1, 8)).toBe(OK)
    expect(m.map(1, 0x1_0000, 0x1_4fff, RAM)).toBe(OK)
    m.buffer(24, 24, 24)
    expect(at(0x1_0000, 4, R)).toBe(null)
    expect(at(0x1_1ff0, 64, R)).toEqual([16, RAM + 0x1ff0])
    expect([...port.window]).toEqual([0x1_1000, 0x1000, m.ram.at(RAM + 0x1000), 3])
    expect(at(0x1_2000, 4, R)).toBe(null)
    expect(at(0x1_3004, 4, R)).toEqual([4, RAM + 0x3004])
    expect([...port.window]).toEqual([0x1_3000, 0x1000, m.ram.at(RAM + 0x3000), 1])
    expect(at(0x1_3004, 4, W)).toBe(null)
    // Reason UNKNOWN, with the address of the endpoint; downstream's own log has the guest's.
    expect(m.faults()).toMatchObject([
      { reason: UNKNOWN, flags: F_READ, address: 0x1_0000n },
      { reason: UNKNOWN, flags: F_READ, address: 0x1_2000n },
      { reason: UNKNOWN, flags: F_WRITE, address: 0x1_3004n },
    ])
    expect(stage.faults.last().map(({ address }) => address)).toEqual([RAM, RAM + 0x2000, RAM + 0x3004])
    expect(port.faults.last().map(({ address }) => address)).toEqual([0x1_0000, 0x1_2000, 0x1_3004])
  })

  test('a mapping smaller than the downstream window, in its middle', () => {
    const { m, at, port } = attached()
    expect(m.map(1, 0x1000, 0x1fff, RAM + 0x4000)).toBe(OK)
    at(0x1800, 4, R)
    expect([...port.window]).toEqual([0x1000, 0x1000, m.ram.at(RAM + 0x4000), 3])
  })

  test('a downstream that does not tell its window: what was granted', () => {
    const ram = new Ram()
    const stage = pages(ram, [RAM, 0x1000])
    const silent = Object.create(stage, { window: { value: new Float64Array(4) } }) as BusWindows
    Object.defineProperty(silent, 'resolve', {
      value: (length: number, kind: 1 | 2) => {
        const granted = stage.resolve(length, kind)
        return granted
      },
    })
    Object.defineProperty(silent, 'region', { get: () => stage.region })
    const { m, port } = attached({}, { downstream: silent })
    expect(m.map(1, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(access(port, ram, 0x1800, 4, R)).toEqual([4, RAM + 0x800])
    expect([...port.window.slice(0, 2)]).toEqual([0x1800, 4])
    expect(port.window[3]).toBe(1)
    expect(access(port, ram, 0x1802, 4, R)).toEqual([2, RAM + 0x802])
    expect(access(port, ram, 0x1800, 4, W)).toEqual([4, RAM + 0x800])
  })

  test('an IOMMU behind an IOMMU', () => {
    const { m, port: inner } = attached()
    const outerMachine = new IommuMachine({}, 16, m.ram).start()
    const outer = outerMachine.endpoint(3, { downstream: inner })
    expect(outerMachine.attach(1, 3)).toBe(OK)
    expect(outerMachine.map(1, 0x10_0000, 0x10_1fff, 0x7000)).toBe(OK)
    expect(m.map(1, 0x8000, 0x8fff, RAM + 0x1000)).toBe(OK)
    expect(access(outer, m.ram, 0x10_0000, 4, R)).toBe(null)
    expect(access(outer, m.ram, 0x10_1010, 4, R)).toEqual([4, RAM + 0x1010])
    const { epoch } = outer
    expect(m.unmap(1, 0x8000, 0x8fff)).toBe(OK)
    expect(outer.epoch).not.toBe(epoch)
    expect(access(outer, m.ram, 0x10_1010, 4, R)).toBe(null)
  })
})

describe('messages (§5.13.6.8.1)', () => {
  function doorbell(reserved: readonly { start: number; end: number; kind: 'reserved' | 'msi' }[], options = {}) {
    const sent: [number, number][] = []
    const ram = new Ram()
    const stage = pages(ram, [RAM, 0x1000])
    const downstream = Object.assign(stage, {
      message(data: number): boolean {
        if (stage.request[0] < 0xfee0_0000) return false
        sent.push([stage.request[0], data])
        return true
      },
    })
    const made = attached(options, { downstream, reserved })
    const send = (address: number, data: number): boolean => {
      made.port.request[0] = address
      return made.port.message(data)
    }
    return { ...made, sent, send }
  }

  test('to a doorbell region: as they are, attached or not', () => {
    const { m, port, send, sent } = doorbell([{ start: 0xfee0_0000, end: 0xfeef_ffff, kind: 'msi' }])
    expect(send(0xfee0_1004, 7)).toBe(true)
    expect(m.detach(1, 8)).toBe(OK)
    expect(send(0xfeef_fffc, 8)).toBe(true)
    expect([send(0xfeef_fffd, 9), send(0xfef0_0000, 9)]).toEqual([false, false])
    expect(sent).toEqual([
      [0xfee0_1004, 7],
      [0xfeef_fffc, 8],
    ])
    expect(port.faults.count).toBe(0)
  })

  test('elsewhere: translated as a write, and then downstream decides', () => {
    const { m, send, sent } = doorbell([{ start: 0x5000, end: 0x5fff, kind: 'reserved' }])
    expect(m.map(1, 0x1000, 0x1fff, 0xfee0_0000, WRITE)).toBe(OK)
    expect(m.map(1, 0x2000, 0x2fff, 0xfee0_0000, READ)).toBe(OK)
    expect(m.map(1, 0x3000, 0x3fff, RAM, BOTH)).toBe(OK)
    expect(send(0x1010, 5)).toBe(true)
    expect(sent).toEqual([[0xfee0_0010, 5]])
    expect([0x2000, 0x3000, 0x4000, 0x1ffe, 0x5000, 0xfee0_0000].map((at) => send(at, 1))).toEqual(
      new Array(6).fill(false),
    )
    expect(m.detach(1, 8)).toBe(OK)
    expect(send(0x1010, 5)).toBe(false)
  })

  test('in bypass mode: as they are; without a platform that has doorbells: never', () => {
    const { m, send, sent } = doorbell([], { bypass: 'on' })
    expect(m.detach(1, 8)).toBe(OK)
    expect([send(0xfee0_0000, 1), send(RAM, 2)]).toEqual([true, false])
    expect(sent).toEqual([[0xfee0_0000, 1]])
    const { port } = attached()
    expect(port.message(1)).toBe(false)
  })
})

describe('fault reporting (§5.13.6.9)', () => {
  test('all fields of struct virtio_iommu_fault, addresses of 64 bits among them', {
    tags: ['5.13.6.9.2/reserved', '5.13.6.9.2/flags', '5.13.6.9.2/endpoint'],
  }, () => {
    const { m, at, port } = attached({ inputRange: { start: 0, end: 2 ** 53 - 1 } })
    const loner = m.endpoint(0xffff_fffe)
    expect(m.map(1, 0x1000, 0x1fff, RAM, READ)).toBe(OK)
    m.buffer(24, 24, 64, 24, 24)
    at(0x12_3456_789a, 4, R)
    at(0x1004, 4, W)
    at(2 ** 53 - 1, 4, W)
    port.outOfReach(0xffff_ffff, 0xffff_fff0, 16, W)
    access(loner, m.ram, 0x10, 4, R)
    expect(m.faults()).toEqual([
      { reason: MAPPING, flags: F_READ, endpoint: 8, address: 0x12_3456_789an, used: 24 },
      { reason: MAPPING, flags: F_WRITE, endpoint: 8, address: 0x1004n, used: 24 },
      { reason: MAPPING, flags: F_WRITE, endpoint: 8, address: 2n ** 53n - 1n, used: 24 },
      { reason: MAPPING, flags: F_WRITE, endpoint: 8, address: 0xffff_ffff_ffff_fff0n, used: 24 },
      { reason: DOMAIN, flags: F_READ, endpoint: 0xffff_fffe, address: 0x10n, used: 24 },
    ])
    expect(port.faults.last().at(-1)).toEqual({
      port: 'ep8',
      address: { high: 0xffff_ffff, low: 0xffff_fff0 },
      length: 16,
      access: 2,
      reason: 'range',
    })
    expect(m.device.counters.faultsReported).toBe(5)
    expect(m.line.asserted).toBe(true)
  })

  test('without a buffer they wait, in order; beyond 256 they are dropped and counted', () => {
    const { m, at } = attached()
    for (let i = 0; i < 300; i++) at(i, 1, R)
    expect(m.faults()).toEqual([])
    expect(m.device.counters.faultsDropped).toBe(44)
    for (let i = 0; i < 256; i += 16) {
      m.buffer(...new Array<number>(16).fill(24))
      expect(m.faults().map(({ address }) => address)).toEqual(Array.from({ length: 16 }, (_, k) => BigInt(i + k)))
    }
    m.buffer(24)
    at(999, 1, R)
    expect(m.faults()).toMatchObject([{ address: 999n }])
  })

  test('a buffer that is too small is used with length 0, and the record does not span buffers', {
    tags: ['5.13.6.9.2/one-buffer'],
  }, () => {
    const { m, at } = attached()
    m.buffer(23, 8, 16, 24)
    at(0x42, 1, R)
    expect(m.faults().map(({ used }) => used)).toEqual([0, 0, 0, 24])
    expect(m.device.counters.shortEventBuffers).toBe(3)
    // Nothing was written there.
    const { writes } = m.ram
    expect(writes.filter(([, length]) => length === 23 || length === 16)).toEqual([])
  })

  test('buffers of several descriptors, as any framing (§2.7.4)', () => {
    const { m, at } = attached()
    const a = m.ram.alloc(7)
    const b = m.ram.alloc(40)
    m.events.offer(m.events.chain({ address: a, length: 7, w: true }, { address: b, length: 40, w: true }))
    at(0x1234, 1, W)
    m.device.poll(64)
    expect(m.events.reap()).toMatchObject([{ length: 24 }])
    const bytes = Uint8Array.of(...m.ram.get(a, 7), ...m.ram.get(b, 17))
    expect([...bytes]).toEqual([2, 0, 0, 0, 2, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0])
  })

  test('with EVENT_IDX the device asks for a notification while faults wait', () => {
    const { m, at } = attached()
    m.start([F_MAP_UNMAP, VIRTIO_F_EVENT_IDX])
    expect(m.attach(1, 8)).toBe(OK)
    m.buffer(24)
    at(1, 1, R)
    at(2, 1, R)
    m.device.poll(64)
    expect(m.events.availEvent).toBe(1)
  })

  test('an access never works the queues: that is for the next poll, which onWork asks for', () => {
    const calls: number[] = []
    const machine: { m?: IommuMachine } = {}
    const onWork = (): void => {
      calls.push(machine.m?.device.poll(64) ?? -1)
    }
    const { m, at } = attached({ onWork })
    machine.m = m
    m.buffer(24)
    // Nothing waits any more that was announced before.
    m.device.poll(64)
    calls.length = 0
    at(1, 1, R)
    expect([calls, m.events.usedIndex]).toEqual([[0], 0])
    expect(m.faults()).toHaveLength(1)
  })

  test('a reset forgets what waits', () => {
    const { m, at } = attached()
    at(1, 1, R)
    m.start()
    m.buffer(24)
    expect(m.faults()).toEqual([])
  })

  test('a budget of 0 takes no buffer', () => {
    const { m, at } = attached()
    m.buffer(24)
    at(1, 1, R)
    expect(m.device.poll(0)).toBe(0)
    expect(m.device.poll(1)).toBe(1)
  })
})

describe('a device behind an IOMMU', () => {
  test('rings and buffers at device addresses; an UNMAP between polls stops it', () => {
    const { m, port } = attached({}, {})
    const { ram } = m
    const disk = new Uint8Array(8 * 512).map((_, i) => i >>> 9)
    const device = new BlkDevice({ name: 'blk0', port, store: new MemoryBlockStore(disk) })
    const driver = new Driver(new MmioRegisters(device))
    // IOVA = guest address - RAM + 0x40_0000, in two mappings that meet inside the buffers.
    const shift = 0x40_0000 - RAM
    const ring = new Ring(ram, 8)
    const iova = { desc: ring.desc + shift, avail: ring.avail + shift, used: ring.used + shift }
    const middle = Math.ceil((ring.used + 200) / 4096) * 4096
    expect(m.map(1, 0x40_0000, middle + shift - 1, RAM)).toBe(OK)
    expect(m.map(1, middle + shift, middle + shift + 0xfff, middle)).toBe(OK)
    driver.negotiate(32)
    driver.queue(0, Object.assign(Object.create(ring) as Ring, iova))
    driver.driverOk()
    const head = header(ram, 0, 3)
    const data = middle - 100
    const cell = status(ram)
    const moved = <T extends { address: number }>(element: T): T => ({ ...element, address: element.address + shift })
    const offer = (): void => {
      ring.offer(ring.chain(moved(head), { address: data + shift, length: 512, w: true }, moved(cell)))
      driver.kick(0)
      device.poll(8)
    }
    ram.bytes.fill(0xff, ram.at(data), ram.at(data) + 512)
    offer()
    expect(ring.reap()).toEqual([{ id: 0, length: 513 }])
    expect(ram.get(data, 512).every((byte) => byte === 3)).toBe(true)
    expect(m.unmap(1, middle + shift, middle + shift + 0xfff)).toBe(OK)
    ram.bytes.fill(0xff, ram.at(data), ram.at(data) + 512)
    offer()
    expect(ring.reap()).toEqual([])
    expect(device.faults.last()).toMatchObject([{ kind: 'queue', reason: 'buffer-unreachable' }])
    expect(ram.get(data, 512).every((byte) => byte === 0xff)).toBe(true)
    m.buffer(24)
    expect(m.faults()).toMatchObject([{ reason: MAPPING, address: BigInt(middle + shift), flags: F_WRITE }])
  })
})
