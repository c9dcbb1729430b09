import { DMA_FAILED, DMA_OK, type DmaDirection, DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { codeThrownBy } from '../runner/test-functions.ts'
import { fillPattern, firstDifference, pattern, type SchemeRig, type SchemeSuite } from './rig.ts'

/** Rows of a batch. */
const ROWS = 4
const LENGTH = 200

/** Commits and a `free` that fail: what a caller may rely on afterwards. Only where `failNext` was handed in. */
export function describeFailures({ test, check, options }: SchemeSuite): void {
  const failNext: Required<typeof options>['failNext'] = (backend, call) => options.failNext?.(backend, call)

  const mapAll = (rig: SchemeRig, m: DmaMappings, first: number, direction: DmaDirection): void => {
    for (let row = 0; row < m.rows; row++)
      check(`map of row ${row}`, rig.map(m, row, place(rig, first + row), LENGTH, direction), DMA_OK)
  }

  test('commitMaps that fails: earlier maps still count, and nothing is kept of the batch that is undone [commit-maps-failed]', (rig) => {
    const { backend } = rig
    fillPattern(rig.arena, 1)
    const before = rig.arena.slice()
    const earlier = rig.lend(place(rig, 0), LENGTH, TO_DEVICE)
    const { maps, unmaps } = backend.counters
    // More rounds than a small backend has room for, so that whatever is kept of each runs out.
    for (let round = 0; round < 64; round++) {
      const m = new DmaMappings(ROWS)
      failNext(backend, 'commitMaps')
      mapAll(rig, m, 1, FROM_DEVICE)
      check('commitMaps', backend.commitMaps() === DMA_OK ? 'Ok' : 'failed', 'failed')
      for (let row = 0; row < ROWS; row++) check(`unmap of row ${row}`, backend.unmap(m, row, 0), DMA_OK)
      check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
      check('live, beside the earlier one', backend.counters.maps - backend.counters.unmaps - (maps - unmaps), 0)
      const lent = before.subarray(place(rig, 0), place(rig, 0) + LENGTH)
      check('first difference that the device sees in what was lent earlier', seen(rig, earlier, lent), -1)
    }
    check('first guest byte that changed', firstDifference(rig.arena, before), -1)
    check('commitMaps of nothing', backend.commitMaps(), DMA_OK)
    // And all works as before.
    const m = new DmaMappings(ROWS)
    mapAll(rig, m, 1, FROM_DEVICE)
    check('commitMaps afterwards', backend.commitMaps(), DMA_OK)
    for (let row = 0; row < ROWS; row++) {
      check(`the port lets the device write row ${row}`, rig.deviceWrites(m, pattern(LENGTH, row), row), true)
      check(`unmap of row ${row}`, backend.unmap(m, row, LENGTH), DMA_OK)
    }
    check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
    for (let row = 0; row < ROWS; row++) {
      const at = place(rig, 1 + row)
      const arrived = rig.arena.subarray(at, at + LENGTH)
      check(`first byte of row ${row} that did not arrive`, firstDifference(arrived, pattern(LENGTH, row)), -1)
    }
    rig.takeBack(earlier, 0)
  })

  test('commitUnmaps that fails is Failed, and what the device may still reach stays out of use [commit-unmaps-failed]', (rig) => {
    const { backend } = rig
    const quarantined = new DmaMappings(ROWS)
    mapAll(rig, quarantined, 0, FROM_DEVICE)
    check('commitMaps', backend.commitMaps(), DMA_OK)
    for (let row = 0; row < ROWS; row++) check(`unmap of row ${row}`, backend.unmap(quarantined, row, 0), DMA_OK)
    failNext(backend, 'commitUnmaps')
    check('commitUnmaps', backend.commitUnmaps(), DMA_FAILED)
    // Another queue of the same device may go on, as far as the backend lets it.
    const m = new DmaMappings(2 * ROWS)
    let rows = 0
    while (rows < m.rows && rig.map(m, rows, place(rig, ROWS + rows), LENGTH, FROM_DEVICE) === DMA_OK) rows++
    for (let row = 0; row < rows; row++) {
      for (let other = 0; other < ROWS; other++) {
        const apart =
          m.device[row] + m.deviceLength[row] <= quarantined.device[other] ||
          quarantined.device[other] + quarantined.deviceLength[other] <= m.device[row]
        check(`row ${row} lies where the device may still reach row ${other}`, !apart, false)
      }
    }
    for (let row = 0; row < rows; row++) backend.unmap(m, row, 0)
    if (backend.commitUnmaps() !== DMA_OK || backend.traits.revocation !== 'strict') return
    // Confirmed after all, with what failed before.
    fillPattern(rig.arena, 2)
    const before = rig.arena.slice()
    rig.deviceWrites(quarantined, pattern(LENGTH, 3))
    check('first guest byte that the device changed after DMA_OK', firstDifference(rig.arena, before), -1)
  })

  test('a free that is not confirmed throws DMA_STILL_REACHABLE, and the region stays out of use [free-unconfirmed]', (rig) => {
    const { backend } = rig
    const region = backend.alloc(4096, 64, TO_DEVICE, 'ring')
    const { allocatedBytes } = backend.counters
    failNext(backend, 'free')
    const code = codeThrownBy(() => backend.free(region))
    check('free', code, 'DMA_STILL_REACHABLE')
    check('bytes allocated', backend.counters.allocatedBytes, allocatedBytes)
    for (let i = 0; i < 8; i++) {
      let next = region
      // Once the confirming side has failed there may be nothing more to be had.
      if (codeThrownBy(() => (next = backend.alloc(4096, 64, TO_DEVICE, 'ring'))) === 'DMA_ALLOC') break
      const [first, second] = next.offset < region.offset ? [next, region] : [region, next]
      const overlap = next.region.source === region.region.source && first.offset + first.length > second.offset
      check(`allocation ${i} lies in the region that was not freed`, overlap, false)
    }
    // Where the device could not be kept from it, dispose throws and gives nothing back either.
    if (codeThrownBy(() => backend.dispose()) !== 'nothing was thrown') return
    check('bytes allocated after dispose', backend.counters.allocatedBytes, 0)
  })
}

/** Where a row lies: a granule apart where the arena has room, so that none keeps another within reach. */
function place(rig: SchemeRig, row: number): number {
  const { granule } = rig.backend.limits
  return 4096 + row * (granule * 16 <= rig.arena.length ? Math.max(granule, 1024) : 1024)
}

function seen(rig: SchemeRig, m: DmaMappings, lent: Uint8Array): number {
  return firstDifference(rig.deviceReads(m), lent)
}
