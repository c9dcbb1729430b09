import { type DmaBackend, DmaMappings } from '@guestdma/dma'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { BouncingBackend, BouncingSlots, CheckedBackend, checked, FaultyBackend, TestMachine } from '../src/index.ts'
import { codeThrownBy } from '../src/runner/test-functions.ts'

let faulty: FaultyBackend
let backend: CheckedBackend
let m: DmaMappings
let base: number

beforeEach(() => {
  const { memory, arenaBase } = new TestMachine({ ramBytes: 1 << 20, arenaBytes: 1 << 16 })
  base = arenaBase
  faulty = new FaultyBackend(new BouncingBackend(memory, new BouncingSlots(64, 512)))
  backend = checked(faulty)
  m = new DmaMappings(4)
  for (let row = 0; row < 4; row++) fillRow(row)
})

function fillRow(row: number): void {
  m.guest[row] = base + 1024 * row
  m.length[row] = 100
  m.direction[row] = 3
}

describe('CheckedBackend lets a correct caller pass', () => {
  test('map, sync, unmap, commit, and again; alloc and free; dispose', () => {
    const region = backend.alloc(100, 16, 1, 'ring')
    for (let round = 0; round < 3; round++) {
      expect([backend.map(m, 0), backend.map(m, 1), backend.commitMaps()]).toEqual([0, 0, 0])
      expect(backend.liveMappings).toBe(2)
      expect([backend.syncForCpu(m, 0, 10, 90), backend.syncForDevice(m, 1, 0, 100)]).toEqual([0, 0])
      expect([backend.unmap(m, 0, 100), backend.unmap(m, 1, 0)]).toEqual([0, 0])
      expect([backend.liveMappings, backend.uncommitted]).toEqual([0, 2])
      expect(backend.commitUnmaps()).toBe(0)
    }
    backend.free(region)
    expect(codeThrownBy(() => backend.dispose())).toBe('nothing was thrown')
  })

  test('a map that failed may be tried again', () => {
    faulty.failMap = 1
    expect([backend.map(m, 0), backend.map(m, 0)]).toEqual([-1, 0])
  })

  test('a region is left to dispose after a commit of unmaps that failed', () => {
    backend.alloc(64, 8, 1, 'ring')
    backend.map(m, 0)
    backend.commitMaps()
    backend.unmap(m, 0, 0)
    faulty.failCommitUnmaps = 1
    expect(backend.commitUnmaps()).toBe(-5)
    expect(codeThrownBy(() => backend.dispose())).toBe('nothing was thrown')
  })

  test('dispose is called again after one that threw, since the device may still have reached something', () => {
    const dispose = vi.spyOn(faulty, 'dispose').mockImplementationOnce(() => {
      throw new Error('no answer')
    })
    expect(codeThrownBy(() => backend.dispose())).toBe('not a GuestDmaError: Error: no answer')
    expect(codeThrownBy(() => backend.dispose())).toBe('nothing was thrown')
    expect(dispose).toHaveBeenCalledTimes(2)
  })

  test('it shows what it wraps', () => {
    const inner: DmaBackend = faulty
    expect([backend.name, backend.traits, backend.limits]).toEqual([inner.name, inner.traits, inner.limits])
    expect(new CheckedBackend(faulty).counters).toEqual(inner.counters)
  })
})

