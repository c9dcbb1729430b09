import { setImmediate as turn } from 'node:timers/promises'
import { DMA_OK, DmaMappings, TO_DEVICE } from '@guestdma/dma'
import { guestAddress } from '@guestdma/memory'
import { afterEach, describe, expect, it } from 'vitest'
import { ODD, READS, ROUNDS, TARGET_HIGH, TARGET_LOW } from './support/attack.ts'
import { isTranslated, type Threads, threads, WORKER_SCHEMES, type WorkerScheme } from './support/workers.ts'

const TRANSLATED = WORKER_SCHEMES.filter(isTranslated)
const PAGE = 4096
const TIMES = 20

const open: Threads[] = []
afterEach(async () => {
  for (const threads of open.splice(0)) await threads.close().catch(() => {})
})

/** A machine with a device in a worker that attacks, and the words that the two share. */
async function attacked(scheme: WorkerScheme) {
  const words = new Int32Array(new SharedArrayBuffer(64))
  const far = await threads({ type: 'attack', scheme, config: { attack: words.buffer as SharedArrayBuffer } })
  open.push(far)
  const { backend } = far.machine.device('far').negotiated
  const aim = (address: number): void => {
    Atomics.store(words, TARGET_HIGH, Math.floor(address / 2 ** 32))
    Atomics.store(words, TARGET_LOW, address | 0)
  }
  /** Waits until the device has done more of something. */
  const more = async (index: number, count: number): Promise<void> => {
    const before = Atomics.load(words, index)
    while (Atomics.load(words, index) - before < count) await turn()
  }
  const write = (guest: number, value: number): void => {
    const { region, offset } = far.memory.window(guestAddress(guest), 4)
    Atomics.store(region.u32, offset >>> 2, value)
  }
  return { far, backend, words, aim, more, write }
}

// Both threads are busy, and may have to share a core.
describe('a device in a worker that uses every grant as long as it may', { timeout: 30_000 }, () => {
  it.each(TRANSLATED)('over %s, reads nothing of a region any more once it was given back', async (scheme) => {
    const { backend, words, aim, more } = await attacked(scheme)
    for (let i = 0; i < TIMES; i++) {
      const region = backend.alloc(PAGE, PAGE, TO_DEVICE, 'payload')
      const { u32 } = region.region
      const at = region.offset >>> 2
      Atomics.store(u32, at, 2 * i)
      aim(region.device)
      await more(READS, 1)
      backend.free(region)
      // Whoever has the memory next.
      Atomics.store(u32, at, 1)
      await more(ROUNDS, 20)
      Atomics.store(u32, at, 0)
    }
    expect([Atomics.load(words, ODD), Atomics.load(words, READS) > TIMES]).toEqual([0, true])
  })

  it.each(TRANSLATED)('over %s, reads nothing of a buffer any more once its removal is done', async (scheme) => {
    const { far, backend, words, aim, more, write } = await attacked(scheme)
    const guest = far.machine.ram.allocate(PAGE, PAGE)
    const m = new DmaMappings(1)
    const lazy = backend as typeof backend & { poll(): number }
    for (let i = 0; i < TIMES; i++) {
      m.guest[0] = guest
      m.length[0] = PAGE
      m.direction[0] = TO_DEVICE
      expect([backend.map(m, 0), backend.commitMaps()]).toEqual([DMA_OK, DMA_OK])
      aim(m.device[0])
      await more(READS, 1)
      expect([backend.unmap(m, 0, 0), backend.commitUnmaps()]).toEqual([DMA_OK, DMA_OK])
      if (scheme === 'virtio-iommu-lazy') while (lazy.poll() === 0) await turn()
      write(guest, 1)
      await more(ROUNDS, 20)
      write(guest, 0)
    }
    expect([Atomics.load(words, ODD), Atomics.load(words, READS) > TIMES]).toEqual([0, true])
    far.machine.ram.release(guest)
    const { faults } = far.machine.counters().devices.far
    expect(faults).toBeGreaterThan(0)
  })
})
