import { VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_RESET } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { type DeviceError, everything, IommuDevice } from '../src/index.ts'
import { Ram } from './support/guest.ts'
import {
  ATTACH,
  access,
  BOTH,
  F_BYPASS,
  F_BYPASS_CONFIG,
  F_DOMAIN_RANGE,
  F_INPUT_RANGE,
  F_MAP_UNMAP,
  F_MMIO,
  F_PROBE,
  halves,
  INVAL,
  IommuMachine,
  MAP,
  NOENT,
  NOMEM,
  NOT_WRITTEN,
  OK,
  pack,
  RANGE,
  READ,
  UNMAP,
  UNSUPP,
  WRITE,
} from './support/iommu.ts'

const TOP = 2n ** 64n - 1n

/** A machine with endpoint 8 in domain 1. */
function attached(options: ConstructorParameters<typeof IommuMachine>[0] = {}): IommuMachine {
  const m = new IommuMachine(options).start()
  m.endpoint(8)
  expect(m.attach(1, 8)).toBe(OK)
  return m
}

describe('features and configuration (virtio 1.4 §5.13.3, §5.13.4)', () => {
  test('what is offered follows from the options, and BYPASS (3) never', {
    tags: ['5.13.3.2/map-unmap', '5.13.3.2/no-bypass', '5.13.3.2/one-bypass'],
  }, () => {
    const bits = (options: ConstructorParameters<typeof IommuMachine>[0]): number[] =>
      new IommuMachine(options).device.offered.bits().filter((bit) => bit < 24)
    expect(bits({})).toEqual([F_INPUT_RANGE, F_MAP_UNMAP, F_PROBE, F_BYPASS_CONFIG])
    expect(bits({ probe: false, bypass: 'absent' })).toEqual([F_INPUT_RANGE, F_MAP_UNMAP])
    expect(bits({ mmio: true, domainRange: { start: 1, end: 9 } })).toEqual([
      F_INPUT_RANGE,
      F_DOMAIN_RANGE,
      F_MAP_UNMAP,
      F_PROBE,
      F_MMIO,
      F_BYPASS_CONFIG,
    ])
  })

  test('the fields, 64-bit ones as two of 32 bits', { tags: ['5.13.4.2/page-size-mask'] }, () => {
    const m = new IommuMachine({
      granule: 65536,
      inputRange: { start: 0x1_0000, end: 2 ** 53 - 1 },
      domainRange: { start: 3, end: 0xffff_fffe },
      probeSize: 64,
      bypass: 'on',
    })
    expect([0, 4, 8, 12, 16, 20, 24, 28, 32].map((at) => m.driver.r(0x100 + at))).toEqual([
      0x7fff_0000, 0, 0x1_0000, 0, 0xffff_ffff, 0x1f_ffff, 3, 0xffff_fffe, 64,
    ])
    expect(m.registers.read(0x124, 1)).toBe(1)
    expect(m.device.faults.count).toBe(0)
  })

  test('DEVICE_OPTION for what cannot be', { tags: ['5.13.6.8.1.2/one-msi', '5.13.6.8.1.2/disjoint'] }, () => {
    const code = (make: () => unknown): string => {
      try {
        make()
      } catch (error) {
        return (error as DeviceError).code
      }
      return 'none'
    }
    for (const options of [
      { granule: 3 },
      { granule: 131072 },
      { granule: 0 },
      { inputRange: { start: 5, end: 4 } },
      { inputRange: { start: 0, end: 2 ** 53 } },
      { domainRange: { start: 0, end: 2 ** 32 } },
      { maxDomains: 0 },
      { maxMappings: 0.5 },
      { probeSize: 0 },
    ]) {
      expect(code(() => new IommuMachine(options))).toBe('DEVICE_OPTION')
    }
    const m = new IommuMachine({ probeSize: 47 })
    m.endpoint(1)
    const region = (start: number, end: number, kind: 'reserved' | 'msi' = 'reserved') => ({ start, end, kind })
    for (const [id, reserved] of [
      [1, []],
      [-1, []],
      [2 ** 32, []],
      [2, [region(0, 9), region(9, 12)]],
      [2, [region(4, 3)]],
      [2, [region(0, 2 ** 53)]],
      [2, [region(0, 1, 'msi'), region(2, 3, 'msi')]],
      [2, [region(0, 1), region(2, 3)]],
    ] as const) {
      expect(code(() => m.endpoint(id, { reserved }))).toBe('DEVICE_OPTION')
    }
    expect(code(() => m.endpoint(2, { reserved: [region(0, 1)] }))).toBe('none')
    expect(code(() => m.endpoint(2 ** 32 - 1))).toBe('none')
    expect(code(() => new IommuDevice({ name: 'x', port: everything(new Ram().memory), queueSizes: [3, 4] }))).toBe(
      'DEVICE_QUEUE_SIZE',
    )
  })
})

