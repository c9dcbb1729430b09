import { DirectBackend, DMA_OK, type DmaMappings, type DmaStatus } from '@guestdma/dma'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { DriverQueue, QUEUE_BROKEN, SEGMENT_GUEST, VirtqueueError } from '../src/index.ts'

// A backend of somebody else's that breaks its contract (`DmaBackend`) breaks the queue, with an error that names it;
// nothing of what it touched is published, delivered or used again.
const BYTES = 1 << 16
const ARENA = BYTES / 2

type Call = 'map' | 'unmap' | 'commitMaps' | 'commitUnmaps'

class WrongBackend extends DirectBackend {
  override readonly name = 'wrong' as never
  /** What these calls do instead, once they were set. */
  readonly wrong: Partial<Record<Call, () => DmaStatus>> = {}

  override map(m: DmaMappings, row: number): DmaStatus {
    return this.wrong.map === undefined ? super.map(m, row) : this.wrong.map()
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    return this.wrong.unmap === undefined ? super.unmap(m, row, written) : this.wrong.unmap()
  }

  override commitMaps(): DmaStatus {
    return this.wrong.commitMaps === undefined ? super.commitMaps() : this.wrong.commitMaps()
  }

  override commitUnmaps(): DmaStatus {
    return this.wrong.commitUnmaps === undefined ? super.commitUnmaps() : this.wrong.commitUnmaps()
  }
}

const WRONG: readonly [what: string, answer: () => DmaStatus][] = [
  [
    'throws',
    () => {
      throw new Error('mine')
    },
  ],
  ['returns undefined', () => undefined as never],
  ['returns what is no status', () => 7 as never],
]

function open(): { queue: DriverQueue; backend: WrongBackend; bells: number[]; bytes: DataView } {
  const buffer = new ArrayBuffer(BYTES)
  const memory = new GuestMemory([{ base: 0, length: BYTES, memory: buffer }])
  const backend = new WrongBackend({ memory, ram: new SpanAllocator(guestAddress(0), ARENA) })
  const bells: number[] = []
  const queue = new DriverQueue({
    name: 'net0 transmit',
    index: 1,
    size: 8,
    backend,
    features: FeatureSet.empty,
    doorbell: (_, position) => bells.push(position),
  })
  return { queue, backend, bells, bytes: new DataView(buffer) }
}

function addOne(queue: DriverQueue, way: 'add' | 'addEach'): number {
  if (way === 'addEach') return queue.addEach(1, Float64Array.of(ARENA), Uint32Array.of(64), 0, SEGMENT_GUEST, false)
  queue.segments.address[0] = ARENA
  queue.segments.length[0] = 64
  queue.segments.kind[0] = SEGMENT_GUEST
  return queue.add(1, 0)
}

/** The queue is broken, says by whom, and goes on with nothing. */
function checkBroken({ queue, bells, bytes }: ReturnType<typeof open>, call: Call, published: number): void {
  expect(queue.broken).toBeInstanceOf(VirtqueueError)
  expect(queue.broken).toMatchObject({ code: 'VIRTQUEUE_BACKEND', part: 'net0 transmit', details: { method: call } })
  expect(queue.broken?.message).toContain(`wrong.${call}()`)
  expect(addOne(queue, 'add')).toBe(QUEUE_BROKEN)
  expect(addOne(queue, 'addEach')).toBe(0)
  queue.publish()
  expect(queue.reap(8)).toBe(0)
  expect(bytes.getUint16(queue.areas.driver + 2, true)).toBe(published)
  expect(bells.length).toBe(published)
}

describe.each(WRONG)('a backend whose call %s breaks the queue, and the error names the backend', (_what, answer) => {
  test.each(['add', 'addEach'] as const)('map, in %s: the chain is not added', (way) => {
    const rig = open()
    rig.backend.wrong.map = answer
    expect(addOne(rig.queue, way)).toBeLessThanOrEqual(0)
    checkBroken(rig, 'map', 0)
  })

  test('commitMaps: nothing of the batch is published, now or later', () => {
    const rig = open()
    addOne(rig.queue, 'add')
    rig.backend.wrong.commitMaps = answer
    expect(rig.queue.publish()).not.toBe(DMA_OK)
    delete rig.backend.wrong.commitMaps
    checkBroken(rig, 'commitMaps', 0)
  })

  test.each(['unmap', 'commitUnmaps'] as const)('%s: no completion is delivered as if all were well', (call) => {
    const rig = open()
    const { queue, bytes } = rig
    addOne(queue, 'add')
    expect(queue.publish()).toBe(DMA_OK)
    bytes.setUint16(queue.areas.device + 2, 1, true)
    rig.backend.wrong[call] = answer
    const n = queue.reap(8)
    for (let i = 0; i < n; i++) expect(queue.completed.status[i]).not.toBe(DMA_OK)
    checkBroken(rig, call, 1)
  })
})

describe('a backend whose call throws while its queue is disposed of', () => {
  test.each(['unmap', 'commitUnmaps'] as const)('%s: the error is told once all was tried', (call) => {
    const { queue, backend } = open()
    addOne(queue, 'add')
    backend.wrong[call] = WRONG[0][1]
    expect(() => queue.dispose()).toThrow(`wrong.${call}() threw: mine`)
    // Nothing is left that would have to be disposed of again.
    queue.dispose()
    backend.dispose()
    expect(backend.counters.allocatedBytes).toBe(0)
  })
})
