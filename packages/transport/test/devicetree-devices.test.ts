import {
  cpuBaseOf,
  type DevicetreeNode,
  iommuEndpoints,
  iommuForRequester,
  readDevicetree,
  restrictedDmaPool,
  spansOf,
  type TransportError,
  type VirtioMmioNode,
  virtioMmioNode,
  virtioMmioNodes,
} from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { codeOf, compiled, errorOf, flatten, type Source } from './support/devicetree.ts'

const rfc = readDevicetree(compiled('swiotlb-rfc'))
const pci = readDevicetree(compiled('pci-iommu'))
const regions = readDevicetree(compiled('regions'))

function at(tree: typeof rfc, path: string): DevicetreeNode {
  const node = tree.node(path)
  if (node === undefined) throw new Error(`no ${path}`)
  return node
}

describe('devicetree/restricted-dma-pool (reserved-memory binding, SWIOTLB RFC 2/3)', () => {
  it("is the one that the device's memory-region names", () => {
    expect(restrictedDmaPool(rfc, at(rfc, '/virtio@a000000'))).toEqual({
      base: 0x50000000,
      length: 0x4000000,
      path: '/reserved-memory/bounce-buffers@50000000',
    })
  })

  it('is not there for a device without memory-region', () => {
    expect(restrictedDmaPool(rfc, at(rfc, '/virtio@a000200'))).toBeNull()
  })

  it('is the first of several regions that is compatible and available, beyond 32 bits as well', () => {
    expect(restrictedDmaPool(regions, at(regions, '/soc/virtio@1000'))).toEqual({
      base: 0x8ff_fff0_0000,
      length: 0x1_0010_0000,
      path: '/reserved-memory/pool@8fffff00000',
    })
  })

  it('is refused where it has a size and no place yet, rather than left out', () => {
    expect(errorOf(() => restrictedDmaPool(regions, at(regions, '/soc/dynamic@5000')))).toMatchObject({
      code: 'TRANSPORT_FDT_POOL_DYNAMIC',
      details: { node: '/reserved-memory/pool-later' },
    })
  })

  const cells = { '#address-cells': [1], '#size-cells': [1] }
  const compatible = 'restricted-dma-pool'
  const none = new Uint8Array(0)
  interface Variation {
    /** Of the pool. */
    readonly pool?: Source
    /** Beside the pool. */
    readonly beside?: Source
    readonly parent?: Source
    readonly reservations?: readonly number[]
  }
  const varied = ({ pool, beside, parent, reservations }: Variation) => {
    const source: Source = {
      ...cells,
      'reserved-memory': {
        ...cells,
        ranges: none,
        ...parent,
        'pool@1000': { compatible, phandle: [1], reg: [0x1000, 0x2000], ...pool },
        ...beside,
      },
      elsewhere: { compatible, phandle: [2], reg: [0x1000, 0x2000] },
      device: { 'memory-region': [1] },
      lost: { 'memory-region': [1, 9] },
      outside: { 'memory-region': [2] },
      odd: { 'memory-region': Uint8Array.of(0, 0, 1) },
    }
    const tree = readDevicetree(flatten(source, reservations))
    return (device: string) => () => restrictedDmaPool(tree, at(tree, `/${device}`))
  }
  const neighbour = (...reg: number[]): Source => ({ 'other@0': { reg } })

  it.each<[string, Variation, string]>([
    ['no bytes', { pool: { reg: [0x1000, 0] } }, 'TRANSPORT_FDT_POOL_EMPTY'],
    ['a base within a page', { pool: { reg: [0x1800, 0x2000] } }, 'TRANSPORT_FDT_POOL_ALIGNMENT'],
    ['a length of no whole pages', { pool: { reg: [0x1000, 0x2010] } }, 'TRANSPORT_FDT_POOL_ALIGNMENT'],
    ['bytes beyond the addresses of its bus', { pool: { reg: [0xffff_f000, 0x2000] } }, 'TRANSPORT_FDT_ADDRESS'],
    ['half an entry', { pool: { reg: [0x1000] } }, 'TRANSPORT_FDT_PROPERTY'],
    ['a size only', { pool: { reg: [], size: [0x1000] } }, 'TRANSPORT_FDT_POOL_DYNAMIC'],
    ['no-map', { pool: { 'no-map': none } }, 'TRANSPORT_FDT_POOL_USE'],
    ['reusable', { pool: { reusable: none } }, 'TRANSPORT_FDT_POOL_USE'],
    ['a neighbour at its end', { beside: neighbour(0x2fff, 1) }, 'TRANSPORT_FDT_POOL_OVERLAP'],
    ['a neighbour around it', { beside: neighbour(0, 0x8000_0000) }, 'TRANSPORT_FDT_POOL_OVERLAP'],
    ["a neighbour's second span in it", { beside: neighbour(0, 1, 0x1800, 1) }, 'TRANSPORT_FDT_POOL_OVERLAP'],
    ['a second span in its first', { pool: { reg: [0x1000, 0x2000, 0x2000, 0x1000] } }, 'TRANSPORT_FDT_POOL_OVERLAP'],
    ['a reservation in it', { reservations: [0, 0x1000, 0, 1] }, 'TRANSPORT_FDT_POOL_OVERLAP'],
    ['a parent with ranges', { parent: { ranges: [0, 0, 0x1000] } }, 'TRANSPORT_FDT_POOL_PLACE'],
    ['a parent with other cells', { parent: { '#size-cells': [2] } }, 'TRANSPORT_FDT_POOL_PLACE'],
    ['a parent with three cells', { parent: { '#address-cells': [3] } }, 'TRANSPORT_FDT_CELLS'],
    ['a parent with no cells', { parent: { '#size-cells': [0] } }, 'TRANSPORT_FDT_CELLS'],
  ])('is refused with %s', (_, variation, code) => {
    const error = errorOf(varied(variation)('device'))
    expect(error?.code).toBe(code)
    expect(error?.details.node).toMatch(/^\/reserved-memory/)
  })

  it.each<[string, Variation]>([
    ['neighbours that touch it', { beside: { 'a@0': { reg: [0, 0x1000] }, 'b@3000': { reg: [0x3000, 0x1000] } } }],
    ['an empty neighbour in it', { beside: neighbour(0x1800, 0) }],
    ['a disabled neighbour in it', { beside: { 'other@0': { reg: [0, 0x2000], status: 'disabled' } } }],
    ['a neighbour without a place', { beside: { other: { size: [0x1000] } } }],
    ['reservations that touch it', { reservations: [0, 0, 0, 0x1000, 0, 0x3000, 0, 1] }],
    ['a second span', { pool: { reg: [0x1000, 0x2000, 0x8000, 0x1000] } }],
  ])('is taken with %s', (_, variation) => {
    expect(varied(variation)('device')()).toEqual({
      base: 0x1000,
      length: 0x2000,
      path: '/reserved-memory/pool@1000',
    })
  })

  it('is refused outside of /reserved-memory, and with an unknown or malformed phandle beside it', () => {
    expect(codeOf(varied({})('outside'))).toBe('TRANSPORT_FDT_POOL_PLACE')
    expect(errorOf(varied({})('lost'))).toMatchObject({
      code: 'TRANSPORT_FDT_PHANDLE',
      details: { node: '/lost', property: 'memory-region', phandle: 9 },
    })
    expect(codeOf(varied({})('odd'))).toBe('TRANSPORT_FDT_PROPERTY')
  })
})