describe('framing (§2.7.4, §5.13.6)', () => {
  const map = (page: number): Uint8Array =>
    pack(MAP, [1, ...halves(page * 4096), ...halves(page * 4096 + 4095), ...halves(0x8000_0000), BOTH])

  test('an unknown type is not written, and used with length 0 (§5.13.6.2)', {
    tags: ['5.13.6.2/unknown-type'],
  }, () => {
    const m = attached()
    for (const type of [0, 6, 7, 255]) expect(m.request(pack(type, [1, 8, 0, 0]))).toBe(NOT_WRITTEN)
    expect(m.device.counters.unanswered).toBe(4)
    expect(m.device.faults.count).toBe(0)
  })

  test('PROBE without the offer, MAP and UNMAP without negotiation: likewise (§5.13.6.7.2, §5.13.6.5)', {
    tags: ['5.13.6.7.2/not-offered'],
  }, () => {
    const m = new IommuMachine({ probe: false }).start([F_INPUT_RANGE])
    m.endpoint(8)
    expect(m.attach(1, 8)).toBe(OK)
    expect([m.probe(8), m.map(1, 0, 4095, 0), m.unmap(1, 0, 4095)]).toEqual([NOT_WRITTEN, NOT_WRITTEN, NOT_WRITTEN])
  })

  test('reserved bytes of the head are ignored (§5.13.6.2)', { tags: ['5.13.6.2/reserved'] }, () => {
    const m = attached()
    const bytes = map(1)
    bytes.set([0xff, 1, 2], 1)
    expect(m.request(bytes)).toBe(OK)
  })

  test('any split into descriptors, odd addresses, empty elements, chained and indirect', {
    tags: ['2.7.4.1/any-framing', '5.13.6.2/reserved'],
  }, () => {
    const m = attached().start([F_MAP_UNMAP, VIRTIO_F_INDIRECT_DESC])
    expect(m.attach(1, 8)).toBe(OK)
    const bytes = map(7)
    for (const sizes of [[36], [1, 35], [4, 4, 28], [0, 36, 0], [13, 0, 1, 22], new Array<number>(12).fill(3)]) {
      for (const tails of [[4], [1, 3], [0, 2, 2, 0]]) {
        for (const indirect of [false, true]) {
          let at = 0
          const elements = sizes.map((length) => {
            const address = m.ram.put(bytes.subarray(at, at + length), 16) + 0
            at += length
            return { address, length }
          })
          // Not aligned, as §2.7.4 allows.
          const tail = m.ram.put([9, 9, 9, 9, 9, 9, 9], 16) + 1
          let to = tail
          const cells = tails.map((length) => {
            to += length
            return { address: to - length, length, w: true as const }
          })
          if (indirect) {
            m.requests.offer(m.requests.indirect([], [...elements, ...cells]))
            m.driver.kick(0)
            m.device.poll(64)
            expect(m.requests.reap()).toMatchObject([{ length: 4 }])
          } else expect(m.raw(...elements, ...cells)).toBe(4)
          expect([...m.ram.get(tail - 1, 6)]).toEqual([9, OK, 0, 0, 0, 9])
          expect(m.unmap(1, 7 * 4096, 7 * 4096 + 4095)).toBe(OK)
        }
      }
    }
  })

  test('a longer request than necessary: what is beyond is ignored, the tail ends the writable part', {
    tags: ['2.7.8.2/length-written'],
  }, () => {
    const m = attached()
    expect(m.request(Uint8Array.of(...map(3), 1, 2, 3, 4, 5))).toBe(OK)
    expect(m.request(map(4), 13)).toBe(OK)
    expect([...m.written(9)]).toEqual(new Array(9).fill(0))
    expect(m.device.counters.mappings).toBe(2)
  })

  test('without room for the tail, or without a head: not executed, not written', () => {
    const m = attached()
    for (const writable of [0, 1, 3]) expect(m.request(map(3), writable)).toBe(NOT_WRITTEN)
    expect(m.request(map(3).subarray(0, 3))).toBe(NOT_WRITTEN)
    expect(m.device.counters).toMatchObject({ mappings: 0, unanswered: 4 })
    expect(m.device.faults.last()).toMatchObject([
      { reason: 'no-status', value: 0 },
      { reason: 'no-status', value: 1 },
      { reason: 'no-status', value: 3 },
      { reason: 'short-header', value: 3 },
    ])
    expect(m.device.live).toBe(true)
  })

  test('too short for its type, with a tail: INVAL', () => {
    const m = attached()
    const cut = (bytes: Uint8Array): number => m.request(bytes.subarray(0, bytes.length - 1))
    expect(cut(map(1))).toBe(INVAL)
    expect(cut(pack(UNMAP, [1, 0, 0, 0xffff_ffff, 0, 0]))).toBe(INVAL)
    expect(cut(pack(ATTACH, [2, 8, 0, 0]))).toBe(INVAL)
    expect(cut(pack(2, [1, 8, 0, 0]))).toBe(INVAL)
    expect(m.request(pack(5, [8]), 516)).toBe(INVAL)
    expect(m.device.faults.count).toBe(5)
    expect(m.device.counters.mappings).toBe(0)
  })

  test('far too much to zero: not executed', () => {
    const m = attached()
    const room = m.ram.alloc(70_000)
    const bytes = m.ram.put(map(3))
    expect(m.raw({ address: bytes, length: 36 }, { address: room, length: 70_000, w: true })).toBe(0)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'too-large', value: 70_000 }])
  })

  test('a poll takes all requests in order and publishes once; a budget leaves the rest for the next', () => {
    const m = attached()
    m.line.rises = 0
    m.registers.write(0x64, 4, 3)
    const tails: number[] = []
    for (let i = 0; i < 7; i++) {
      // Each unmaps what the one before mapped.
      const bytes = i % 2 === 0 ? map(1) : pack(UNMAP, [1, ...halves(4096), ...halves(8191), 0])
      const tail = m.ram.put([9, 9, 9, 9], 4)
      tails.push(tail)
      m.requests.offer(
        m.requests.chain({ address: m.ram.put(bytes), length: bytes.length }, { address: tail, length: 4, w: true }),
      )
    }
    m.driver.kick(0)
    expect(m.device.poll(3)).toBe(3)
    expect(m.line.rises).toBe(1)
    expect(m.device.poll(64)).toBe(4)
    expect(m.device.poll(64)).toBe(0)
    expect(tails.map((tail) => m.ram.u32(tail))).toEqual(new Array(7).fill(OK))
    expect(m.requests.reap().map(({ length }) => length)).toEqual(new Array(7).fill(4))
  })

  test('in order: one used element for a batch of answers, none is left out that was not written (§2.7.9)', () => {
    const m = attached({ offer: [VIRTIO_F_IN_ORDER], inOrderBatches: true }).start([F_MAP_UNMAP, VIRTIO_F_IN_ORDER])
    const heads = [pack(ATTACH, [1, 8, 0, 0]), map(1), pack(99, []), map(2), map(3)].map((bytes) =>
      m.requests.chain(
        { address: m.ram.put(bytes), length: bytes.length },
        { address: m.ram.alloc(4, 4), length: 4, w: true },
      ),
    )
    m.requests.offer(...heads)
    m.driver.kick(0)
    m.device.poll(64)
    expect(m.requests.usedIndex).toBe(5)
    // The one that was not written ends a batch, so that its length is seen; 3 and 4 are the next.
    expect([0, 3].map((slot) => m.requests.usedAt(slot))).toEqual([
      { id: heads[2], length: 0 },
      { id: heads[4], length: 4 },
    ])
  })

  test('an observer that resets the device in the middle of a batch: nothing is written afterwards', () => {
    const m = attached({ observer: () => m.device.reset() })
    for (let i = 0; i < 3; i++) {
      const cell = { address: m.ram.put([9, 9, 9, 9], 4), length: 4, w: true }
      m.requests.offer(m.requests.chain({ address: m.ram.put([0]), length: 1 }, cell))
    }
    m.driver.kick(0)
    m.device.poll(64)
    expect([m.device.status, m.requests.usedIndex, m.device.counters.unanswered]).toEqual([0, 1, 1])
  })
})

