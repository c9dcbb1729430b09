import type { BlkDevice, BlockRequest, BlockStore } from '@guestdma/devices'
import { guestAddress } from '@guestdma/memory'
import { MemoryBlockStore } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { HeldStore, MODES, machineOver, outcome, PLATFORMS, pattern, settled, TRANSPORTS } from './support/machines.ts'

const COMBINATIONS = PLATFORMS.flatMap((platform) => MODES.map((mode) => [platform, mode] as const))

describe.each(TRANSPORTS)('over %s', (transport) => {
  const machine = machineOver(transport)

  describe.each(COMBINATIONS)('blk/stores on %s in %s mode', (platform, mode) => {
    it('a store that answers later and in another order', async () => {
      const store = new HeldStore(pattern(64 * 512))
      const made = await machine([{ type: 'blk', name: 'disk0', platform, mode, device: { store } }])
      const disk = made.blk('disk0')
      const address = made.ram.allocate(32 * 512)
      const order: number[] = []
      const reads = Array.from({ length: 16 }, (_, i) =>
        disk.read(2 * i, guestAddress(address + 1024 * i), 1024).then(() => order.push(i)),
      )
      await settled()
      made.pump()
      expect(store.held.length).toBe(16)
      const expected: number[] = []
      for (let left = 16; left > 0; left--) {
        const index = (left * 7) % store.held.length
        expected.push(store.held[index].sector / 2)
        store.release(index)
        made.pump()
        await settled()
      }
      await Promise.all(reads)
      expect(order).toEqual(expected)
      expect(made.memory.read(address, 16 * 1024)).toEqual(pattern(64 * 512).slice(0, 16 * 1024))
    })

    it('a store that fails some requests, says UNSUPP, or throws', async () => {
      const bytes = pattern(64 * 512)
      const memory = new MemoryBlockStore(bytes)
      const store: BlockStore = {
        capacity: memory.capacity,
        read: (request: BlockRequest) =>
          request.sector % 3 === 0 ? memory.read(request) : request.done(request.sector % 3 === 1 ? 1 : 2),
        write: (request: BlockRequest) => memory.write(request),
        flush: (request: BlockRequest) => request.done(1),
      }
      const made = await machine([{ type: 'blk', name: 'disk0', platform, mode, device: { store } }])
      const disk = made.blk('disk0')
      const { live } = made.ram
      const states = [0, 1, 2, 3].map((sector) => outcome(disk.readBytes(sector, 512)))
      states.push(outcome(disk.flush()))
      await settled()
      made.pump()
      await settled()
      expect(states.map((state) => state())).toEqual(['ok', 'BLK_IOERR', 'BLK_UNSUPPORTED', 'ok', 'BLK_IOERR'])
      expect(made.ram.live).toBe(live)
      expect(disk.broken).toBeNull()
    })

    it('a device without FLUSH, one that is read-only, and one with a small size_max', async () => {
      const made = await machine([
        {
          type: 'blk',
          name: 'plain',
          platform,
          mode,
          device: { store: new MemoryBlockStore(new Uint8Array(8192)), withhold: [9] },
        },
        {
          type: 'blk',
          name: 'frozen',
          platform,
          mode,
          device: { store: new MemoryBlockStore(new Uint8Array(8192)), readOnly: true },
        },
        {
          type: 'blk',
          name: 'narrow',
          platform,
          mode,
          device: { store: new MemoryBlockStore(pattern(8192)), sizeMax: 1000 },
        },
      ])
      await made.run(made.blk('plain').flush())
      await made.run(made.blk('plain').writeBytes(0, pattern(512)))
      await expect(made.run(made.blk('frozen').writeBytes(0, pattern(512)))).rejects.toMatchObject({
        code: 'BLK_READ_ONLY',
      })
      expect(made.blk('narrow').maxRequest).toBe(512)
      expect(await made.run(made.blk('narrow').readBytes(0, 8192))).toEqual(pattern(8192))
    })

    it('reset in flight: what was lent is not written to afterwards', async () => {
      const store = new HeldStore(new Uint8Array(64 * 512).fill(0xaa))
      const made = await machine([{ type: 'blk', name: 'disk0', platform, mode, device: { store } }])
      const address = made.ram.allocate(4096)
      made.memory.write(address, new Uint8Array(4096).fill(0x55))
      const state = outcome(made.blk('disk0').read(0, address, 4096))
      await settled()
      made.pump()
      await made.reset('disk0')
      expect(state()).toBe('DRIVER_CLOSED')
      while (store.held.length > 0) store.release()
      made.pump()
      expect(made.memory.read(address, 4096)).toEqual(new Uint8Array(4096).fill(0x55))
      // And the new driver works once the late answers are in.
      const next = made.blk('disk0').readBytes(0, 512)
      await settled()
      made.pump()
      store.release()
      expect(await made.run(next)).toEqual(new Uint8Array(512).fill(0xaa))
    })

    it('a reset brings back a disk whose store lost a read, and the late answer after all reaches nobody', async () => {
      const store = new HeldStore(pattern(64 * 512))
      const made = await machine([{ type: 'blk', name: 'disk0', platform, mode, device: { store } }])
      for (let round = 0; round < 3; round++) {
        const lost = outcome(made.blk('disk0').readBytes(0, 512))
        await settled()
        made.pump()
        await made.reset('disk0')
        expect([lost(), store.held.length]).toEqual(['DRIVER_CLOSED', round + 1])
      }
      const next = made.blk('disk0').readBytes(7, 512)
      await settled()
      made.pump()
      expect(store.held).toHaveLength(4)
      for (let i = 0; i < 4; i++) store.release()
      expect(await made.run(next)).toEqual(pattern(64 * 512).slice(7 * 512, 8 * 512))
    })

    it('many in flight: 200 requests through a queue of 8 and a device that takes 3 at a time', async () => {
      const bytes = pattern(64 * 512)
      const store = new MemoryBlockStore(bytes)
      const made = await machine([
        { type: 'blk', name: 'disk0', platform, mode, queueSize: 8, device: { store, maxInFlight: 3 } },
      ])
      const disk = made.blk('disk0')
      const reads = Array.from({ length: 200 }, (_, i) => disk.readBytes(i % 64, 512))
      const all = await made.run(Promise.all(reads))
      expect(
        all.every((data, i) => Buffer.compare(data, bytes.subarray((i % 64) * 512, (i % 64) * 512 + 512)) === 0),
      ).toBe(true)
      expect((made.device('disk0').model as BlkDevice).counters.reads).toBe(200)
    })

    it('longer than the pool holds at a time', async () => {
      const store = new MemoryBlockStore(new Uint8Array(4 << 20))
      const made = await machine([{ type: 'blk', name: 'disk0', platform, mode, device: { store } }])
      const address = made.ram.allocate(3 << 20)
      const data = pattern(3 << 20, 5)
      made.memory.write(address, data)
      await made.run(made.blk('disk0').write(7, address, 3 << 20))
      expect(Buffer.compare(store.bytes.subarray(7 * 512, 7 * 512 + (3 << 20)), data)).toBe(0)
    })
  })
})