describe('devicetree/iommu of a requester (pci-iommu binding)', () => {
  const bridge = at(pci, '/pcie@40000000')
  const viommu = at(pci, '/pcie@40000000/iommu@1,0')

  it('is where the map says, and nowhere for the gap in which the IOMMU itself is', () => {
    expect(viommu.isCompatible('virtio,pci-iommu')).toBe(true)
    expect(iommuForRequester(pci, bridge, 0)).toEqual({ iommu: viommu, endpoint: 0 })
    expect(iommuForRequester(pci, bridge, 7)).toEqual({ iommu: viommu, endpoint: 7 })
    expect(iommuForRequester(pci, bridge, 8)).toBeNull()
    expect(iommuForRequester(pci, bridge, 9)).toEqual({ iommu: viommu, endpoint: 9 })
    expect(iommuForRequester(pci, bridge, 0xfff)).toEqual({ iommu: viommu, endpoint: 0xfff })
    expect(iommuForRequester(pci, bridge, 0x1000)).toBeNull()
    expect(iommuForRequester(pci, at(pci, '/plain@9200000'), 0)).toBeNull()
  })

  it('masks the ID first and takes the first entry that matches', () => {
    const masked = at(pci, '/pcie@60000000')
    expect(iommuForRequester(pci, masked, 0x2b)).toEqual({ iommu: viommu, endpoint: 0x10028 })
    expect(iommuForRequester(pci, masked, 0x87)).toEqual({ iommu: viommu, endpoint: 0x10080 })
    expect(iommuForRequester(pci, masked, 0x107)).toEqual({ iommu: at(pci, '/iommu@9050000'), endpoint: 0x80 })
  })

  const varied = (bridgeSource: Source, iommu: Source = { '#iommu-cells': [1] }) => {
    const tree = readDevicetree(flatten({ bridge: bridgeSource, iommu: { phandle: [1], ...iommu } }))
    return (requester: number) => () => iommuForRequester(tree, at(tree, '/bridge'), requester)
  }

  it.each<[string, Source, string]>([
    ['an unknown IOMMU', { 'iommu-map': [0, 2, 0, 1] }, 'TRANSPORT_FDT_PHANDLE'],
    ['an unknown IOMMU behind the match', { 'iommu-map': [0, 1, 0, 1, 5, 2, 0, 1] }, 'TRANSPORT_FDT_PHANDLE'],
    ['three cells', { 'iommu-map': [0, 1, 0] }, 'TRANSPORT_FDT_PROPERTY'],
    [
      'an entry outside of the mask',
      { 'iommu-map': [1, 1, 0, 1], 'iommu-map-mask': [0xfff8] },
      'TRANSPORT_FDT_PROPERTY',
    ],
    ['a mask of two cells', { 'iommu-map': [0, 1, 0, 1], 'iommu-map-mask': [0, 0] }, 'TRANSPORT_FDT_PROPERTY'],
    ['endpoints beyond 32 bits', { 'iommu-map': [0, 1, 0xffff_ffff, 2] }, 'TRANSPORT_FDT_PROPERTY'],
  ])('is refused where the map has %s', (_, source, code) => {
    expect(codeOf(varied(source)(0))).toBe(code)
  })

  it('takes entries up to 2^32 - 1, and none of length 0', () => {
    expect(varied({ 'iommu-map': [0, 1, 0xffff_ff00, 0x100] })(0xff)()?.endpoint).toBe(0xffff_ffff)
    expect(varied({ 'iommu-map': [0, 1, 0, 0xffff_ffff] })(0xffff)()?.endpoint).toBe(0xffff)
    expect(varied({ 'iommu-map': [0, 1, 7, 0] })(0)()).toBeNull()
    expect(varied({ 'iommu-map': [] })(0)()).toBeNull()
  })

  it('needs #iommu-cells 1, and translates nothing where the IOMMU is disabled', () => {
    const map = { 'iommu-map': [0, 1, 0, 1] }
    expect(codeOf(varied(map, {})(0))).toBe('TRANSPORT_FDT_CELLS')
    expect(codeOf(varied(map, { '#iommu-cells': [2] })(0))).toBe('TRANSPORT_FDT_CELLS')
    expect(varied(map, { '#iommu-cells': [1], status: 'disabled' })(0)()).toBeNull()
  })

  it('refuses what is no requester ID', () => {
    for (const requester of [-1, 0x10000, 1.5, Number.NaN]) {
      expect(codeOf(() => iommuForRequester(pci, bridge, requester))).toBe('TRANSPORT_FDT_REQUESTER')
    }
  })
})

