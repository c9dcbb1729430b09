import { BIDIRECTIONAL, DMA_CORRUPT, DMA_OK, DMA_UNMAPPABLE, DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { ADDRESS_LIMIT } from '@guestdma/memory'
import { writeBus } from '../doubles/bus-access.ts'
import {
  fillPattern,
  firstDifference,
  interestingLengths,
  pattern,
  type SchemeRig,
  type SchemeSuite,
  syncParts,
} from './rig.ts'

/** Bytes looked at on both sides of a lent buffer. */
const GUARD = 64

// A long mapping is tried at fewer addresses, to keep the suite short.
const offsets = (length: number): readonly number[] => (length > 8192 ? [0, 5] : [0, 1, 2, 3, 4, 5, 6, 7])

function eachBuffer(rig: SchemeRig, body: (at: number, length: number, where: string) => void): void {
  for (const length of interestingLengths(rig.longest)) {
    for (const offset of offsets(length)) body(4096 + offset, length, `${length} bytes at offset ${offset}`)
  }
}

/** The data path: lend, take back, and nothing else. */
export function describeMappings({ test, check }: SchemeSuite): void {
  const guards = (rig: SchemeRig, at: number, length: number, expected: Uint8Array, where: string): void => {
    const from = at - GUARD
    check(
      `${where}: first difference in the guest's bytes, from ${GUARD} before the buffer`,
      firstDifference(rig.arena.subarray(from, at + length + GUARD), expected),
      -1,
    )
  }

  test('to the device: it sees exactly the lent bytes, at every address modulo 8 [map-lends] [map-overhead]', (rig) => {
    const { limits } = rig.backend
    fillPattern(rig.arena, 1)
    eachBuffer(rig, (at, length, where) => {
      const before = rig.arena.slice(at - GUARD, at + length + GUARD)
      const m = rig.lend(at, length, TO_DEVICE)
      check(
        `${where}: first difference that the device sees`,
        firstDifference(rig.deviceReads(m), before.subarray(GUARD, GUARD + length)),
        -1,
      )
      check(`${where}: deviceLength is at least the length`, m.deviceLength[0] >= length, true)
      check(`${where}: bytes beyond limits.overhead`, Math.max(0, m.deviceLength[0] - length - limits.overhead), 0)
      check(`${where}: beyond maxDeviceAddress`, m.device[0] + m.deviceLength[0] - 1 > limits.maxDeviceAddress, false)
      rig.takeBack(m, 0)
      guards(rig, at, length, before, where)
    })
  })

  test('from the device (ring/used): what it wrote arrives, up to `written`, and the rest is untouched [unmap-written]', (rig) => {
    // In place nothing but the port keeps bytes beyond `written` from the guest, and a tag lies behind what was written:
    // there an honest device is tested.
    const more = rig.backend.traits.streaming === 'copied' && rig.backend.traits.payload === 'plain'
    eachBuffer(rig, (at, length, where) => {
      for (const written of new Set([0, 1, length >>> 1, length - 1, length])) {
        fillPattern(rig.arena.subarray(at - GUARD, at + length + GUARD), 2)
        const expected = rig.arena.slice(at - GUARD, at + length + GUARD)
        const m = rig.lend(at, length, FROM_DEVICE)
        const bytes = pattern(more ? length : written, 3)
        check(`${where}: the port lets the device write`, rig.deviceWrites(m, bytes), true)
        rig.takeBack(m, written)
        expected.set(bytes.subarray(0, written), GUARD)
        guards(rig, at, length, expected, `${where}, ${written} written`)
      }
    })
  })

  test('both directions: it sees the bytes, and what it wrote arrives', (rig) => {
    eachBuffer(rig, (at, length, where) => {
      fillPattern(rig.arena.subarray(at - GUARD, at + length + GUARD), 4)
      const expected = rig.arena.slice(at - GUARD, at + length + GUARD)
      const m = rig.lend(at, length, BIDIRECTIONAL)
      check(
        `${where}: first difference that the device sees`,
        firstDifference(rig.deviceReads(m), expected.subarray(GUARD, GUARD + length)),
        -1,
      )
      const written = (length + 1) >>> 1
      check(`${where}: the port lets the device write`, rig.deviceWrites(m, pattern(written, 5)), true)
      rig.takeBack(m, written)
      expected.set(pattern(written, 5), GUARD)
      guards(rig, at, length, expected, where)
    })
  })

  test('no more than the buffer is delivered, whatever `written` says (ring/used: length clamped) [unmap-clamped]', (rig) => {
    fillPattern(rig.arena, 6)
    const expected = rig.arena.slice(4096 - GUARD, 4096 + 100 + GUARD)
    const m = rig.lend(4096, 100, FROM_DEVICE)
    rig.deviceWrites(m, pattern(100, 7))
    const status = rig.backend.unmap(m, 0, 0xffff_ffff)
    check('unmap says Ok or Corrupt', status === DMA_OK || status === DMA_CORRUPT ? 'yes' : status, 'yes')
    check('commitUnmaps', rig.backend.commitUnmaps(), DMA_OK)
    // Refused: nothing is delivered. In place the device wrote it there itself.
    if (status === DMA_OK || rig.backend.traits.streaming !== 'copied') expected.set(pattern(100, 7), GUARD)
    guards(rig, 4096, 100, expected, 'a written length of 2^32 - 1')
  })

  test('what fails the check of a backend is Corrupt and not delivered, and plain payload has no check [unmap-corrupt]', (rig) => {
    const { backend } = rig
    const length = Math.min(100, rig.longest)
    for (let round = 0; round < 3; round++) {
      fillPattern(rig.arena, 9)
      const expected = rig.arena.slice(4096 - GUARD, 4096 + length + GUARD)
      const { corrupt, maps, unmaps } = backend.counters
      const m = rig.lend(4096, length, FROM_DEVICE)
      const onBus = rig.codec === undefined ? pattern(length, 10) : rig.codec.seal(pattern(length, 10))
      onBus[length >>> 1] ^= 0x10
      check('the port lets the device write', writeBus(rig.port, m.device[0], onBus), onBus.length)
      const status = backend.unmap(m, 0, length)
      const expectable = backend.traits.payload === 'plain' ? [DMA_OK] : [DMA_OK, DMA_CORRUPT]
      check('unmap of bytes that were changed on their way', expectable.includes(status) ? 'yes' : status, 'yes')
      check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
      check('corrupt counted', backend.counters.corrupt - corrupt, status === DMA_CORRUPT ? 1 : 0)
      check('live', backend.counters.maps - backend.counters.unmaps - (maps - unmaps), 0)
      if (status === DMA_CORRUPT && backend.traits.streaming === 'copied')
        guards(rig, 4096, length, expected, 'bytes that failed the check')
    }
    // What was refused has no other effect.
    const m = rig.lend(4096, length, FROM_DEVICE)
    check('the port lets the device write', rig.deviceWrites(m, pattern(length, 11)), true)
    rig.takeBack(m, length)
    const arrived = rig.arena.subarray(4096, 4096 + length)
    check('first byte that did not arrive afterwards', firstDifference(arrived, pattern(length, 11)), -1)
  })

  test('where nothing was written, or only the device reads, unmap has nothing to check and is Ok [unmap-unchecked]', (rig) => {
    const { backend } = rig
    const { corrupt } = backend.counters
    for (const direction of [FROM_DEVICE, BIDIRECTIONAL, TO_DEVICE] as const) {
      fillPattern(rig.arena, 12)
      const before = rig.arena.slice(4096 - GUARD, 4096 + 100 + GUARD)
      const m = rig.lend(4096, 100, direction)
      check(`unmap, direction ${direction}`, backend.unmap(m, 0, direction === TO_DEVICE ? 100 : 0), DMA_OK)
      check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
      guards(rig, 4096, 100, before, `direction ${direction}`)
    }
    const sent = rig.lend(4096, 100, TO_DEVICE)
    writeBus(rig.port, sent.device[0], pattern(100, 13))
    check('unmap of what the device overwrote although it may only read it', backend.unmap(sent, 0, 100), DMA_OK)
    check('commitUnmaps', backend.commitUnmaps(), DMA_OK)
    check('corrupt counted', backend.counters.corrupt, corrupt)
  })

  test('an address that is not guest memory is Unmappable, and nothing is mapped [map-unmappable]', ({
    backend,
    machine,
  }) => {
    const { base, end } = machine.memory.ranges[0]
    const m = new DmaMappings(1)
    const cases: ReadonlyArray<readonly [number, number]> = [
      [0, 1],
      [base - 1, 1],
      [base - 1, 2],
      [end - 1, 2],
      [end, 1],
      [end - 64, 65],
      [base + 2 ** 32, 8],
      [base + 2 ** 33, 8],
      [ADDRESS_LIMIT - 8, 8],
    ]
    for (const [guest, length] of cases) {
      const { maps, unmappable } = backend.counters
      m.guest[0] = guest
      m.length[0] = length
      m.direction[0] = FROM_DEVICE
      check(`map of ${length} bytes at ${guest}`, backend.map(m, 0), DMA_UNMAPPABLE)
      check('maps and unmappable', [backend.counters.maps - maps, backend.counters.unmappable - unmappable], [0, 1])
    }
    check('the last byte of guest memory', lastByte(backend, m, end), DMA_OK)
  })

  test('commits say Ok, also when there is nothing to commit [commit-empty]', (rig) => {
    const { backend } = rig
    const { commitMaps, commitUnmaps } = backend.counters
    check('commitMaps of nothing', backend.commitMaps(), DMA_OK)
    check('commitUnmaps of nothing', backend.commitUnmaps(), DMA_OK)
    rig.takeBack(rig.lend(4096, 8, BIDIRECTIONAL), 0)
    check(
      'commits counted',
      [backend.counters.commitMaps - commitMaps, backend.counters.commitUnmaps - commitUnmaps],
      [2, 2],
    )
  })

  test('counters add up [counters]', (rig) => {
    const { backend } = rig
    const start = { ...backend.counters }
    const both = backend.limits.maxLiveMappings >= 2
    const sent = rig.lend(4096, 100, TO_DEVICE)
    if (!both) rig.takeBack(sent, 0)
    const received = rig.lend(8192, 300, FROM_DEVICE)
    check('live after two maps', live(rig) - (start.maps - start.unmaps), both ? 2 : 1)
    if (both) rig.takeBack(sent, 0)
    check('the port lets the device write', rig.deviceWrites(received, pattern(77, 14)), true)
    rig.takeBack(received, 77)
    const now = backend.counters
    check('live after two unmaps', live(rig) - (start.maps - start.unmaps), 0)
    const { streaming } = backend.traits
    const copied = streaming === 'copied'
    const moved = [
      now.bytesCopiedToDevice - start.bytesCopiedToDevice,
      now.bytesCopiedFromDevice - start.bytesCopiedFromDevice,
    ]
    if (streaming === 'mixed') check('bytes copied and not lent', moved[0] > 100 || moved[1] > 77, false)
    else if (backend.limits.overhead === 0)
      check('bytes copied to and from the device', moved, copied ? [100, 77] : [0, 0])
    else if (copied) check('all bytes copied were counted', moved[0] >= 100 && moved[1] >= 77, true)
    check(
      'failures counted',
      [now.exhausted, now.tooLong, now.unmappable, now.corrupt],
      [start.exhausted, start.tooLong, start.unmappable, start.corrupt],
    )
  })

  test('counters: syncs count the bytes that they copy', (rig) => {
    const { backend } = rig
    const { length, from, to } = syncParts(rig)
    const m = rig.lend(4096, length, BIDIRECTIONAL)
    const start = { ...backend.counters }
    check('syncForDevice', backend.syncForDevice(m, 0, from, to - from), DMA_OK)
    check('syncForCpu', backend.syncForCpu(m, 0, from, to - from), DMA_OK)
    const now = backend.counters
    const least = backend.traits.streaming === 'copied' ? to - from : 0
    check(
      'every byte copied for the device was counted',
      now.bytesCopiedToDevice - start.bytesCopiedToDevice >= least,
      true,
    )
    check(
      'every byte copied for the CPU was counted',
      now.bytesCopiedFromDevice - start.bytesCopiedFromDevice >= least,
      true,
    )
    rig.takeBack(m, 0)
  })

  test('counters: bytes that are cleared, so that nothing old arrives, are counted', (rig) => {
    const { backend } = rig
    const { streaming, payload, residue } = backend.traits
    const start = { ...backend.counters }
    fillPattern(rig.arena, 8)
    // All that there is gets dirty first: memory that was never used may need no clearing.
    const length = Math.min(1024, rig.longest)
    const rounds = Math.min(4096, 2 * backend.limits.maxLiveMappings)
    for (let i = 0; i < rounds; i++) rig.takeBack(rig.lend(4096, length, TO_DEVICE), 0)
    let zeros = false
    for (let i = 0; i < 4; i++) {
      const m = rig.lend(4096, length, FROM_DEVICE)
      zeros = rig.deviceReads(m)?.every((byte) => byte === 0) ?? false
      // The device wrote nothing: who checks what it says calls that corrupt.
      backend.unmap(m, 0, length)
      backend.commitUnmaps()
    }
    const { bytesCleared } = backend.counters
    // Who copies the guest's own bytes over the old ones needs no clearing.
    const claims = residue === 'none' || residue === 'own-writes'
    const clears = zeros && streaming === 'copied' && payload === 'plain' && claims
    if (clears) check('bytes cleared were counted', bytesCleared - start.bytesCleared >= length, true)
    if (streaming === 'in-place') check('bytes cleared', bytesCleared - start.bytesCleared, 0)
  })
}

function live({ backend }: SchemeRig): number {
  return backend.counters.maps - backend.counters.unmaps
}

function lastByte(backend: SchemeRig['backend'], m: DmaMappings, end: number): number {
  m.guest[0] = end - 1
  m.length[0] = 1
  return backend.map(m, 0)
}