describe('ATTACH (§5.13.6.3)', () => {
  test('reserved not zero: INVAL', { tags: ['5.13.6.3.2/reserved'] }, () => {
    expect(attached().attach(1, 8, 0, 1)).toBe(INVAL)
    expect(attached().attach(1, 8, 0, 0xff00_0000)).toBe(INVAL)
  })

  test('an unknown flag: INVAL; BYPASS is one unless BYPASS_CONFIG was negotiated', {
    tags: ['5.13.6.3.2/flags'],
  }, () => {
    const m = attached()
    for (const flags of [2, 3, 0x8000_0000]) expect(m.attach(2, 8, flags)).toBe(INVAL)
    expect(m.attach(2, 8, 1)).toBe(OK)
    m.start([F_MAP_UNMAP])
    expect(m.attach(2, 8, 1)).toBe(INVAL)
    const absent = attached({ bypass: 'absent' })
    expect(absent.attach(2, 8, 1)).toBe(INVAL)
  })

  test('no such endpoint: NOENT', { tags: ['5.13.6.3.2/no-endpoint'] }, () => {
    expect(attached().attach(1, 9)).toBe(NOENT)
    expect(attached().attach(1, 0x8000_0008)).toBe(NOENT)
  })

  test('a domain outside of domain_range: RANGE (§5.13.6); elsewhere it does not exist', () => {
    const m = attached({ domainRange: { start: 1, end: 4 } })
    expect([0, 5, 0xffff_ffff].map((domain) => m.attach(domain, 8))).toEqual([RANGE, RANGE, RANGE])
    expect([1, 4].map((domain) => m.attach(domain, 8))).toEqual([OK, OK])
    expect([m.map(5, 0, 4095, 0), m.unmap(5, 0, 4095), m.detach(5, 8)]).toEqual([NOENT, NOENT, INVAL])
    expect(attached().attach(0xffff_ffff, 8)).toBe(OK)
  })

  test('a bypass flag that does not fit the domain: INVAL', { tags: ['5.13.6.3.2/bypass'] }, () => {
    const m = attached()
    m.endpoint(9)
    expect(m.attach(1, 9, 1)).toBe(INVAL)
    expect(m.attach(2, 9, 1)).toBe(OK)
    expect(m.attach(2, 8, 0)).toBe(INVAL)
    expect(m.attach(2, 8, 1)).toBe(OK)
    // Also for the domain that it is in.
    expect(m.attach(2, 8, 0)).toBe(INVAL)
  })

  test('several endpoints share a domain; each is in one domain at a time', {
    tags: ['5.13.6.3.2/compatible', '5.13.6.3.2/attached'],
  }, () => {
    const m = attached()
    const other = m.endpoint(9)
    expect(m.attach(1, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(OK)
    expect(access(other, m.ram, 0x1000, 16, 1)).toEqual([16, 0x8000_2000])
    expect(m.attach(2, 9)).toBe(OK)
    expect(access(other, m.ram, 0x1000, 16, 1)).toBe(null)
    expect(m.detach(1, 9)).toBe(INVAL)
  })

  test('attached elsewhere: as DETACH and then ATTACH, so the old domain may cease to exist', {
    tags: ['5.13.6.3.2/re-attach', '5.13.6.3.2/as-detach'],
  }, () => {
    const m = attached()
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(OK)
    expect(m.attach(2, 8)).toBe(OK)
    expect(m.map(1, 0x3000, 0x3fff, 0)).toBe(NOENT)
    expect(m.device.counters).toMatchObject({ domains: 1, mappings: 0 })
    expect(m.attach(1, 8)).toBe(OK)
    // A new domain under the old number.
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(OK)
  })

  test('again to the same domain: OK, and the mappings stay', () => {
    const m = attached()
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(OK)
    expect(m.attach(1, 8)).toBe(OK)
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(INVAL)
  })

  test('a reserved region over a mapping of the domain: UNSUPP, and the endpoint stays where it was', {
    tags: ['5.13.6.3.2/unsupported', '5.13.6.3.2/or-unsupported', '5.13.6.3.2/incompatible'],
  }, () => {
    const m = attached()
    m.endpoint(9, { reserved: [{ start: 0x2000, end: 0x2fff, kind: 'msi' }] })
    expect(m.attach(2, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x2fff, 0x8000_2000)).toBe(OK)
    expect(m.attach(1, 9)).toBe(UNSUPP)
    expect(m.detach(2, 9)).toBe(OK)
    expect(m.attach(1, 9)).toBe(UNSUPP)
    expect(m.unmap(1, 0x1000, 0x2fff)).toBe(OK)
    expect(m.attach(1, 9)).toBe(OK)
  })

  test('more than maxDomains: NOMEM, unless the endpoint takes its domain along', () => {
    const m = attached({ maxDomains: 2 })
    m.endpoint(9)
    m.endpoint(10)
    expect(m.attach(2, 9)).toBe(OK)
    expect(m.attach(3, 10)).toBe(NOMEM)
    expect(m.attach(3, 8)).toBe(OK)
    expect(m.attach(3, 10)).toBe(OK)
    expect(m.attach(4, 10)).toBe(NOMEM)
    expect(m.device.counters.domains).toBe(2)
  })
})

describe('DETACH (§5.13.6.4)', () => {
  test('reserved is ignored; no endpoint: NOENT; not in that domain: INVAL', {
    tags: ['5.13.6.4.2/reserved', '5.13.6.4.2/no-endpoint'],
  }, () => {
    const m = attached()
    m.endpoint(9)
    expect(m.detach(1, 7)).toBe(NOENT)
    expect(m.detach(2, 8)).toBe(INVAL)
    expect(m.detach(1, 9)).toBe(INVAL)
    expect(m.detach(1, 8, 0xffff_ffff)).toBe(OK)
    expect(m.detach(1, 8)).toBe(INVAL)
  })

  test('a domain ends with its last endpoint, and its mappings with it', { tags: ['5.13.6.4.2/revoked'] }, () => {
    const m = attached()
    m.endpoint(9)
    expect(m.attach(1, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_2000)).toBe(OK)
    expect(m.detach(1, 8)).toBe(OK)
    expect(m.map(1, 0x2000, 0x2fff, 0x8000_2000)).toBe(OK)
    expect(m.detach(1, 9)).toBe(OK)
    expect([m.map(1, 0x3000, 0x3fff, 0), m.unmap(1, 0, 4095)]).toEqual([NOENT, NOENT])
    expect(m.device.counters).toMatchObject({ domains: 0, mappings: 0 })
  })
})

describe('MAP (§5.13.6.5)', () => {
  test('misaligned start, end + 1 or physical start: RANGE', { tags: ['5.13.6.5.2/alignment'] }, () => {
    const m = attached()
    expect(m.map(1, 0x1001, 0x1fff, 0x8000_0000)).toBe(RANGE)
    expect(m.map(1, 0x1000, 0x1ffe, 0x8000_0000)).toBe(RANGE)
    expect(m.map(1, 0x1000, 0x2000, 0x8000_0000)).toBe(RANGE)
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_0800)).toBe(RANGE)
    expect(m.map(1, 0x1000, 0x1fff, 0x8000_0000)).toBe(OK)
  })

  test.each([1, 64, 4096, 65536])('granule %i', (granule) => {
    const m = attached({ granule })
    const length = Math.max(granule, 2)
    expect(m.map(1, 3 * granule, 3 * granule + length - 1, 0x8000_0000)).toBe(OK)
    if (granule > 1) {
      expect(m.map(1, granule / 2, granule * 3 - 1, 0x8000_0000)).toBe(RANGE)
      expect(m.map(1, 0, granule - 2, 0x8000_0000)).toBe(RANGE)
      expect(m.map(1, 0, granule - 1, 0x8000_0000 + granule / 2)).toBe(RANGE)
    }
    expect(m.map(1, 0, granule * 3 - 1, 0x8000_0000)).toBe(OK)
    expect(m.unmap(1, 0, 3 * granule + length - 1)).toBe(OK)
    expect(m.device.counters.mappings).toBe(0)
  })

  test('an end that is not behind the start: INVAL, so a single byte cannot be mapped (§5.13.6.5.1)', () => {
    const m = attached({ granule: 1 })
    expect(m.map(1, 5, 5, 0)).toBe(INVAL)
    expect(m.map(1, 5, 4, 0)).toBe(INVAL)
    expect(m.map(1, 5, 6, 0)).toBe(OK)
    expect(m.map(1, TOP, TOP - 1n, 0)).toBe(INVAL)
    expect(m.map(1, 2n ** 60n, 0, 0)).toBe(INVAL)
  })

  test('outside of input_range: RANGE, up to 2^64 - 1 (§5.13.6)', () => {
    const m = attached({ inputRange: { start: 0x1000, end: 0xf_ffff } })
    expect(m.map(1, 0, 0xfff, 0)).toBe(RANGE)
    expect(m.map(1, 0, 0x1fff, 0)).toBe(RANGE)
    expect(m.map(1, 0xf_f000, 0x10_0fff, 0)).toBe(RANGE)
    expect(m.map(1, 0x1000, TOP, 0)).toBe(RANGE)
    expect(m.map(1, 2n ** 53n, 2n ** 53n + 4095n, 0)).toBe(RANGE)
    // Halves that would look right as an inexact number.
    expect(m.map(1, 2n ** 63n + 0x1000n, 2n ** 63n + 0x1fffn, 0)).toBe(RANGE)
    expect(m.map(1, 0x1000, 0xf_ffff, 0)).toBe(OK)
  })

  test('addresses up to 2^53 - 1 are exact', () => {
    const m = attached({ granule: 1, inputRange: { start: 0, end: 2 ** 53 - 1 } })
    expect(m.map(1, 2 ** 53 - 2, 2 ** 53 - 1, 2 ** 53 - 2)).toBe(OK)
    expect(m.map(1, 2 ** 53 - 4, 2 ** 53 - 3, 2 ** 53 - 2)).toBe(OK)
    expect(m.map(1, 2 ** 53 - 6, 2 ** 53 - 5, 2 ** 53 - 1)).toBe(RANGE)
    expect(m.unmap(1, 2 ** 53 - 2, TOP)).toBe(OK)
    expect(m.device.counters.mappings).toBe(1)
  })

  test('a physical range that does not end below 2^53, or wraps: RANGE', () => {
    const m = attached()
    expect(m.map(1, 0, 0xfff, 2n ** 53n)).toBe(RANGE)
    expect(m.map(1, 0, 0xfff, 2n ** 64n - 4096n)).toBe(RANGE)
    expect(m.map(1, 0, 0x1fff, 2n ** 64n - 4096n)).toBe(RANGE)
    expect(m.map(1, 0, 0x1fff, 2 ** 53 - 4096)).toBe(RANGE)
    expect(m.map(1, 0, 0xfff, 2 ** 53 - 4096)).toBe(OK)
  })

  test('a mapping exists in the range: INVAL, and nothing changes', { tags: ['5.13.6.5.2/overlap'] }, () => {
    const m = attached()
    expect(m.map(1, 0x3000, 0x5fff, 0x8000_0000)).toBe(OK)
    for (const [start, end] of [
      [0x3000, 0x5fff],
      [0x2000, 0x3fff],
      [0x5000, 0x6fff],
      [0x4000, 0x4fff],
      [0, 0xf_ffff],
    ]) {
      expect(m.map(1, start, end, 0x8000_0000)).toBe(INVAL)
    }
    expect(m.map(1, 0x2000, 0x2fff, 0x8000_0000)).toBe(OK)
    expect(m.map(1, 0x6000, 0x6fff, 0x8000_0000)).toBe(OK)
    expect(m.device.counters).toMatchObject({ mappings: 3, map: 8, rejected: 5 })
  })

  test('an unknown flag: INVAL before all else; MMIO is one unless negotiated', { tags: ['5.13.6.5.2/flags'] }, () => {
    const m = attached({ mmio: true })
    for (const flags of [8, 0x8000_0003]) expect(m.map(1, 0, 0xfff, 0, flags)).toBe(INVAL)
    expect(m.map(7, 1, 2, 3, 8)).toBe(INVAL)
    expect(m.map(1, 0, 0xfff, 0, 7)).toBe(OK)
    m.start([F_MAP_UNMAP])
    expect(m.attach(1, 8)).toBe(OK)
    expect(m.map(1, 0, 0xfff, 0, 7)).toBe(INVAL)
    expect(attached().map(1, 0, 0xfff, 0, 4)).toBe(INVAL)
  })

  test('no such domain: NOENT; a bypass domain: INVAL', {
    tags: ['5.13.6.5.2/no-domain', '5.13.6.5.2/bypass', '5.13.6.6.2/no-domain', '5.13.6.6.2/bypass'],
  }, () => {
    const m = attached()
    expect(m.map(2, 0, 0xfff, 0)).toBe(NOENT)
    expect(m.attach(2, 8, 1)).toBe(OK)
    expect(m.map(2, 0, 0xfff, 0)).toBe(INVAL)
    expect(m.unmap(2, 0, 0xfff)).toBe(INVAL)
  })

  test('over RESV_MEM of any endpoint in the domain: INVAL (§5.13.6.8.1.2)', {
    tags: ['5.13.6.8.1.2/map-rejected'],
  }, () => {
    const m = attached()
    m.endpoint(9, {
      reserved: [
        { start: 0x8000, end: 0x8fff, kind: 'reserved' },
        { start: 0x2000, end: 0x2fff, kind: 'msi' },
      ],
    })
    expect(m.attach(1, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x2fff, 0)).toBe(INVAL)
    expect(m.map(1, 0x8000, 0x9fff, 0)).toBe(INVAL)
    expect(m.map(1, 0, 0xf_ffff, 0)).toBe(INVAL)
    expect(m.map(1, 0x3000, 0x7fff, 0)).toBe(OK)
    // It goes with the endpoint.
    expect(m.detach(1, 9)).toBe(OK)
    expect(m.map(1, 0x1000, 0x2fff, 0)).toBe(OK)
  })

  test('more than maxMappings, of all domains: NOMEM; an overlap is still INVAL', () => {
    const m = attached({ maxMappings: 2 })
    m.endpoint(9)
    expect(m.attach(2, 9)).toBe(OK)
    expect(m.map(1, 0, 0xfff, 0)).toBe(OK)
    expect(m.map(2, 0, 0xfff, 0)).toBe(OK)
    expect(m.map(2, 0x1000, 0x1fff, 0)).toBe(NOMEM)
    expect(m.map(2, 0, 0x1fff, 0)).toBe(INVAL)
    expect(m.detach(1, 8)).toBe(OK)
    expect(m.map(2, 0x1000, 0x1fff, 0)).toBe(OK)
  })
})

