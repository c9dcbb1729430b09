import { DMA_EXHAUSTED, DMA_OK, type DmaDirection, DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { fillPattern, firstDifference, pattern, type SchemeRig, type SchemeSuite } from './rig.ts'

/** As many mappings as this are tried at once, where the backend can hold them and the arena has room. */
const MOST = 16

/** Mappings that live at once, of one device and of two. */
export function describeTogether({ test, check }: SchemeSuite): void {
  // The device fills the rows that only it writes; `expected` becomes what guest memory holds in the end.
  const write = (rig: SchemeRig, m: DmaMappings, rows: number, seed: number, expected: Uint8Array): void => {
    for (let row = 0; row < rows; row++) {
      if (direction(row) !== FROM_DEVICE) continue
      const bytes = pattern(m.length[row], seed + row)
      check(`the device writes row ${row}`, rig.deviceWrites(m, bytes, row), true)
      expected.set(bytes, m.guest[row] - rig.machine.arenaBase)
    }
  }

  const readAndTakeBack = (rig: SchemeRig, m: DmaMappings, rows: number, expected: Uint8Array): void => {
    for (let row = 0; row < rows; row++) {
      if (direction(row) !== TO_DEVICE) continue
      const at = m.guest[row] - rig.machine.arenaBase
      const lent = expected.subarray(at, at + m.length[row])
      check(`first difference that the device sees in row ${row}`, firstDifference(rig.deviceReads(m, row), lent), -1)
    }
    // In another order than they were mapped in.
    for (let row = rows - 1; row >= 0; row--)
      check(`unmap of row ${row}`, rig.backend.unmap(m, row, m.length[row]), DMA_OK)
    check('commitUnmaps', rig.backend.commitUnmaps(), DMA_OK)
  }

  for (const size of ['short', 'a page long', 'the longest'] as const) {
    test(`mappings that live together keep to themselves, ${size}`, (rig) => {
      const length = lengthOf(rig, size)
      fillPattern(rig.arena, 10)
      const m = new DmaMappings(MOST)
      const room = Math.min(MOST, Math.floor((rig.arena.length - 4096) / (length + GAP)))
      const { maxLiveMappings, assuredMappings } = rig.backend.limits
      let rows = 0
      while (rows < room) {
        const status = rig.map(m, rows, 4096 + (length + GAP) * rows, length, direction(rows))
        if (status === DMA_EXHAUSTED) break
        check(`map of row ${rows}`, status, DMA_OK)
        rows++
      }
      check('fewer mappings than assured', rows < Math.min(room, maxLiveMappings, assuredMappings), false)
      check('commitMaps', rig.backend.commitMaps(), DMA_OK)
      const expected = rig.arena.slice()
      write(rig, m, rows, 20, expected)
      readAndTakeBack(rig, m, rows, expected)
      check('first guest byte that is wrong', firstDifference(rig.arena, expected), -1)
    })

    test(`mappings of two devices that live at once keep to themselves, ${size}`, async (rig) => {
      const other = await rig.another()
      const length = lengthOf(rig, size)
      fillPattern(rig.arena, 11)
      const [own, others] = [new DmaMappings(MOST), new DmaMappings(MOST)]
      const room = Math.min(MOST, Math.floor((rig.arena.length - 4096) / (length + GAP) / 2))
      let [rows, otherRows] = [0, 0]
      // By turns, so that each gets some of what the two share.
      for (let i = 0; i < room; i++) {
        const at = 4096 + 2 * i * (length + GAP)
        if (rows === i && rig.map(own, i, at, length, direction(i)) === DMA_OK) rows++
        if (otherRows === i && other.map(others, i, at + length + GAP, length, direction(i)) === DMA_OK) otherRows++
      }
      check('mappings of one device', rows >= 1, true)
      check('commitMaps', [rig.backend.commitMaps(), other.backend.commitMaps()], [DMA_OK, DMA_OK])
      // Both devices write before anything is looked at or taken back.
      const expected = rig.arena.slice()
      write(rig, own, rows, 20, expected)
      write(other, others, otherRows, 70, expected)
      readAndTakeBack(rig, own, rows, expected)
      readAndTakeBack(other, others, otherRows, expected)
      check('first guest byte that is wrong', firstDifference(rig.arena, expected), -1)
    })
  }

  test('a neighbour in the same granule stays lent when the other is taken back', (rig) => {
    const { maxLiveMappings } = rig.backend.limits
    if (maxLiveMappings < 2) return
    const first = rig.lend(4096, 40, TO_DEVICE)
    const second = rig.lend(4136, 40, TO_DEVICE)
    const same = maxLiveMappings < 3 ? null : rig.lend(4096, 40, TO_DEVICE)
    rig.takeBack(first, 0)
    check('the neighbour', firstDifference(rig.deviceReads(second), rig.arena.slice(4136, 4176)), -1)
    if (same !== null)
      check('the same bytes, lent twice', firstDifference(rig.deviceReads(same), rig.arena.slice(4096, 4136)), -1)
  })
}

/** Bytes between the buffers, not a multiple of any slot. */
const GAP = 56

function direction(row: number): DmaDirection {
  return row % 2 === 0 ? TO_DEVICE : FROM_DEVICE
}

function lengthOf(rig: SchemeRig, size: 'short' | 'a page long' | 'the longest'): number {
  const longest = Math.min(rig.longest, Math.floor((rig.arena.length - 4096) / 4) - GAP)
  return size === 'short' ? Math.min(150, longest) : size === 'a page long' ? Math.min(4096, longest) : longest
}
