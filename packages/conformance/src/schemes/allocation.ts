import { BIDIRECTIONAL, type DmaDirection, DmaMappings, type DmaRegion, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { reaches, readBus, writeBus } from '../doubles/bus-access.ts'
import { codeThrownBy } from '../runner/test-functions.ts'
import { fillPattern, firstDifference, pattern, type SchemeRig, type SchemeSuite } from './rig.ts'

const DIRECTIONS: readonly DmaDirection[] = [TO_DEVICE, FROM_DEVICE, BIDIRECTIONAL]

const cpuView = ({ region, offset, length }: DmaRegion): Uint8Array => region.u8.subarray(offset, offset + length)

/** `alloc` and `free`. */
export function describeAllocation({ test, check }: SchemeSuite): void {
  test('memory is zeroed, also where it was used before [alloc-zeroed]', ({ backend }) => {
    for (const use of ['ring', 'payload'] as const) {
      for (const length of [1, 16, 1000, 4096]) {
        const region = backend.alloc(length, 16, BIDIRECTIONAL, use)
        check(`${use} of ${length} bytes is long enough`, region.length >= length, true)
        check(
          `first byte of ${length} that is not zero`,
          firstDifference(cpuView(region), new Uint8Array(region.length)),
          -1,
        )
        cpuView(region).fill(0xee)
        backend.free(region)
      }
    }
  })

  test('device addresses are aligned as asked for, and below maxDeviceAddress [alloc-aligned]', ({ backend }) => {
    // Not all at the same place: what is allocated first stays.
    backend.alloc(24, 1, TO_DEVICE, 'ring')
    for (const align of [1, 2, 4, 8, 16, 64, 256, 4096]) {
      const region = backend.alloc(24, align, TO_DEVICE, 'ring')
      check(`device address modulo ${align}`, region.device % align, 0)
      check('the CPU can use elements of the alignment, up to 8 bytes', region.offset % Math.min(align, 8), 0)
      check(
        'last byte beyond maxDeviceAddress',
        region.device + region.length - 1 > backend.limits.maxDeviceAddress,
        false,
      )
      backend.free(region)
    }
  })

  test('regions are whole granules that no other region shares [alloc-granules]', ({ backend }) => {
    const { granule } = backend.limits
    const taken = new Set<number>()
    for (const [i, direction] of [...DIRECTIONS, ...DIRECTIONS].entries()) {
      const { device, length } = backend.alloc(1 + 40 * i, 8, direction, 'ring')
      check('device address modulo the granule', device % granule, 0)
      const first = Math.floor(device / granule)
      const last = Math.floor((device + length - 1) / granule)
      for (let g = first; g <= last; g++) {
        check(`granule ${g} is another region's`, taken.has(g), false)
        taken.add(g)
      }
    }
  })

  for (const direction of DIRECTIONS) {
    test(`both sides see the same bytes of a ring, direction ${direction} [alloc-plain]`, ({ backend, port }) => {
      const region = backend.alloc(3000, 8, direction, 'ring')
      if ((direction & TO_DEVICE) !== 0) {
        fillPattern(cpuView(region), 1)
        check(
          'the device reads what the CPU wrote',
          firstDifference(readBus(port, region.device, 3000), pattern(3000, 1)),
          -1,
        )
      }
      if ((direction & FROM_DEVICE) !== 0) {
        check('the port lets the device write', writeBus(port, region.device, pattern(3000, 2)), 3000)
        check(
          'the CPU reads what the device wrote',
          firstDifference(cpuView(region).subarray(0, 3000), pattern(3000, 2)),
          -1,
        )
      }
    })
  }

  test('two regions never share bytes, on either side', ({ backend }) => {
    const regions = [1, 64, 100, 4096, 1].map((length, i) => backend.alloc(length, 8, DIRECTIONS[i % 3], 'payload'))
    for (const [i, region] of regions.entries()) cpuView(region).fill(i + 1)
    for (const [i, region] of regions.entries()) check(`bytes of region ${i}`, [...new Set(cpuView(region))], [i + 1])
  })

  test('what was freed can be had again, and a region is freed once [free-once]', ({ backend }) => {
    const before = backend.counters.allocatedBytes
    for (let round = 0; round < 2000; round++) backend.free(backend.alloc(4096, 64, TO_DEVICE, 'ring'))
    check('bytes allocated after 2000 rounds', backend.counters.allocatedBytes, before)
    const region = backend.alloc(64, 8, TO_DEVICE, 'ring')
    check('bytes allocated beside one region', backend.counters.allocatedBytes - before >= 64, true)
    backend.free(region)
    check(
      'freeing it twice',
      codeThrownBy(() => backend.free(region)),
      'DMA_FREE',
    )
  })

  test('an allocation that cannot be had throws DMA_ALLOC and takes nothing [alloc-refused]', ({ backend }) => {
    const before = backend.counters.allocatedBytes
    check(
      '2^40 bytes',
      codeThrownBy(() => backend.alloc(2 ** 40, 8, TO_DEVICE, 'ring')),
      'DMA_ALLOC',
    )
    check('bytes allocated', backend.counters.allocatedBytes, before)
    backend.free(backend.alloc(4096, 8, TO_DEVICE, 'ring'))
  })

  test('dispose gives everything back and closes what it opened (reset/revokes) [dispose-all]', async (rig) => {
    const { ram } = rig.machine
    const spans = ram.live
    const first = capacity(rig)
    const firstBytes = allocatable(rig)
    const region = rig.backend.alloc(4096, 64, BIDIRECTIONAL, 'payload')
    const m = rig.lend(8192, 64, BIDIRECTIONAL)
    rig.backend.dispose()
    const { reach } = rig.backend.traits
    if (reach === 'granule' || reach === 'byte') {
      check('the allocated memory is reachable', reaches(rig.port, region.device, 1), false)
      check('the mapping is reachable', reaches(rig.port, m.device[0], 1), false)
    }
    // What the backend took when it was made may be gone as well.
    check('spans of guest RAM that are still taken', Math.max(0, ram.live - spans), 0)
    check('bytes still allocated', rig.backend.counters.allocatedBytes, 0)
    const next = await rig.again()
    check('mappings that the next backend can hold, beside the first', capacity(next), first)
    check('regions that the next backend can allocate, beside the first', allocatable(next), firstBytes)
  })
}

// How many small mappings are to be had at once, up to a bound; all are taken back.
function capacity(rig: SchemeRig): number {
  const m = new DmaMappings(CAPACITY_BOUND)
  let rows = 0
  while (rows < CAPACITY_BOUND && rig.map(m, rows, 64 * (rows % 1024), 64, FROM_DEVICE) === 0) rows++
  rig.backend.commitMaps()
  for (let row = 0; row < rows; row++) rig.backend.unmap(m, row, 0)
  rig.backend.commitUnmaps()
  return rows
}

// How many regions are to be had at once, up to a bound; all are freed.
function allocatable({ backend }: SchemeRig): number {
  const regions: DmaRegion[] = []
  codeThrownBy(() => {
    while (regions.length < REGIONS_BOUND) regions.push(backend.alloc(4096, 64, TO_DEVICE, 'ring'))
  })
  for (const region of regions) backend.free(region)
  return regions.length
}

const REGIONS_BOUND = 256
const CAPACITY_BOUND = 2304