describe('UNMAP (§5.13.6.6)', () => {
  // The examples use ranges like [0; 9]: granule 1.
  const blank = (): IommuMachine => attached({ granule: 1 })
  const left = (m: IommuMachine): number => m.device.counters.mappings

  test('example 1: nothing is mapped', () => {
    const m = blank()
    expect([m.unmap(1, 0, 4), left(m)]).toEqual([OK, 0])
  })

  test('example 2: one mapping', { tags: ['5.13.6.2/ok'] }, () => {
    const m = blank()
    expect([m.map(1, 0, 9, 0), m.unmap(1, 0, 9), left(m)]).toEqual([OK, OK, 0])
  })

  test('example 3: two mappings', () => {
    const m = blank()
    expect([m.map(1, 0, 4, 0), m.map(1, 5, 9, 0), m.unmap(1, 0, 9), left(m)]).toEqual([OK, OK, OK, 0])
  })

  test('example 4: a part of a mapping is RANGE, and nothing is removed', { tags: ['5.13.6.6.2/split'] }, () => {
    const m = blank()
    expect([m.map(1, 0, 9, 0), m.unmap(1, 0, 4), left(m)]).toEqual([OK, RANGE, 1])
    expect([m.unmap(1, 5, 9), m.unmap(1, 3, 3), m.unmap(1, 1, 20), left(m)]).toEqual([RANGE, RANGE, RANGE, 1])
  })

  test('example 5: one of two mappings', () => {
    const m = blank()
    expect([m.map(1, 0, 4, 0), m.map(1, 5, 9, 0), m.unmap(1, 0, 4), left(m)]).toEqual([OK, OK, OK, 1])
    expect(m.map(1, 5, 6, 0)).toBe(INVAL)
  })

  test('example 6: the range spills over', () => {
    const m = blank()
    expect([m.map(1, 0, 4, 0), m.unmap(1, 0, 9), left(m)]).toEqual([OK, OK, 0])
  })

  test('example 7: a gap in the range', { tags: ['5.13.6.6.2/holes'] }, () => {
    const m = blank()
    expect([m.map(1, 0, 4, 0), m.map(1, 10, 14, 0), m.unmap(1, 0, 14), left(m)]).toEqual([OK, OK, OK, 0])
  })

  test('a mapping at the far end would be split: nothing is removed, the whole ones neither', {
    tags: ['5.13.6.6.2/split'],
  }, () => {
    const m = blank()
    expect([m.map(1, 0, 4, 0), m.map(1, 10, 14, 0), m.unmap(1, 0, 12), left(m)]).toEqual([OK, OK, RANGE, 2])
  })

  test('up to 2^64 - 1: all of it is removed', () => {
    const m = attached({ inputRange: { start: 0, end: 2 ** 53 - 1 } })
    expect(m.map(1, 0, 0xfff, 0)).toBe(OK)
    expect(m.map(1, 2 ** 53 - 4096, 2 ** 53 - 1, 0)).toBe(OK)
    expect([m.unmap(1, 0, TOP), left(m)]).toEqual([OK, 0])
    expect(m.map(1, 2 ** 53 - 4096, 2 ** 53 - 1, 0)).toBe(OK)
    expect([m.unmap(1, 2n ** 53n, TOP), m.unmap(1, 2n ** 63n, TOP), m.unmap(1, TOP, TOP), left(m)]).toEqual([
      OK,
      OK,
      OK,
      1,
    ])
    expect([m.unmap(1, 2 ** 53 - 1, TOP), left(m)]).toEqual([RANGE, 1])
  })

  test('reserved not zero: INVAL, and here not performed; an end before the start: INVAL', () => {
    const m = blank()
    expect(m.map(1, 0, 4, 0)).toBe(OK)
    expect([m.unmap(1, 0, 4, 1), m.unmap(1, 0, 4, 0xff00_0000)]).toEqual([INVAL, INVAL])
    expect([m.unmap(1, 4, 3), m.unmap(1, TOP, 0), m.unmap(1, 2n ** 32n, 1)]).toEqual([INVAL, INVAL, INVAL])
    expect(left(m)).toBe(1)
  })

  test('no such domain: NOENT', () => {
    expect(attached().unmap(2, 0, 0xfff)).toBe(NOENT)
  })

  test('alignment does not matter: what is affected does', () => {
    const m = attached()
    expect(m.map(1, 0x1000, 0x1fff, 0)).toBe(OK)
    expect([m.unmap(1, 0x1001, 0x1fff), m.unmap(1, 0xfff, 0x2001), left(m)]).toEqual([RANGE, OK, 0])
  })
})

