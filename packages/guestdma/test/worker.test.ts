import { setImmediate as turn } from 'node:timers/promises'
import { MemoryBlockStore } from '@guestdma/devices'
import { TO_DEVICE } from '@guestdma/dma'
import { guestAddress } from '@guestdma/memory'
import {
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
} from '@guestdma/spec'
import type { PciTransport } from '@guestdma/transport'
import type { RemoteConfig } from 'guestdma'
import { afterEach, describe, expect, it } from 'vitest'
import { BASE, pattern } from './support/machines.ts'
import { BUSES, POOL_BYTES, POOL_DEVICE } from './support/worker-bus.ts'
import type { Inventory, InventoryRequest } from './support/worker-device.ts'
import { FORMATS, isTranslated, type Threads, threads, type Wanted, WORKER_SCHEMES } from './support/workers.ts'

const open: Threads[] = []
afterEach(async () => {
  for (const threads of open.splice(0)) await threads.close().catch(() => {})
})

async function started(wanted: Wanted): Promise<Threads> {
  const made = await threads(wanted)
  open.push(made)
  return made
}

async function writesAndReads({ machine }: Threads, seed = 3): Promise<void> {
  const disk = machine.blk('far')
  const data = pattern(40 * 512, seed)
  await machine.run(disk.writeBytes(4, data))
  await machine.run(disk.flush())
  expect(await machine.run(disk.readBytes(4, data.length))).toEqual(data)
}

/** Sends frames through the loopback link and waits until all came back. */
async function framesComeBack({ machine }: Threads, frames: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const { driver, observer } = machine.device('far')
  const got: Uint8Array[] = []
  let next = 0
  const all = new Promise<void>((resolve) => {
    observer.frames = (batch) => {
      for (let i = 0; i < batch.count; i++) got.push(batch.copy(i))
      if (got.length >= frames.length) resolve()
      else driver.wake()
    }
    const feed = (): void => {
      while (next < frames.length && machine.net('far').sendCopy(frames[next])) next++
    }
    machine.events.on('drain', feed)
    machine.pump()
    feed()
  })
  await machine.run(all)
  return got
}

// Every scheme on every bus; each has both formats in turn.
const CASES = WORKER_SCHEMES.flatMap((scheme, i) =>
  BUSES.map((bus, j) => [scheme, bus, FORMATS[(i + j) % FORMATS.length]] as const),
)