describe('devicetree/iommus of a device (iommu binding)', () => {
  it('are all that it names, with their endpoints', () => {
    expect(iommuEndpoints(pci, at(pci, '/dma-engine@9100000'))).toEqual([
      { iommu: at(pci, '/iommu@9050000'), endpoint: 0x20 },
      { iommu: at(pci, '/pcie@40000000/iommu@1,0'), endpoint: 0x10021 },
    ])
    expect(iommuEndpoints(pci, at(pci, '/plain@9200000'))).toEqual([])
  })

  it('are refused where one is unknown, half or of other cells, and left out where one is disabled', () => {
    const tree = readDevicetree(
      flatten({
        one: { phandle: [1], '#iommu-cells': [1] },
        two: { phandle: [2], '#iommu-cells': [2] },
        off: { phandle: [3], '#iommu-cells': [1], status: 'disabled' },
        unknown: { iommus: [9, 0] },
        half: { iommus: [1, 0, 1] },
        other: { iommus: [2, 0] },
        disabled: { iommus: [3, 0, 1, 5] },
      }),
    )
    const of = (name: string) => () => iommuEndpoints(tree, at(tree, `/${name}`))
    expect(errorOf(of('unknown'))).toMatchObject({
      code: 'TRANSPORT_FDT_PHANDLE',
      details: { node: '/unknown', property: 'iommus', phandle: 9 },
    })
    expect(codeOf(of('half'))).toBe('TRANSPORT_FDT_PROPERTY')
    expect(codeOf(of('other'))).toBe('TRANSPORT_FDT_CELLS')
    expect(of('disabled')()).toEqual([{ iommu: at(tree, '/one'), endpoint: 5 }])
  })
})