describe('PROBE (§5.13.6.7, §5.13.6.8)', () => {
  const regions = [
    { start: 0xfee0_0000, end: 0xfeef_ffff, kind: 'msi' },
    { start: 0x1_0000_0000, end: 2 ** 53 - 1, kind: 'reserved' },
  ] as const

  test('RESV_MEM properties, then zeros up to probe_size, then the tail', {
    tags: [
      '5.13.6.7.2/reserved',
      '5.13.6.7.2/property-reserved',
      '5.13.6.7.2/property-length',
      '5.13.6.7.2/adjacent',
      '5.13.6.7.2/rest-zero',
      '5.13.6.8.1.2/reserved',
    ],
  }, () => {
    const m = attached({ probeSize: 64 })
    m.endpoint(9, { reserved: regions })
    expect(m.probe(9, 64)).toBe(OK)
    const view = new DataView(m.written(64).slice().buffer)
    const words = Array.from({ length: 16 }, (_, i) => view.getUint32(4 * i, true))
    // type 1, length 20; subtype; start; end
    expect(words.slice(0, 6)).toEqual([0x14_0001, 1, 0xfee0_0000, 0, 0xfeef_ffff, 0])
    expect(words.slice(6, 12)).toEqual([0x14_0001, 0, 0, 1, 0xffff_ffff, 0x1f_ffff])
    expect(words.slice(12)).toEqual([0, 0, 0, 0])
    // The next answer has nothing of the last.
    expect(m.probe(8, 64)).toBe(OK)
    expect(m.written(64).every((byte) => byte === 0)).toBe(true)
    expect(m.probe(9, 100)).toBe(OK)
    expect(
      m
        .written(100)
        .subarray(48)
        .every((byte) => byte === 0),
    ).toBe(true)
  })

  test('no such endpoint: NOENT; less room than probe_size: INVAL and no property', {
    tags: ['5.13.6.7.2/no-endpoint', '5.13.6.7.2/no-room', '5.13.6.7.2/too-small'],
  }, () => {
    const m = attached()
    m.endpoint(9, { reserved: regions })
    expect(m.probe(77)).toBe(NOENT)
    for (const room of [0, 24, 511]) {
      expect(m.probe(9, room)).toBe(INVAL)
      expect(m.written(room).every((byte) => byte === 0)).toBe(true)
    }
  })
})

