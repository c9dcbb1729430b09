import type { RegisterBus } from '@guestdma/memory'
import { assignBars, type BarRequest, type PciBar, PciTransport } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { BAR4, type FakeBar, PciFunction } from './support/pci-function.ts'

const command = (fake: PciFunction): number => fake.get(0x04, 2)

function barsOf(...bars: FakeBar[]): readonly PciBar[] {
  return (PciTransport.probe(new PciFunction({ bars: [...bars, BAR4] }), 'net0') as PciTransport).bars.slice(0, -1)
}

describe('pci/bars: sizing (PCI 3.0 §6.2.5.1)', () => {
  it.each<[string, FakeBar, Partial<PciBar>]>([
    ['32-bit memory', { index: 0, size: 0x1000, address: 0x8000_0000 }, { kind: 'memory', is64: false }],
    ['prefetchable', { index: 0, size: 16, prefetchable: true, address: 0x10 }, { prefetchable: true }],
    ['I/O', { index: 1, kind: 'io', size: 4, address: 0xc004 }, { kind: 'io', prefetchable: false }],
    ['64-bit memory', { index: 2, size: 2 ** 36, is64: true, address: 2 ** 40 }, { is64: true }],
    ['64-bit memory below 4 GiB', { index: 2, size: 0x4000, is64: true, address: 0xf000_0000 }, { is64: true }],
    ['2 GiB', { index: 0, size: 2 ** 31, address: 2 ** 31 }, {}],
    ['the last address that is exact', { index: 0, size: 4096, is64: true, address: 2 ** 53 - 4096 }, {}],
  ])('finds %s', (_, bar, more) => {
    const { index, size, address } = bar
    expect(barsOf(bar)).toEqual([expect.objectContaining({ index, size, address, place: 'assigned', ...more })])
  })

  it('reports a BAR without an address as such', () => {
    expect(barsOf({ index: 0, size: 4096 })).toEqual([expect.objectContaining({ place: 'unassigned', address: 0 })])
  })

  it.each([2 ** 53, 2 ** 63])('reports a BAR at %d as out of reach', (address) => {
    expect(barsOf({ index: 0, size: 4096, is64: true, address })).toEqual([
      expect.objectContaining({ place: 'unreachable', address: 0, size: 4096 }),
    ])
  })

  it('does not take bits below the size, which are not decoded, for a part of the address', () => {
    const fake = new PciFunction({ bars: [{ index: 0, size: 0x4000, address: 0x8000_0000 }, BAR4] })
    let reads = 0
    const lying: RegisterBus = {
      read: (at, size) => (at === 0x10 && reads++ === 0 ? 0x8000_1000 : fake.config.read(at, size)),
      write: (at, size, value) => fake.config.write(at, size, value),
    }
    const transport = PciTransport.probe({ config: lying, bar: (index) => fake.bar(index) }, 'net0') as PciTransport
    expect(transport.bars[0]).toMatchObject({ place: 'assigned', address: 0x8000_0000, size: 0x4000 })
  })

  it('knows sizes that only the high half shows', () => {
    expect(barsOf({ index: 0, size: 2 ** 63, is64: true })).toEqual([expect.objectContaining({ size: 2 ** 63 })])
  })

  it('passes over reserved types and a 64-bit BAR without a high half', () => {
    const fake = new PciFunction()
    fake.put(0x10, 4, 0x8000_0006)
    fake.put(0x14, 4, 0x8000_0002)
    expect((PciTransport.probe(fake, 'net0') as PciTransport).bars.map(({ index }) => index)).toEqual([4])
    expect(fake.log.filter((a) => a.kind === 'w' && (a.offset === 0x10 || a.offset === 0x14))).toEqual([])
    const last = new PciFunction({ bars: [{ index: 3, size: 0x4000 }], caps: [] })
    last.put(0x24, 4, 0x8000_0004)
    assignBars(last, () => 0)
    expect(last.log.filter((a) => a.kind === 'w' && a.offset >= 0x24)).toEqual([])
  })

  it('switches decoding off before it writes ones, and back on when every BAR is restored', () => {
    const fake = new PciFunction()
    PciTransport.probe(fake, 'net0')
    const writes = fake.log.filter(({ kind }) => kind === 'w')
    expect(writes[0]).toMatchObject({ offset: 4, size: 2, value: 0 })
    expect(writes.at(-1)).toMatchObject({ offset: 4, size: 2, value: 3 })
    expect(writes.filter(({ offset }) => offset === 4).length).toBe(2)
    expect(writes.filter(({ offset }) => offset === 0x20).map(({ value }) => value)).toEqual([0xffff_ffff, 0xc000_000c])
  })

  it('leaves a command register alone that decodes nothing', () => {
    const fake = new PciFunction()
    fake.put(4, 2, 0x0404)
    PciTransport.probe(fake, 'net0')
    expect(fake.log.filter((a) => a.kind === 'w' && a.offset === 4)).toEqual([])
  })

  it('never writes the status register, whose bits are cleared by writing them', () => {
    const fake = new PciFunction()
    assignBars(fake, () => 0)
    PciTransport.probe(fake, 'net0')
    expect(fake.log.filter((a) => a.kind === 'w' && a.offset < 8 && (a.offset !== 4 || a.size !== 2))).toEqual([])
  })

  it('leaves everything as it was, also the second time', () => {
    const fake = new PciFunction({
      bars: [{ index: 0, kind: 'io', size: 32, address: 0xc000 }, { index: 1, size: 4096 }, BAR4],
      msix: 0,
    })
    const before = Uint8Array.from(fake.space)
    const first = PciTransport.probe(fake, 'net0') as PciTransport
    expect(fake.space).toEqual(before)
    const second = PciTransport.probe(fake, 'net0') as PciTransport
    expect(fake.space).toEqual(before)
    expect(second.bars).toEqual(first.bars)
  })
})