describe('a device in a worker', () => {
  it.each(CASES)('a disk works over %s, %s, %s', async (scheme, bus, format) => {
    const disk = new SharedArrayBuffer(1 << 20)
    const far = await started({ type: 'blk', scheme, bus, packed: format === 'packed', config: { disk } })
    const { features, backend } = far.machine.device('far').negotiated
    expect([backend.name, features.has(VIRTIO_F_RING_PACKED)]).toEqual([scheme, format === 'packed'])
    await writesAndReads(far)
    expect(new Uint8Array(disk, 4 * 512, 512).slice()).toEqual(pattern(512, 3))
    await far.machine.reset('far')
    await writesAndReads(far, 4)
    await far.machine.close()
    expect([far.machine.ram.allocated, far.machine.device('far').quarantined]).toEqual([0, null])
  })

  it.each(CASES)(
    'a network device works over %s, %s, %s: nothing lost, nothing twice, in order',
    async (scheme, bus, format) => {
      const far = await started({ type: 'net', scheme, bus, packed: format === 'packed' })
      const frames = Array.from({ length: 2000 }, (_, i) => {
        const frame = pattern(60 + ((i * 37) % 1400), i)
        new DataView(frame.buffer).setUint32(14, i)
        return frame
      })
      const got = await framesComeBack(far, frames)
      expect(got.length).toBe(frames.length)
      expect(got.findIndex((frame, i) => Buffer.compare(frame, frames[i]) !== 0)).toBe(-1)
    },
  )

  it.each(FORMATS.flatMap((format) => BUSES.map((bus) => [format, bus] as const)))(
    'a doorbell that carries a position works as well, and so do used buffers in order: %s, %s',
    async (format, bus) => {
      const offer = [VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_IN_ORDER]
      const far = await started({ type: 'blk', scheme: 'direct', bus, packed: format === 'packed', config: { offer } })
      const { features } = far.machine.device('far').negotiated
      expect(offer.filter((bit) => features.has(bit))).toEqual(offer)
      for (let round = 0; round < 5; round++) await writesAndReads(far, round)
    },
  )

  it.each([
    ['a doorbell for all queues', 0, []],
    ['doorbells of 16 bits side by side', 2, []],
    ['a page for each doorbell', 4096, []],
    ['names of its own for the queues', 4, [VIRTIO_F_NOTIF_CONFIG_DATA]],
    ['one doorbell, and names of its own', 0, [VIRTIO_F_NOTIF_CONFIG_DATA]],
    ['names of its own beside positions', 4, [VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA]],
  ] as const)('over PCI, a function with %s works as well', async (_what, notifyMultiplier, offer) => {
    const pci = { notifyMultiplier }
    const far = await started({ type: 'net', scheme: 'shared-pool', bus: 'msix', pci, config: { offer } })
    const { features } = far.machine.device('far').negotiated
    expect(offer.filter((bit) => features.has(bit))).toEqual(offer)
    const frames = Array.from({ length: 200 }, (_, i) => pattern(60 + i, i))
    expect(await framesComeBack(far, frames)).toEqual(frames)
  })

  it('over PCI, a memory of its own is found where its function says', async () => {
    const far = await started({ type: 'blk', scheme: 'on-device', bus: 'msix' })
    const { transport } = far.machine.device('far')
    expect((transport as PciTransport).swiotlb).toMatchObject({ address: POOL_DEVICE, length: POOL_BYTES })
    await writesAndReads(far)
  })

  it('over PCI, its messages may be writes to memory that its backend allocates', async () => {
    const entry = { messages: 'memory' } as const
    // Nothing tells of a write to memory.
    const far = await started({ type: 'blk', scheme: 'virtio-iommu', bus: 'intx', entry, silent: true })
    for (let round = 0; round < 3; round++) await writesAndReads(far, round)
    expect(far.worker.asserted).toBe(false)
  })

  it.each([
    ['construction', 'shared-pool'],
    ['construction', 'on-device'],
    ['nothing', 'direct'],
    ['trusted-code', 'virtio-iommu'],
    ['trusted-code', 'shared-pages'],
  ] as const)('is held to what it may reach by %s over %s', async (enforcedBy, scheme) => {
    const { machine } = await started({ type: 'blk', scheme })
    expect(machine.device('far').negotiated.backend.traits.enforcedBy).toBe(enforcedBy)
  })

  const INSIDE = WORKER_SCHEMES.flatMap((scheme) => (['mmio', 'msix'] as const).map((bus) => [scheme, bus] as const))

  it.each(INSIDE)('over %s, %s, what it was given is looked through from inside', async (scheme, bus) => {
    const far = await started({ type: 'blk', scheme, bus })
    await writesAndReads(far)
    const marker = new TextEncoder().encode('a secret of the guest, in its own memory')
    const secret = far.machine.ram.allocate(4096, 4096)
    far.memory.write(guestAddress(secret), marker)
    const thread = far.thread()
    const answer = new Promise<Inventory>((resolve) => {
      thread.on('message', (message) => {
        if (message.inventory !== undefined) resolve(message)
      })
    })
    thread.postMessage({ marker, tries: [secret, BASE] } satisfies InventoryRequest)
    const { inventory, granted } = await answer
    const [direct, translated] = [scheme === 'direct', isTranslated(scheme)]
    // The mailbox, one buffer of memory, and the changes of translations where there are any.
    expect(inventory.map(({ path, bytes }) => [path, bytes])).toEqual([
      ['messages.0.mailbox', 512],
      ['messages.0.windows.0.memory', direct || translated ? 8 << 20 : 2 << 20],
      ...(translated ? [['messages.0.translations', 42_752]] : []),
    ])
    expect(inventory.slice(0, 2).map(({ marked }) => marked)).toEqual([false, direct || translated])
    // With shared pages the ring, which is at the beginning of guest RAM, is within reach at its own address.
    expect(granted).toEqual([direct ? 8 : 0, direct || scheme === 'shared-pages' ? 8 : 0])
  })

  it.each([
    ['a scheme that maps nothing', 'shared-pool', true, {}, 'MACHINE_CONFIG', /'shared-pool' decides on none/],
    ['a worker that does not translate', 'virtio-iommu', false, {}, 'MACHINE_REMOTE', /a worker's translations/],
    ['a worker that does not translate', 'shared-pages', false, {}, 'MACHINE_REMOTE', /translations of the device's/],
    ['another claim', 'virtio-iommu', true, { enforcedBy: 'peer' }, 'MACHINE_CONFIG', /must be 'trusted-code'/],
    ['what is none', 'virtio-iommu', true, { translations: {} }, 'MACHINE_CONFIG', /what DeviceWorker.translations is/],
  ] as const)('translations and %s are refused: %s', async (_what, scheme, translated, entry, code, message) => {
    const wanted = { type: 'blk', scheme, translated, entry: entry as Partial<RemoteConfig> } as const
    const error = await threads(wanted).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code })
    expect((error as Error).message).toMatch(message)
  })

  it('a store that answers by a timer is waited for', async () => {
    const far = await started({ type: 'blk', scheme: 'shared-pool', config: { writes: 'late' } })
    await writesAndReads(far)
  })

  it('works where neither thread can wait for a word without blocking', async () => {
    const atomics = Atomics as { waitAsync?: unknown }
    const { waitAsync } = atomics
    atomics.waitAsync = undefined
    try {
      const config = { without: 'waitAsync', writes: 'late' } as const
      const far = await started({ type: 'blk', scheme: 'direct', config })
      await writesAndReads(far)
    } finally {
      atomics.waitAsync = waitAsync
    }
  })

  it('works where its driver asks for no interrupts and is pumped', async () => {
    const far = await started({ type: 'blk', scheme: 'direct', entry: { interrupts: false } })
    let written = false
    const done = far.machine
      .blk('far')
      .writeBytes(0, pattern(512))
      .then(() => {
        written = true
      })
    while (!written) {
      far.machine.pump()
      await turn()
    }
    await done
  })
})