describe('reset (§5.13.5, §5.13.4.2)', () => {
  test('no endpoint is attached, no domain exists', () => {
    const m = attached()
    expect(m.map(1, 0, 0xfff, 0)).toBe(OK)
    m.start()
    expect(m.device.counters).toMatchObject({ domains: 0, mappings: 0 })
    expect([m.map(1, 0, 0xfff, 0), m.detach(1, 8)]).toEqual([NOENT, INVAL])
  })

  test('a reset of one queue leaves the domains', () => {
    const m = attached().start([F_MAP_UNMAP, VIRTIO_F_RING_RESET])
    expect(m.attach(1, 8)).toBe(OK)
    m.device.resetQueue(m.device.queues[0])
    expect(m.device.counters.domains).toBe(1)
  })

  test('bypass outlives a device reset and not a system reset; only 0 and 1 are taken, if negotiated', {
    tags: ['5.13.4.2/bypass-reset', '5.13.4.2/bypass-values'],
  }, () => {
    const m = new IommuMachine().start()
    const bypass = (): number => m.registers.read(0x124, 1)
    m.registers.write(0x124, 1, 1)
    expect(bypass()).toBe(1)
    m.registers.write(0x124, 1, 2)
    m.registers.write(0x124, 1, 0xff)
    expect([bypass(), m.device.faults.count]).toEqual([1, 2])
    m.device.reset()
    expect(bypass()).toBe(1)
    m.start([F_MAP_UNMAP])
    m.registers.write(0x124, 1, 0)
    expect(bypass()).toBe(1)
    m.device.systemReset()
    expect(bypass()).toBe(0)
    expect(m.device.status).toBe(0)
  })

  test('BYPASS (3), should a test offer it, means what it says (§5.13.6)', () => {
    const m = new IommuMachine({ bypass: 'absent', offer: [F_BYPASS] })
    const port = m.endpoint(8)
    expect(access(port, m.ram, 0x8000_0000, 8, 1)).toBe(null)
    m.start([F_MAP_UNMAP, F_BYPASS])
    expect(access(port, m.ram, 0x8000_0000, 8, 1)).toEqual([8, 0x8000_0000])
    m.device.reset()
    expect(access(port, m.ram, 0x8000_0000, 8, 1)).toBe(null)
  })

  test('save and restore: domains are not part of the state, bypass is', () => {
    const m = attached()
    m.registers.write(0x124, 1, 1)
    expect(m.map(1, 0, 0xfff, 0x8000_0000, READ | WRITE)).toBe(OK)
    const state = m.device.save()
    const twin = new IommuDevice({ name: 'iommu1', port: everything(m.ram.memory) })
    const port = twin.addEndpoint(8, { name: 'ep8', downstream: everything(m.ram.memory) })
    const epoch = port.epoch
    twin.restore(JSON.parse(JSON.stringify(state)))
    expect([twin.live, twin.counters.domains, port.epoch === epoch]).toEqual([true, 0, false])
    expect(access(port, m.ram, 0x8000_0000, 8, 2)).toEqual([8, 0x8000_0000])
  })
})