describe('devicetree/virtio,mmio nodes', () => {
  it('are found where the CPU sees them, through the ranges of their buses (§2.3.8)', () => {
    const found = virtioMmioNodes(regions).map(({ node: _, memoryRegions, ...rest }) => ({
      ...rest,
      memoryRegions: memoryRegions.map(({ name }) => name),
    }))
    const names = ['firmware@100000000', 'pool@a0000000', 'pool@8fffff00000', 'pool@90000000']
    expect(found).toEqual([
      {
        path: '/soc/virtio@1000',
        base: 0x10001000,
        length: 0x200,
        interrupts: [1],
        interruptsExtended: [],
        coherent: true,
        memoryRegions: names,
      },
      {
        path: '/soc/bus@40000000/virtio@40002000',
        base: 0x40_0000_2000,
        length: 0x1000,
        interrupts: [],
        interruptsExtended: [],
        coherent: false,
        memoryRegions: ['pool@90000000'],
      },
      {
        path: '/soc/virtio@4000',
        base: 0x10004000,
        length: 0x200,
        interrupts: [],
        interruptsExtended: [],
        coherent: true,
        memoryRegions: [],
      },
    ])
    expect(virtioMmioNodes(rfc).map(({ base, interrupts }) => [base, interrupts])).toEqual([
      [0xa000000, [0, 16, 1]],
      [0xa000200, [0, 17, 1]],
    ])
    expect(virtioMmioNodes(pci)).toEqual([])
  })

  const device = { compatible: 'virtio,mmio', reg: [0x1000, 0x200] }
  const cells = { '#address-cells': [1], '#size-cells': [1] }
  it.each<[string, Source, string]>([
    ['without registers', { ...cells, d: { compatible: 'virtio,mmio' } }, 'TRANSPORT_FDT_PROPERTY'],
    ['with no bytes of registers', { ...cells, d: { ...device, reg: [0x1000, 0] } }, 'TRANSPORT_FDT_PROPERTY'],
    ['on a bus without ranges', { ...cells, bus: { ...cells, d: device } }, 'TRANSPORT_FDT_ADDRESS'],
    ['beyond the ranges', { ...cells, bus: { ...cells, ranges: [0, 0, 0x11ff], d: device } }, 'TRANSPORT_FDT_ADDRESS'],
    [
      'on a bus with half a range',
      { ...cells, bus: { ...cells, ranges: [0, 0], d: device } },
      'TRANSPORT_FDT_PROPERTY',
    ],
    [
      'on a bus with too many ranges',
      { ...cells, bus: { ...cells, ranges: new Array<number>(3 * 257).fill(0), d: device } },
      'TRANSPORT_FDT_PROPERTY',
    ],
    [
      'on a bus that leads beyond 2^53',
      { ...cells, '#address-cells': [2], bus: { ...cells, ranges: [0, 0x1f_ffff, 0xffff_f000, 0x10000], d: device } },
      'TRANSPORT_FDT_ADDRESS',
    ],
    ['with an unknown region', { ...cells, d: { ...device, 'memory-region': [4] } }, 'TRANSPORT_FDT_PHANDLE'],
    [
      'among nodes with no compatible strings',
      { ...cells, e: { compatible: [1] }, d: device },
      'TRANSPORT_FDT_PROPERTY',
    ],
  ])('are refused %s', (_, source, code) => {
    expect(codeOf(() => virtioMmioNodes(readDevicetree(flatten(source))))).toBe(code)
  })
})