// Threads are started and deadlines waited for.
describe('a device whose worker dies is a device that needs a reset', { timeout: 30_000 }, () => {
  const ENDS = [
    ['is terminated', { writes: 'never' }],
    ['throws', { writes: 'throw' }],
    ['hangs', { writes: 'hang' }],
  ] as const

  // Every end on every bus, and every scheme on every bus.
  const DEATHS = (['shared-pool', 'virtio-iommu', 'virtio-iommu-lazy', 'shared-pages'] as const).flatMap((scheme, i) =>
    ENDS.map(([how, config], j) => [how, scheme, BUSES[(i + j) % BUSES.length], config] as const),
  )

  it.each(DEATHS)(
    'it %s, over %s, %s: what is in flight ends with an error, and a restart and a reset bring it back',
    async (how, scheme, bus, config) => {
      const disk = new SharedArrayBuffer(1 << 20)
      const entry = how === 'hangs' ? { requestDeadlineMs: 100 } : {}
      const far = await started({ type: 'blk', scheme, bus, config: { ...config, disk }, entry, deadlineMs: 1500 })
      const { machine, worker } = far
      const broken: string[] = []
      machine.events.on('needsReset', ({ error }) => broken.push(error.code))
      for (let round = 0; round < 2; round++) {
        const request = machine.run(machine.blk('far').writeBytes(0, pattern(512)))
        if (how === 'is terminated') void far.thread().terminate()
        await expect(request).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
        expect(broken).toHaveLength(round + 1)
        await worker.restart()
        await machine.reset('far')
        expect(await machine.run(machine.blk('far').readBytes(0, 512))).toHaveLength(512)
      }
      expect(machine.device('far').quarantined).toBe(null)
      await machine.close()
      expect(machine.ram.allocated).toBe(0)
    },
  )

  it.each(['virtio-iommu', 'shared-pages'] as const)(
    'over %s, one that hangs does not keep others behind the same IOMMU from their memory',
    async (scheme) => {
      const device = { store: new MemoryBlockStore(new Uint8Array(1 << 16)) }
      const config = { writes: 'hang' } as const
      const near = { type: 'blk', name: 'near', device } as const
      const far = await started({ type: 'blk', scheme, config, deadlineMs: 1500, others: [near] })
      const { machine, worker } = far
      const request = machine.blk('far').writeBytes(0, pattern(512))
      const ended = expect(request).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
      machine.pump()
      await new Promise((resolve) => setTimeout(resolve, 20))
      // What it was lent is not taken back while its thread may still use it, and it counts as lost.
      const { backend } = machine.device('far').negotiated
      const region = backend.alloc(4096, 4096, TO_DEVICE, 'payload')
      expect(() => backend.free(region)).toThrow(expect.objectContaining({ code: 'DMA_STILL_REACHABLE' }))
      await machine.run(machine.blk('near').writeBytes(0, pattern(512)))
      expect(await machine.run(machine.blk('near').readBytes(0, 512))).toEqual(pattern(512))
      machine.pump()
      await ended
      await worker.restart()
      await machine.reset('far')
      expect(await machine.run(machine.blk('far').readBytes(0, 512))).toHaveLength(512)
      await machine.close()
      expect([machine.ram.allocated, machine.device('far').quarantined]).toEqual([0, null])
    },
  )

  it('a reset before the restart fails, and leaves no memory out of use', async () => {
    const { machine, worker, thread } = await started({ type: 'blk', scheme: 'direct' })
    await thread().terminate()
    await expect(machine.reset('far')).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
    await expect(machine.reset('far')).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
    expect(machine.device('far').quarantined).toBe(null)
    await worker.restart()
    await machine.reset('far')
    await machine.run(machine.blk('far').writeBytes(0, pattern(512)))
  })

  it.each(['direct', 'virtio-iommu', 'shared-pages'] as const)(
    'over %s, one that hangs keeps its memory, since nobody can say yet when its thread is gone',
    async (scheme) => {
      const config = { writes: 'hang' } as const
      const { machine } = await started({ type: 'blk', scheme, config, deadlineMs: 1500 })
      const request = machine.blk('far').writeBytes(0, pattern(512))
      request.catch(() => {})
      machine.pump()
      await new Promise((resolve) => setTimeout(resolve, 20))
      await expect(machine.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
      expect(machine.device('far').quarantined).toBeGreaterThan(0)
    },
  )
})
