import { DMA_OK, DmaMappings } from '@guestdma/dma'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { IommuBackend, IommuError, parseProperties } from '../src/index.ts'
import { concat, properties } from './support/hand-iommu.ts'
import { BASE, failure, started } from './support/iommu-rig.ts'

const parse = (...parts: readonly (Uint8Array | readonly number[])[]) => parseProperties('net0', concat(...parts))
const one = properties([0x1000n, 0x1fffn])
const two = properties([0x8000n, 0x8fffn, 1])

/** The head of a property. */
const head = (type: number, length: number): number[] => [type & 0xff, type >> 8, length & 0xff, length >> 8]

function refused(...parts: readonly (Uint8Array | readonly number[])[]): string {
  try {
    parse(...parts)
  } catch (error) {
    return error instanceof IommuError ? error.code : String(error)
  }
  return 'nothing was thrown'
}

describe('properties of a PROBE (virtio 1.4 §5.13.6.6 to §5.13.6.8)', () => {
  test('RESV_MEM: both ends, and whether it is for message-signalled interrupts', () => {
    expect(parse(one, two)).toEqual([
      { start: 0x1000, end: 0x1fff, kind: 'reserved' },
      { start: 0x8000, end: 0x8fff, kind: 'msi' },
    ])
  })

  test('subtypes that are not known count as reserved; reserved bytes are ignored', {
    tags: ['5.13.6.8.1.1/reserved', '5.13.6.8.1.1/subtype'],
  }, () => {
    const other = properties([0x1000n, 0x1fffn, 2])
    other.fill(0xff, 5, 8)
    expect(parse(other)).toEqual([{ start: 0x1000, end: 0x1fff, kind: 'reserved' }])
  })

  test('types that are not known are passed over by their length', {
    tags: ['5.13.6.7.1/unknown', '5.13.6.7.1/goes-on'],
  }, () => {
    expect(parse(head(2, 0), head(0xfff, 3), [1, 1, 1], one)).toHaveLength(1)
    expect(parse(one, head(7, 100), new Uint8Array(100), two)).toHaveLength(2)
  })

  test('a property whose reserved bits are not zero is ignored, and what follows is read', {
    tags: ['5.13.6.7.1/reserved-bits'],
  }, () => {
    const marked = Uint8Array.from(one)
    marked[1] |= 0x10
    expect(parse(marked, two)).toEqual([{ start: 0x8000, end: 0x8fff, kind: 'msi' }])
    expect(parse([0, 0x80, 4, 0, 1, 2, 3, 4], two)).toHaveLength(1)
  })

  test('an empty property ends the list, and so does the end of the buffer', () => {
    expect(parse(one, head(0, 0), two)).toHaveLength(1)
    expect(parse(one, new Uint8Array(500))).toHaveLength(1)
    expect(parse(one, [1, 0, 20])).toHaveLength(1)
    expect(parse()).toEqual([])
    expect(parse(new Uint8Array(512))).toEqual([])
  })

  test("the length is the property's own and not deduced from its type", { tags: ['5.13.6.7.1/length'] }, () => {
    const longer = concat(head(1, 28), one.subarray(4), new Uint8Array(8).fill(9))
    expect(parse(longer, two)).toHaveLength(2)
  })

  test('a list that goes on and on without a length comes to its end', () => {
    expect(parse(Uint8Array.from({ length: 65_536 }, (_, i) => (i % 4 === 0 ? 9 : 0)))).toEqual([])
  })

  test('properties over the end, and too short ones, are refused', () => {
    expect(refused(one.subarray(0, 23))).toBe('IOMMU_PROPERTY')
    expect(refused(one, head(9, 0xffff))).toBe('IOMMU_PROPERTY')
    expect(refused(head(9, 1))).toBe('IOMMU_PROPERTY')
    for (const length of [0, 4, 19]) expect(refused(head(1, length), new Uint8Array(length))).toBe('IOMMU_PROPERTY')
  })

  test('ranges that end before they start are refused, 64-bit ends saturate', () => {
    expect(refused(properties([0x2000n, 0x1fffn]))).toBe('IOMMU_PROPERTY')
    expect(parse(properties([0n, 2n ** 64n - 1n]))).toEqual([
      { start: 0, end: Number.MAX_SAFE_INTEGER, kind: 'reserved' },
    ])
    expect(parse(properties([2n ** 63n, 2n ** 64n - 1n]))[0].start).toBe(Number.MAX_SAFE_INTEGER)
  })

  test('whatever the bytes are: ranges in order, or IOMMU_PROPERTY', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 30 })).map(([type, length]) => Uint8Array.from(head(type, length))),
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const outcome = refused(...pieces)
        expect(['IOMMU_PROPERTY', 'nothing was thrown']).toContain(outcome)
        if (outcome !== 'IOMMU_PROPERTY')
          for (const { start, end } of parse(...pieces)) expect(start).toBeLessThanOrEqual(end)
      }),
    )
  })
})

describe('what a PROBE says', () => {
  test('is honoured by every address that is handed out later', { tags: ['5.13.6.8.1.1/unmapped'] }, async () => {
    const rig = await started({ input: [0x1000n, 0xf_ffffn] })
    rig.device.properties = () => properties([0x3000n, 0x3fffn], [0x8000n, 0xffffn, 1], [0x1_1000n, 0x1_10ffn, 77])
    const domain = rig.iommu.attach(8, 'net0')
    const { memory, ram } = rig
    const backend = new IommuBackend({ name: 'iommu', memory, ram, domain, subGranule: 'share' })
    const m = new DmaMappings(300)
    let rows = 0
    for (; rows < 300; rows++) {
      // Buffers inside one page would share its address.
      m.guest[rows] = BASE + (rows % 2 === 0 ? rows * 2048 : 0)
      m.length[rows] = rows % 2 === 0 ? 4096 : 8192
      m.direction[rows] = 3
      if (backend.map(m, rows) !== DMA_OK) break
    }
    expect(rows).toBeGreaterThan(100)
    expect(backend.commitMaps()).toBe(DMA_OK)
    const used = rig.device.mapped.get(domain.id) ?? []
    expect(used).toHaveLength(rows)
    for (const { start, end } of used) {
      for (const [from, to] of [
        [0x3000, 0x3fff],
        [0x8000, 0xffff],
        [0x1_1000, 0x1_10ff],
      ])
        expect(start > to || end < from, `${start} to ${end}`).toBe(true)
      expect([start >= 0x1000, end <= 0xf_ffff]).toEqual([true, true])
    }
  })

  test('properties that make no sense cost the endpoint and not the driver', async () => {
    const { device, iommu } = await started({ probeSize: 64 })
    device.properties = () => Uint8Array.from(head(5, 1000))
    expect(await failure(() => iommu.attach(8, 'net0'))).toBe('IOMMU_PROPERTY')
    expect([iommu.endpoints.size, device.attached.size]).toEqual([0, 0])
    device.properties = () => new Uint8Array()
    expect(iommu.attach(8, 'net0').reserved).toEqual([])
  })

  test('bytes of an earlier PROBE are not read again where the device writes fewer', async () => {
    const { device, iommu } = await started({ probeSize: 64 })
    device.properties = () => properties([0x1000n, 0x1fffn])
    expect(iommu.attach(8, 'net0').reserved).toHaveLength(1)
    device.properties = () => new Uint8Array()
    expect(iommu.attach(9, 'blk0').reserved).toEqual([])
  })
})
