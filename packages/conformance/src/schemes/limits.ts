import {
  BIDIRECTIONAL,
  DMA_EXHAUSTED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  DmaMappings,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { codeThrownBy } from '../runner/test-functions.ts'
import type { SchemeRig, SchemeSuite } from './rig.ts'

/** More live mappings than this are not tried: a backend that holds them all is taken to have no limit. */
const BOUND = 2304

/** Of mappings that are declared as assured, no more than this are tried. */
const ASSURED_BOUND = 4 * BOUND

/** Limits that are declared, and what happens at them. */
export function describeLimits({ test, check }: SchemeSuite): void {
  test('limits are what they can be', ({ backend }) => {
    const {
      granule,
      maxMappingLength,
      maxLiveMappings,
      assuredMappings,
      overhead,
      syncGranule,
      staleEntries,
      staleNs,
    } = backend.limits
    const whole = (value: number): boolean => Number.isInteger(value) || value === Infinity
    check('granule is a power of two', Number.isInteger(Math.log2(granule)), true)
    check('syncGranule is a power of two', Number.isInteger(Math.log2(syncGranule)), true)
    check(
      'maxMappingLength fits a descriptor',
      maxMappingLength >= 1 && maxMappingLength <= 0xffff_ffff && whole(maxMappingLength),
      true,
    )
    check('maxLiveMappings', maxLiveMappings >= 1 && whole(maxLiveMappings), true)
    check(
      'assuredMappings, at most maxLiveMappings',
      assuredMappings >= 1 && whole(assuredMappings) && assuredMappings <= maxLiveMappings,
      true,
    )
    check('overhead', overhead >= 0 && Number.isInteger(overhead), true)
    check('staleEntries and staleNs', staleEntries >= 0 && whole(staleEntries) && staleNs >= 0, true)
  })

  test('a mapping of maxMappingLength can be had at every address modulo 8', (rig) => {
    for (let offset = 0; offset < 8; offset++) {
      const m = new DmaMappings(1)
      check(`status at offset ${offset}`, rig.map(m, 0, 4096 + offset, rig.longest, BIDIRECTIONAL), DMA_OK)
      check('commitMaps', rig.backend.commitMaps(), DMA_OK)
      rig.takeBack(m, 0)
    }
  })

  test('a mapping beyond maxMappingLength is Ok or TooLong, never Exhausted, and a refusal takes nothing [map-too-long]', (rig) => {
    const { limits, counters } = rig.backend
    const m = new DmaMappings(1)
    const start = { ...counters }
    let refused = 0
    for (const beyond of [1, 2, 7, 8, 9, 4096, rig.arena.length]) {
      const length = Math.min(limits.maxMappingLength + beyond, rig.arena.length)
      for (let round = 0; round < 100; round++) {
        const status = rig.map(m, 0, 0, length, FROM_DEVICE)
        check(
          `map of ${length} bytes is Ok or TooLong`,
          status === DMA_OK || status === DMA_TOO_LONG ? 'yes' : status,
          'yes',
        )
        if (status === DMA_OK) rig.takeBack(m, 0)
        else refused++
      }
    }
    const now = rig.backend.counters
    check('tooLong counted', now.tooLong - start.tooLong, refused)
    check('live', now.maps - now.unmaps - (start.maps - start.unmaps), 0)
    rig.takeBack(rig.lend(4096, rig.longest, TO_DEVICE), 0)
  })

  test('TooLong is for good: a length up to maxMappingLength never gets it, and what got it gets it where nothing is left [map-too-long]', (rig) => {
    const m = new DmaMappings(1)
    const beyond = [1, 8, 4096].map((more) => Math.min(rig.longest + more, rig.arena.length))
    const refused = beyond.filter((length) => {
      const status = rig.map(m, 0, 0, length, FROM_DEVICE)
      if (status === DMA_OK) rig.takeBack(m, 0)
      return status === DMA_TOO_LONG
    })
    const held = new DmaMappings(BOUND)
    const { rows } = fill(rig, held, 64)
    for (const length of new Set([1, 64, rig.longest - 1, rig.longest])) {
      const status = rig.map(m, 0, 0, length, FROM_DEVICE)
      check(
        `map of ${length} bytes where nothing is left`,
        status === DMA_TOO_LONG ? 'TooLong' : 'not TooLong',
        'not TooLong',
      )
      if (status === DMA_OK) rig.takeBack(m, 0)
    }
    for (const length of refused)
      check(`map of ${length} bytes again, where nothing is left`, rig.map(m, 0, 0, length, FROM_DEVICE), DMA_TOO_LONG)
    release(rig, held, rows)
  })

  for (const size of ['small', 'the longest'] as const) {
    test(`mappings until none is left, ${size}: Exhausted, and a retry works after an unmap [map-exhausted]`, (rig) => {
      const { backend } = rig
      const length = size === 'small' ? 64 : rig.longest
      const m = new DmaMappings(BOUND)
      const { maps, unmaps, exhausted } = backend.counters
      const held = fill(rig, m, length)
      check('commitMaps', backend.commitMaps(), DMA_OK)
      check('live mappings counted', backend.counters.maps - backend.counters.unmaps - (maps - unmaps), held.rows)
      check('more live mappings than declared', held.rows > backend.limits.maxLiveMappings, false)
      check('at least one', held.rows >= 1, true)
      if (held.rows < BOUND) {
        check('status where none is left', held.status, DMA_EXHAUSTED)
        // A refused map must not keep anything: the thousandth has no other effect than the first.
        for (let i = 0; i < 1000; i++)
          check('status again', rig.map(m, held.rows, 4, length, FROM_DEVICE), DMA_EXHAUSTED)
        check('exhausted counted', backend.counters.exhausted - exhausted, 1001)
        rig.takeBack(m, 0, 0)
        check('status after one came back', rig.map(m, 0, 0, length, FROM_DEVICE), DMA_OK)
        check('commitMaps', backend.commitMaps(), DMA_OK)
      }
      for (let row = 0; row < held.rows; row++) check(`unmap of row ${row}`, backend.unmap(m, row, 0), DMA_OK)
      check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
      check('as many fit as before', fill(rig, m, length).rows, held.rows)
    })
  }

  test('posted receive buffers leave room for a request of maxMappingLength (no deadlock)', async (rig) => {
    const other = await rig.another()
    for (const length of [64, 2048, Math.ceil(rig.longest / 2)]) {
      const [own, others] = [new DmaMappings(BOUND, true), new DmaMappings(BOUND, true)]
      const held = fill(rig, own, length)
      const heldByOther = fill(other, others, length)
      check('status where none is left', held.rows === BOUND ? DMA_EXHAUSTED : held.status, DMA_EXHAUSTED)
      for (const requester of [rig, other]) {
        for (const offset of [0, 7]) {
          const m = new DmaMappings(1)
          const status = requester.map(m, 0, 4096 + offset, requester.longest, BIDIRECTIONAL)
          check(`request at offset ${offset} beside standing buffers of ${length} bytes`, status, DMA_OK)
          requester.takeBack(m, 0)
        }
      }
      release(rig, own, held.rows)
      release(other, others, heldByOther.rows)
    }
  })

  for (const beside of ['posted receive buffers', 'allocations and posted receive buffers'] as const) {
    test(`as many mappings of maxMappingLength as assured can be held at once, beside ${beside}`, async (rig) => {
      const other = await rig.another()
      const { backend } = rig
      if (beside !== 'posted receive buffers') {
        for (const bytes of [65_536, 4096])
          for (let i = 0; i < 512; i++)
            if (codeThrownBy(() => backend.alloc(bytes, 16, TO_DEVICE, 'ring')) === 'DMA_ALLOC') break
      }
      // Not all of guest memory is the tests' own: beyond the arena a mapping is not tried.
      const length = Math.min(backend.limits.maxMappingLength, rig.arena.length - 8)
      for (const posted of [64, length]) {
        const [own, others] = [new DmaMappings(BOUND, true), new DmaMappings(BOUND, true)]
        const held = fill(rig, own, posted)
        const heldByOther = fill(other, others, posted)
        const assured = Math.min(backend.limits.assuredMappings, ASSURED_BOUND)
        const m = new DmaMappings(assured)
        let rows = 0
        while (rows < assured && rig.map(m, rows, rows % 8, length, BIDIRECTIONAL) === DMA_OK) rows++
        check(`mappings of ${length} bytes beside standing ones of ${posted} bytes`, rows, assured)
        check('commitMaps', backend.commitMaps(), DMA_OK)
        release(rig, m, rows)
        release(rig, own, held.rows)
        release(other, others, heldByOther.rows)
      }
    })
  }

  for (const standing of [false, true]) {
    test(`a refusal as Unmappable takes nothing${standing ? ', from standing mappings either' : ''} [map-undo]`, (rig) => {
      const { base, end } = rig.machine.memory.ranges[0]
      const m = new DmaMappings(BOUND, standing)
      const before = fill(rig, m, 64).rows
      release(rig, m, before)
      // More rounds than there are slots, so that one slot lost each time leaves none.
      for (let round = 0; round < before + 64; round++) {
        m.guest[0] = round % 2 === 0 ? end - 1 : base - 1
        m.length[0] = 2 + (round % 7)
        m.direction[0] = 1 + (round % 3)
        check('status', rig.backend.map(m, 0), DMA_UNMAPPABLE)
      }
      check('as many fit as before', fill(rig, m, 64).rows, before)
    })
  }

  test('a standing mapping can be had where nothing else is held, and comes back to be had again', (rig) => {
    const m = new DmaMappings(BOUND, true)
    const first = fill(rig, m, 1600).rows
    check('at least one', first >= 1, true)
    release(rig, m, first)
    check('as many fit as before', fill(rig, m, 1600).rows, first)
  })

  test('allocations leave room for a request of maxMappingLength', (rig) => {
    const { backend } = rig
    for (const bytes of [65_536, 4096]) {
      let code = 'nothing was thrown'
      for (let i = 0; i < 512 && code === 'nothing was thrown'; i++)
        code = codeThrownBy(() => backend.alloc(bytes, 16, TO_DEVICE, 'ring'))
      check('what ended the allocations', code === 'nothing was thrown' ? 'DMA_ALLOC' : code, 'DMA_ALLOC')
    }
    rig.takeBack(rig.lend(4101, rig.longest, BIDIRECTIONAL), 0)
    check('live', backend.counters.maps - backend.counters.unmaps, 0)
  })
}

/** Maps rows until one is refused, or all. */
function fill(rig: SchemeRig, m: DmaMappings, length: number): { rows: number; status: number } {
  const span = Math.min(rig.arena.length - length, 65536)
  for (let row = 0; row < m.rows; row++) {
    const status = rig.map(m, row, (row * 72) % (span + 1), length, FROM_DEVICE)
    if (status !== DMA_OK) return { rows: row, status }
  }
  return { rows: m.rows, status: DMA_OK }
}

function release(rig: SchemeRig, m: DmaMappings, rows: number): void {
  rig.backend.commitMaps()
  for (let row = 0; row < rows; row++) rig.backend.unmap(m, row, 0)
  rig.backend.commitUnmaps()
}