describe('devicetree/interrupts-extended (§2.4.1.1)', () => {
  const node = (d: Source): readonly VirtioMmioNode[] =>
    virtioMmioNodes(
      readDevicetree(
        flatten({
          '#address-cells': [1],
          '#size-cells': [1],
          gic: { phandle: [1], '#interrupt-cells': [3] },
          plic: { phandle: [2], '#interrupt-cells': [1] },
          none: { phandle: [3], '#interrupt-cells': [0] },
          mute: { phandle: [4] },
          d: { compatible: 'virtio,mmio', reg: [0x1000, 0x200], ...d },
        }),
      ),
    )

  it("names a controller for each interrupt, in that controller's cells, and takes precedence", () => {
    const [found] = node({ interrupts: [7], 'interrupts-extended': [1, 0, 16, 4, 2, 9, 3, 2, 5] })
    expect(found.interrupts).toEqual([])
    expect(found.interruptsExtended.map(({ controller, cells }) => [controller.path, cells])).toEqual([
      ['/gic', [0, 16, 4]],
      ['/plic', [9]],
      ['/none', []],
      ['/plic', [5]],
    ])
  })

  it.each([
    ['an unknown controller', [9, 1], 'TRANSPORT_FDT_PHANDLE'],
    ['half an interrupt', [2, 1, 1, 0, 16], 'TRANSPORT_FDT_PROPERTY'],
    ['a controller that does not say how many cells it takes', [4, 1], 'TRANSPORT_FDT_CELLS'],
  ])('is refused with %s', (_, cells, code) => {
    expect(codeOf(() => node({ 'interrupts-extended': cells }))).toBe(code)
  })
})

