import { BIDIRECTIONAL, DMA_OK, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { fillPattern, firstDifference, pattern, type SchemeSuite } from './rig.ts'

const AT = 4099
const LENGTH = 300

/**
 * Guest RAM in a `WebAssembly.Memory` that grows: every view of it is detached, and whoever keeps using one sees no
 * bytes. No device acts between growth and what is tested, since its port would re-derive the views.
 */
export function describeGrowth({ growingTest, check }: SchemeSuite): void {
  growingTest('memory that grows before map: the device sees the bytes [growth]', (rig) => {
    fillPattern(rig.arena, 1)
    rig.machine.grow()
    const m = rig.lend(AT, LENGTH, TO_DEVICE)
    const lent = rig.arena.slice(AT, AT + LENGTH)
    check('first difference that the device sees', firstDifference(rig.deviceReads(m), lent), -1)
    rig.machine.grow()
    rig.takeBack(m, 0)
    rig.machine.grow()
    rig.takeBack(rig.lend(AT, LENGTH, FROM_DEVICE), 0)
    check('first guest byte that changed', firstDifference(rig.arena.subarray(AT, AT + LENGTH), lent), -1)
  })

  growingTest('memory that grows between map and unmap: what the device wrote arrives [growth]', (rig) => {
    fillPattern(rig.arena, 2)
    const expected = rig.arena.slice()
    const m = rig.lend(AT, LENGTH, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(LENGTH, 3)), true)
    rig.machine.grow()
    rig.takeBack(m, LENGTH)
    expected.set(pattern(LENGTH, 3), AT)
    check('first guest byte that is wrong', firstDifference(rig.arena, expected), -1)
  })

  growingTest('memory that grows before a sync: both sides see what the other wrote [growth]', (rig) => {
    fillPattern(rig.arena, 4)
    const { syncGranule } = rig.backend.limits
    const length = syncGranule > rig.longest ? LENGTH : Math.ceil(LENGTH / syncGranule) * syncGranule
    const m = rig.lend(AT, length, BIDIRECTIONAL)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 5)), true)
    rig.machine.grow()
    check('syncForCpu', rig.backend.syncForCpu(m, 0, 0, length), DMA_OK)
    check(
      'first byte that did not arrive',
      firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 5)),
      -1,
    )
    rig.arena.set(pattern(length, 6), AT)
    rig.machine.grow()
    check('syncForDevice', rig.backend.syncForDevice(m, 0, 0, length), DMA_OK)
    check('first difference that the device sees', firstDifference(rig.deviceReads(m), pattern(length, 6)), -1)
    rig.takeBack(m, 0)
  })

  growingTest('memory that grows before alloc, free and dispose: what is allocated is zeroed [growth]', (rig) => {
    for (let round = 0; round < 3; round++) {
      rig.machine.grow()
      const region = rig.backend.alloc(4096, 64, BIDIRECTIONAL, 'ring')
      region.region.refresh()
      const bytes = region.region.u8.subarray(region.offset, region.offset + region.length)
      check('first byte that is not zero', firstDifference(bytes, new Uint8Array(region.length)), -1)
      bytes.fill(0xee)
      rig.machine.grow()
      rig.backend.free(region)
    }
    rig.backend.alloc(4096, 64, BIDIRECTIONAL, 'ring')
    rig.lend(AT, LENGTH, BIDIRECTIONAL)
    rig.machine.grow()
    rig.backend.dispose()
    check('bytes still allocated', rig.backend.counters.allocatedBytes, 0)
  })
}