describe('pci/bars: what firmware does', () => {
  it('asks for each BAR, writes what it is given, then enables decoding and bus mastering', () => {
    const fake = new PciFunction({
      bars: [
        { index: 0, kind: 'io', size: 32 },
        { index: 1, size: 4096 },
        { index: 4, size: 2 ** 33, is64: true, prefetchable: true },
      ],
    })
    fake.put(4, 2, 0)
    const asked: BarRequest[] = []
    const places = [0xc000, 0xfe00_0000, 2 ** 34]
    const bars = assignBars(fake, (request) => places[asked.push(request) - 1])
    expect(asked).toEqual([
      { index: 0, kind: 'io', size: 32, is64: false, prefetchable: false },
      { index: 1, kind: 'memory', size: 4096, is64: false, prefetchable: false },
      { index: 4, kind: 'memory', size: 2 ** 33, is64: true, prefetchable: true },
    ])
    expect([0x10, 0x14, 0x20, 0x24].map((at) => fake.get(at, 4))).toEqual([0xc001, 0xfe00_0000, 0xc, 4])
    expect(command(fake)).toBe(7)
    expect(fake.log.at(-1)).toMatchObject({ kind: 'w', offset: 4 })
    expect((PciTransport.probe(fake, 'net0') as PciTransport).bars).toEqual(bars)
  })

  it('does not decode a kind that has no address', () => {
    const fake = new PciFunction({ bars: [{ index: 0, kind: 'io', size: 32, address: 0xc000 }, BAR4] })
    fake.put(4, 2, 0)
    const bars = assignBars(fake, ({ kind }) => (kind === 'io' ? 0 : 0xe000_0000))
    expect(bars.map(({ place }) => place)).toEqual(['unassigned', 'assigned'])
    expect(fake.get(0x10, 4)).toBe(1)
    expect(command(fake)).toBe(6)
  })

  it.each([
    ['is not aligned to the size', 0x800, {}],
    ['a 32-bit BAR cannot hold', 2 ** 32, {}],
    ['ends beyond 2^53', 2 ** 53, { is64: true }],
    ['is no number', Number.NaN, {}],
  ])('refuses an address that %s', (_, address, more) => {
    const fake = new PciFunction({ bars: [{ index: 0, size: 4096, ...more }] })
    expect(() => assignBars(fake, () => address)).toThrow(expect.objectContaining({ code: 'TRANSPORT_PCI_BAR' }))
    expect(command(fake)).toBe(3)
  })
})
