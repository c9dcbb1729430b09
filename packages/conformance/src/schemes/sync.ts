import { BIDIRECTIONAL, DMA_CORRUPT, DMA_OK, DMA_UNMAPPABLE, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { writeBus } from '../doubles/bus-access.ts'
import { fillPattern, firstDifference, pattern, type SchemeSuite, syncParts } from './rig.ts'

const AT = 4096

/** Syncs of a live mapping, partial ones above all: CVE-2022-0854 and its first fix. */
export function describeSync({ test, check }: SchemeSuite): void {
  test('syncForCpu shows what the device wrote in the range, and changes nothing else [sync-cpu]', (rig) => {
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 1)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 2)), true)
    check('syncForCpu', rig.backend.syncForCpu(m, 0, from, to - from), DMA_OK)
    const expected = before.slice()
    const { streaming } = rig.backend.traits
    if (streaming === 'copied') expected.set(pattern(length, 2).subarray(from, to), AT + from)
    else expected.set(pattern(length, 2), AT)
    // Where some bytes are copied and some are not, it depends on where the buffer lies.
    const seen = streaming === 'mixed' ? [AT + from, AT + to] : [0, rig.arena.length]
    const wrong = firstDifference(rig.arena.slice(...seen), expected.slice(...seen))
    check('first guest byte that is wrong', wrong, -1)
    rig.takeBack(m, length)
    expected.set(pattern(length, 2), AT)
    check('first guest byte that is wrong after unmap', firstDifference(rig.arena, expected), -1)
  })

  test('syncForDevice does not clobber what the device wrote into a buffer that only it writes (CVE-2022-0854) [sync-direction]', (rig) => {
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 3)
    const m = rig.lend(AT, length, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 4)), true)
    check('syncForCpu', rig.backend.syncForCpu(m, 0, from, to - from), DMA_OK)
    check('syncForDevice of a part', rig.backend.syncForDevice(m, 0, from, to - from), DMA_OK)
    check('syncForDevice of all', rig.backend.syncForDevice(m, 0, 0, length), DMA_OK)
    rig.takeBack(m, length)
    check(
      'first byte that did not arrive',
      firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 4)),
      -1,
    )
  })

  test('syncForCpu does not deliver what the device wrote into a buffer that it only reads [sync-direction]', (rig) => {
    if (rig.backend.traits.readOnly !== 'enforced') return
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 14)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, TO_DEVICE)
    rig.deviceWrites(m, pattern(length, 15))
    check('syncForCpu', rig.backend.syncForCpu(m, 0, from, to - from), DMA_OK)
    check('first guest byte that changed', firstDifference(rig.arena, before), -1)
    rig.takeBack(m, 0)
  })

  test('syncForDevice of a part leaves the rest as the device wrote it, in both directions', (rig) => {
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 5)
    const m = rig.lend(AT, length, BIDIRECTIONAL)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 6)), true)
    rig.arena.set(pattern(to - from, 7), AT + from)
    check('syncForDevice', rig.backend.syncForDevice(m, 0, from, to - from), DMA_OK)
    const expected = pattern(length, 6)
    expected.set(pattern(to - from, 7), from)
    check('first difference that the device sees', firstDifference(rig.deviceReads(m), expected), -1)
    rig.takeBack(m, length)
    check('first byte that did not arrive', firstDifference(rig.arena.subarray(AT, AT + length), expected), -1)
  })

  test('syncForDevice shows the device what the CPU wrote in the range [sync-device]', (rig) => {
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 8)
    const before = rig.arena.slice(AT, AT + length)
    const m = rig.lend(AT, length, TO_DEVICE)
    rig.arena.set(pattern(length, 9), AT)
    check('syncForDevice', rig.backend.syncForDevice(m, 0, from, to - from), DMA_OK)
    const { streaming } = rig.backend.traits
    const expected = streaming === 'copied' ? before : pattern(length, 9)
    expected.set(pattern(length, 9).subarray(from, to), from)
    const seen = streaming === 'mixed' ? [from, to] : [0, length]
    const wrong = firstDifference(rig.deviceReads(m)?.slice(...seen) ?? null, expected.slice(...seen))
    check('first difference that the device sees', wrong, -1)
    rig.takeBack(m, 0)
    check('first guest byte that changed', firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 9)), -1)
  })

  test('an empty sync and a sync of the last bytes work, and syncs are counted', (rig) => {
    const { length, from, to } = syncParts(rig)
    const { syncs } = rig.backend.counters
    fillPattern(rig.arena, 10)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, BIDIRECTIONAL)
    for (const [offset, bytes] of [
      [0, 0],
      [length, 0],
      [length - (to - from), to - from],
    ] as const) {
      check(`syncForDevice(${offset}, ${bytes})`, rig.backend.syncForDevice(m, 0, offset, bytes), DMA_OK)
      check(`syncForCpu(${offset}, ${bytes})`, rig.backend.syncForCpu(m, 0, offset, bytes), DMA_OK)
    }
    check('syncs counted', rig.backend.counters.syncs - syncs, 6)
    check('first guest byte that changed', firstDifference(rig.arena, before), -1)
  })

  test('a sync of a range that is not within the mapping is Unmappable, in every direction, and copies nothing [sync-range]', (rig) => {
    const { length, from, to } = syncParts(rig)
    const part = to - from
    const ranges: ReadonlyArray<readonly [offset: number, bytes: number]> = [
      [0, length + part],
      [length, part],
      [length + part, 0],
      [length - part, 2 * part],
      [-part, part],
      [-part, length],
      [2 ** 32, part],
      [0, 2 ** 32 + part],
      [part, -part],
    ]
    for (const direction of [TO_DEVICE, FROM_DEVICE, BIDIRECTIONAL] as const) {
      fillPattern(rig.arena, 16)
      const m = rig.lend(AT, length, direction)
      const lent = rig.deviceReads(m)?.slice()
      if (rig.backend.traits.streaming === 'copied') fillPattern(rig.arena, 17)
      const before = rig.arena.slice()
      for (const [offset, bytes] of ranges) {
        const where = `(${offset}, ${bytes}) of ${length} bytes, direction ${direction}`
        check(`syncForDevice${where}`, rig.backend.syncForDevice(m, 0, offset, bytes), DMA_UNMAPPABLE)
        check(`syncForCpu${where}`, rig.backend.syncForCpu(m, 0, offset, bytes), DMA_UNMAPPABLE)
      }
      check('first guest byte that changed', firstDifference(rig.arena, before), -1)
      const seen = rig.deviceReads(m)
      if (lent !== undefined) check('first difference that the device sees', firstDifference(seen, lent), -1)
      rig.takeBack(m, 0)
    }
  })

  test('a sync of what fails the check of a backend is Ok or Corrupt, which delivers nothing, and the row stays live [sync-corrupt]', (rig) => {
    if (rig.codec === undefined) return
    const { length } = syncParts(rig)
    fillPattern(rig.arena, 18)
    const before = rig.arena.slice()
    const m = rig.lend(AT, length, FROM_DEVICE)
    const onBus = rig.codec.seal(pattern(length, 19))
    onBus[length >>> 1] ^= 0x10
    check('the port lets the device write', writeBus(rig.port, m.device[0], onBus), onBus.length)
    const status = rig.backend.syncForCpu(m, 0, 0, length)
    check('syncForCpu is Ok or Corrupt', status === DMA_OK || status === DMA_CORRUPT ? 'yes' : status, 'yes')
    if (status === DMA_CORRUPT && rig.backend.traits.streaming === 'copied')
      check('first guest byte that changed', firstDifference(rig.arena, before), -1)
    check('the port lets the device write again', rig.deviceWrites(m, pattern(length, 19)), true)
    rig.takeBack(m, length)
    const arrived = rig.arena.subarray(AT, AT + length)
    check('first byte that did not arrive', firstDifference(arrived, pattern(length, 19)), -1)
  })

  test('after an early look at part of a buffer, unmap still delivers all of it', (rig) => {
    const { length, from, to } = syncParts(rig)
    fillPattern(rig.arena, 11)
    const m = rig.lend(AT, length, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 12)), true)
    check('syncForCpu', rig.backend.syncForCpu(m, 0, from, to - from), DMA_OK)
    const early = rig.arena.subarray(AT + from, AT + to)
    check('what was there early', firstDifference(early, pattern(length, 12).subarray(from, to)), -1)
    check('the port lets the device write again', rig.deviceWrites(m, pattern(length, 13)), true)
    rig.takeBack(m, length)
    check('what came later', firstDifference(rig.arena.subarray(AT, AT + length), pattern(length, 13)), -1)
  })
}