describe('CheckedBackend catches a caller that', () => {
  const mapped = (row = 0): void => void backend.map(m, row)
  const back = (row = 0): void => {
    backend.unmap(m, row, 0)
    backend.commitUnmaps()
  }
  const cases: ReadonlyArray<readonly [what: string, code: string, before: () => void, error: () => unknown]> = [
    ['maps twice', 'CHECK_MAPPED', mapped, () => backend.map(m, 0)],
    ['maps a row that is not there', 'CHECK_NOT_MAPPED', () => {}, () => backend.map(m, 4)],
    ['maps no byte', 'CHECK_LENGTH', () => void m.length.fill(0), () => backend.map(m, 0)],
    ['maps in no direction', 'CHECK_DIRECTION', () => void m.direction.fill(0), () => backend.map(m, 0)],
    ['unmaps what was never mapped', 'CHECK_NOT_MAPPED', () => {}, () => backend.unmap(m, 0, 0)],
    [
      'unmaps twice',
      'CHECK_NOT_MAPPED',
      () => {
        mapped()
        backend.unmap(m, 0, 0)
      },
      () => backend.unmap(m, 0, 0),
    ],
    [
      'unmaps after the commit',
      'CHECK_NOT_MAPPED',
      () => {
        mapped()
        back()
      },
      () => backend.unmap(m, 0, 0),
    ],
    ['unmaps another row than it mapped', 'CHECK_NOT_MAPPED', mapped, () => backend.unmap(m, 1, 0)],
    [
      'uses a map that failed',
      'CHECK_UNCHECKED',
      () => {
        faulty.failMap = 1
        mapped()
      },
      () => backend.unmap(m, 0, 0),
    ],
    [
      'syncs a map that failed',
      'CHECK_UNCHECKED',
      () => {
        faulty.failMap = 1
        mapped()
      },
      () => backend.syncForCpu(m, 0, 0, 1),
    ],
    [
      'syncs after unmap',
      'CHECK_NOT_MAPPED',
      () => {
        mapped()
        back()
      },
      () => backend.syncForDevice(m, 0, 0, 1),
    ],
    ['syncs beyond the end', 'CHECK_SYNC', mapped, () => backend.syncForCpu(m, 0, 50, 51)],
    ['syncs before the start', 'CHECK_SYNC', mapped, () => backend.syncForDevice(m, 0, -1, 1)],
    ['believes more than was lent', 'CHECK_WRITTEN', mapped, () => backend.unmap(m, 0, 101)],
    ['believes less than nothing', 'CHECK_WRITTEN', mapped, () => backend.unmap(m, 0, -1)],
    ['believes half a byte', 'CHECK_WRITTEN', mapped, () => backend.unmap(m, 0, 0.5)],
    [
      'reuses a row before the commit',
      'CHECK_REUSE',
      () => {
        mapped()
        backend.unmap(m, 0, 0)
      },
      () => backend.map(m, 0),
    ],
    [
      'reuses a row after a commit that failed',
      'CHECK_REUSE',
      () => {
        mapped()
        faulty.failCommitUnmaps = 1
        back()
      },
      () => backend.map(m, 0),
    ],
    [
      'changes the address',
      'CHECK_CHANGED',
      () => {
        mapped()
        m.guest[0]++
      },
      () => backend.unmap(m, 0, 0),
    ],
    [
      'changes the length',
      'CHECK_CHANGED',
      () => {
        mapped()
        m.length[0] = 50
      },
      () => backend.unmap(m, 0, 0),
    ],
    [
      'changes the direction',
      'CHECK_CHANGED',
      () => {
        mapped()
        m.direction[0] = 1
      },
      () => backend.syncForCpu(m, 0, 0, 1),
    ],
    [
      'changes the device address',
      'CHECK_CHANGED',
      () => {
        mapped()
        m.device[0]++
      },
      () => backend.unmap(m, 0, 0),
    ],
    [
      'changes the token',
      'CHECK_CHANGED',
      () => {
        mapped()
        m.token[0]++
      },
      () => backend.unmap(m, 0, 0),
    ],
    ['leaves a mapping', 'CHECK_LEAK', mapped, () => backend.dispose()],
    [
      'leaves an unmap uncommitted',
      'CHECK_LEAK',
      () => {
        mapped()
        backend.unmap(m, 0, 0)
      },
      () => backend.dispose(),
    ],
    ['leaves a region', 'CHECK_LEAK', () => void backend.alloc(64, 8, 1, 'ring'), () => backend.dispose()],
    ['uses it after dispose', 'CHECK_DISPOSED', () => backend.dispose(), () => backend.map(m, 0)],
    ['allocates after dispose', 'CHECK_DISPOSED', () => backend.dispose(), () => backend.alloc(64, 8, 1, 'ring')],
    ['commits after dispose', 'CHECK_DISPOSED', () => backend.dispose(), () => backend.commitUnmaps()],
    ['disposes twice', 'CHECK_DISPOSED', () => backend.dispose(), () => backend.dispose()],
  ]
  test.each(cases)('%s: %s', (_, expected, before, error) => {
    expect(codeThrownBy(before)).toBe('nothing was thrown')
    expect(codeThrownBy(error)).toBe(expected)
  })

  test('frees twice, or what it does not own', () => {
    const region = backend.alloc(64, 8, 1, 'ring')
    backend.free(region)
    expect(codeThrownBy(() => backend.free(region))).toBe('CHECK_FREE')
    expect(codeThrownBy(() => backend.free(faulty.alloc(64, 8, 1, 'ring')))).toBe('CHECK_FREE')
  })
})

describe('FaultyBackend fails the nth call of a kind, once', () => {
  test('maps and commits', () => {
    faulty.failMap = 2
    faulty.failCommitMaps = 1
    faulty.failCommitUnmaps = 3
    expect([faulty.map(m, 0), faulty.map(m, 1), faulty.map(m, 2)]).toEqual([0, -1, 0])
    expect([faulty.commitMaps(), faulty.commitMaps()]).toEqual([-5, 0])
    expect([faulty.commitUnmaps(), faulty.commitUnmaps(), faulty.commitUnmaps(), faulty.commitUnmaps()]).toEqual([
      0, 0, -5, 0,
    ])
  })

  test('unmaps, which deliver nothing then, and allocations', () => {
    faulty.map(m, 0)
    faulty.map(m, 1)
    faulty.failUnmap = 1
    const copied = faulty.counters.bytesCopiedFromDevice
    expect([faulty.unmap(m, 0, 100), faulty.counters.bytesCopiedFromDevice - copied]).toEqual([-4, 0])
    expect([faulty.unmap(m, 1, 100), faulty.counters.bytesCopiedFromDevice - copied]).toEqual([0, 100])
    faulty.failAlloc = 1
    expect(codeThrownBy(() => faulty.alloc(64, 8, 1, 'ring'))).toBe('DMA_ALLOC')
    expect(faulty.alloc(64, 8, 1, 'ring').length).toBe(64)
  })
})