describe('devicetree/unusable nodes spoil no others', () => {
  const mmio = { compatible: 'virtio,mmio' }

  it('one virtio,mmio node that cannot be read leaves the others readable one by one', () => {
    const tree = readDevicetree(
      flatten({ a: { ...mmio, reg: [0x20_0000, 0, 0x200] }, b: { ...mmio, reg: [0, 0x1000, 0x200] } }),
    )
    const bases = tree.compatibleWith('virtio,mmio').map((node) => {
      try {
        return virtioMmioNode(tree, node).base
      } catch (error) {
        return (error as TransportError).code
      }
    })
    expect(bases).toEqual(['TRANSPORT_FDT_ADDRESS', 0x1000])
  })

  it('a range of a bus beyond 2^53 is passed over where another passes the address on', () => {
    const ranges = [0x20_0000, 0, 0x20_0000, 0, 0x1000, 0, 0, 0, 0x4000_0000, 0x2000]
    const bus = { '#address-cells': [2], '#size-cells': [1], ranges, d: { ...mmio, reg: [0, 0x1000, 0x200] } }
    const [{ base }] = virtioMmioNodes(readDevicetree(flatten({ '#address-cells': [2], bus })))
    expect(base).toBe(0x4000_1000)
  })

  it('a range that leads beyond 2^53 is refused where it is the one', () => {
    const ranges = [0, 0, 0x20_0000, 0, 0x2000]
    const bus = { '#address-cells': [2], '#size-cells': [1], ranges, d: { ...mmio, reg: [0, 0x1000, 0x200] } }
    expect(codeOf(() => virtioMmioNodes(readDevicetree(flatten({ '#address-cells': [2], bus }))))).toBe(
      'TRANSPORT_FDT_ADDRESS',
    )
  })

  it.each([
    ['that begins beyond 2^53', [0x20_0000, 0, 0, 0x1000], 'no error'],
    ['that ends beyond 2^53, behind the pool', [0, 0x3000, 0xffff_ffff, 0], 'no error'],
    ['that ends beyond 2^53, over the pool', [0, 0, 0xffff_ffff, 0], 'TRANSPORT_FDT_POOL_OVERLAP'],
  ])('a reserved node %s does to a pool what its bytes do', (_, reg, code) => {
    const cells = { '#address-cells': [2], '#size-cells': [2] }
    const pool = { compatible: 'restricted-dma-pool', phandle: [1], reg: [0, 0x1000, 0, 0x2000] }
    const tree = readDevicetree(
      flatten({
        ...cells,
        'reserved-memory': { ...cells, ranges: new Uint8Array(0), 'pool@1000': pool, other: { reg } },
        device: { 'memory-region': [1] },
      }),
    )
    expect(codeOf(() => restrictedDmaPool(tree, at(tree, '/device')))).toBe(code)
  })
})

describe('devicetree/reg (§2.3.6)', () => {
  const spans = (reg: readonly number[], cells: Source = {}) => {
    const tree = readDevicetree(flatten({ ...cells, d: { reg } }))
    return () => spansOf(at(tree, '/d'))
  }

  it("has entries of the parent's cells, two and one where it says nothing", () => {
    expect(spans([1, 2, 3, 4, 5, 6])()).toEqual([
      { base: 0x1_0000_0002, length: 3 },
      { base: 0x4_0000_0005, length: 6 },
    ])
    expect(spans([1, 2], { '#address-cells': [1] })()).toEqual([{ base: 1, length: 2 }])
    expect(spans([])()).toEqual([])
    expect(spansOf(at(pci, '/pcie@60000000'))).toEqual([{ base: 0x60000000, length: 0x1000000 }])
    expect(cpuBaseOf(at(pci, '/pcie@60000000'), { base: 0x60000000, length: 1 })).toBe(0x60000000)
  })

  it('is exact up to 2^53 and refused beyond', () => {
    expect(spans([0x1f_ffff, 0xffff_ffff, 1])()).toEqual([{ base: Number.MAX_SAFE_INTEGER, length: 1 }])
    for (const reg of [
      [0x1f_ffff, 0xffff_ffff, 2],
      [0x20_0000, 0, 0],
      [0xffff_ffff, 0xffff_ffff, 0xffff_ffff],
    ]) {
      expect(codeOf(spans(reg))).toBe('TRANSPORT_FDT_ADDRESS')
    }
  })
})
