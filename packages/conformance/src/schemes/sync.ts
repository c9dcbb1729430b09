import { BIDIRECTIONAL, DMA_OK, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { writeBus } from '../doubles/bus-access.ts'
import { fillPattern, firstDifference, pattern, type SchemeRig, type SchemeSuite } from './rig.ts'

const AT = 4096

/** Syncs of a live mapping, partial ones above all: CVE-2022-0854 and its first fix. */
export function describeSync({ test, check }: SchemeSuite): void {
  // A part [unit, 2·unit) of a buffer of four units, and the lengths in bytes.
  const units = (rig: SchemeRig): { unit: number; length: number } => {
    const unit = Math.max(16, rig.backend.limits.syncGranule)
    return { unit, length: 4 * unit }
  }

  test('syncForCpu shows what the device wrote in the range, and changes nothing else [sync-cpu]', (rig) => {
    const { unit, length } = units(rig)
    fillPattern(rig.arena, 1)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 2)), true)
    check('syncForCpu', rig.backend.syncForCpu(m, 0, unit, unit), DMA_OK)
    const expected = before.slice()
    const { streaming } = rig.backend.traits
    if (streaming === 'copied') expected.set(pattern(length, 2).subarray(unit, 2 * unit), AT + unit)
    else expected.set(pattern(length, 2), AT)
    // Where some bytes are copied and some are not, it depends on where the buffer lies.
    const seen = streaming === 'mixed' ? [AT + unit, AT + 2 * unit] : [0, rig.arena.length]
    const wrong = firstDifference(rig.arena.slice(...seen), expected.slice(...seen))
    check('first guest byte that is wrong', wrong, -1)
    rig.takeBack(m, length)
    expected.set(pattern(length, 2), AT)
    check('first guest byte that is wrong after unmap', firstDifference(rig.arena, expected), -1)
  })

  test('syncForDevice does not clobber what the device wrote into a buffer that only it writes (CVE-2022-0854)', (rig) => {
    const { unit, length } = units(rig)
    fillPattern(rig.arena, 3)
    const m = rig.lend(AT, length, FROM_DEVICE)
    rig.deviceWrites(m, pattern(length, 4))
    check('syncForCpu', rig.backend.syncForCpu(m, 0, 0, unit), DMA_OK)
    check('syncForDevice of a part', rig.backend.syncForDevice(m, 0, 0, unit), DMA_OK)
    check('syncForDevice of all', rig.backend.syncForDevice(m, 0, 0, length), DMA_OK)
    rig.takeBack(m, length)
    check(
      'first byte that did not arrive',
      firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 4)),
      -1,
    )
  })

  test('syncForDevice of a part leaves the rest as the device wrote it, in both directions', (rig) => {
    const { unit, length } = units(rig)
    fillPattern(rig.arena, 5)
    const m = rig.lend(AT, length, BIDIRECTIONAL)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 6)), true)
    rig.arena.set(pattern(unit, 7), AT + unit)
    check('syncForDevice', rig.backend.syncForDevice(m, 0, unit, unit), DMA_OK)
    const expected = pattern(length, 6)
    expected.set(pattern(unit, 7), unit)
    check('first difference that the device sees', firstDifference(rig.deviceReads(m), expected), -1)
    rig.takeBack(m, length)
    check('first byte that did not arrive', firstDifference(rig.arena.subarray(AT, AT + length), expected), -1)
  })

  test('syncForDevice shows the device what the CPU wrote in the range [sync-device]', (rig) => {
    const { unit, length } = units(rig)
    fillPattern(rig.arena, 8)
    const before = rig.arena.slice(AT, AT + length)
    const m = rig.lend(AT, length, TO_DEVICE)
    rig.arena.set(pattern(length, 9), AT)
    check('syncForDevice', rig.backend.syncForDevice(m, 0, unit, unit), DMA_OK)
    const { streaming } = rig.backend.traits
    const expected = streaming === 'copied' ? before : pattern(length, 9)
    expected.set(pattern(length, 9).subarray(unit, 2 * unit), unit)
    const seen = streaming === 'mixed' ? [unit, 2 * unit] : [0, length]
    const wrong = firstDifference(rig.deviceReads(m)?.slice(...seen) ?? null, expected.slice(...seen))
    check('first difference that the device sees', wrong, -1)
    rig.takeBack(m, 0)
    check('first guest byte that changed', firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 9)), -1)
  })

  test('an empty sync and a sync of the last bytes work, and syncs are counted', (rig) => {
    const { unit, length } = units(rig)
    const { syncs } = rig.backend.counters
    fillPattern(rig.arena, 10)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, BIDIRECTIONAL)
    for (const [offset, bytes] of [
      [0, 0],
      [length, 0],
      [length - unit, unit],
    ] as const) {
      check(`syncForDevice(${offset}, ${bytes})`, rig.backend.syncForDevice(m, 0, offset, bytes), DMA_OK)
      check(`syncForCpu(${offset}, ${bytes})`, rig.backend.syncForCpu(m, 0, offset, bytes), DMA_OK)
    }
    check('syncs counted', rig.backend.counters.syncs - syncs, 6)
    check('first guest byte that changed', firstDifference(rig.arena, before), -1)
  })

  test('after an early look at part of a buffer, unmap still delivers all of it', (rig) => {
    const { unit, length } = units(rig)
    fillPattern(rig.arena, 11)
    const m = rig.lend(AT, length, FROM_DEVICE)
    rig.deviceWrites(m, pattern(unit, 12))
    rig.backend.syncForCpu(m, 0, 0, unit)
    check('what was there early', firstDifference(rig.arena.subarray(AT, AT + unit), pattern(unit, 12)), -1)
    if (rig.codec === undefined) writeBus(rig.port, m.device[0] + unit, pattern(unit, 13))
    else rig.deviceWrites(m, new Uint8Array([...pattern(unit, 12), ...pattern(unit, 13)]))
    rig.takeBack(m, 2 * unit)
    check('what came later', firstDifference(rig.arena.subarray(AT + unit, AT + 2 * unit), pattern(unit, 13)), -1)
  })
}
