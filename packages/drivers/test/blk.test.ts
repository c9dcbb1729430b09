import { BLK_S_SHORT, BLK_S_UNWRITTEN, BlkQueue, RequestBatch } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import {
  BLK_S_IOERR,
  BLK_S_UNSUPP,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  DEVICE_ID_BLOCK,
  MMIO_CONFIG,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_STATUS,
  STATUS_DRIVER_OK,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
} from '@guestdma/spec'
import { describe, expect, it } from 'vitest'
import {
  answer,
  BASE,
  type BlkRig,
  outcome,
  pattern,
  RAM_BYTES,
  requests,
  rigsOver,
  serve,
  settled,
  TRANSPORTS,
} from './support/rig.ts'

const MODES = ['map', 'pool'] as const

/** Serves from `bytes` and polls until nothing moves. */
async function run({ device, disk }: BlkRig, bytes: Uint8Array, most = Infinity): Promise<void> {
  for (let idle = 0; idle < 3; ) {
    await settled()
    const served = serve(device, bytes, most)
    idle = disk.poll(64) + served > 0 ? 0 : idle + 1
  }
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const { makeRig, makeBlk } = rigsOver(transport)

  describe('init/order: what the block driver does around DRIVER_OK (virtio 1.4 §3.1.1)', () => {
    it('makes the queue ready, then sets DRIVER_OK once, and notifies nobody before', {
      tags: ['3.1.1/no-early-doorbell'],
    }, async () => {
      const rig = await makeBlk()
      const read = rig.disk.read(0, rig.ram.allocate(512), 512)
      await run(rig, new Uint8Array(512))
      await read
      const events = rig.device.log
        .filter(({ kind }) => kind === 'w')
        .flatMap(({ offset, value }) => {
          if (offset === MMIO_QUEUE_READY) return ['ready']
          if (offset === MMIO_STATUS && (value & STATUS_DRIVER_OK) !== 0) return ['DRIVER_OK']
          return offset === MMIO_QUEUE_NOTIFY ? ['notify'] : []
        })
      expect(events).toEqual(['ready', 'DRIVER_OK', 'notify'])
    })

    it('reads only those configuration fields whose feature was negotiated, as 32-bit words', {
      tags: ['5.2.5.1/writeback-early', '2.5.1/optional-fields'],
    }, async () => {
      const fields = async (...features: number[]): Promise<string[]> => {
        const { device } = await makeBlk({ features, sizeMax: 4096, blockSize: 4096 })
        return device.log
          .filter(({ offset }) => offset >= MMIO_CONFIG)
          .map(({ kind, offset, size }) => `${kind}${offset - MMIO_CONFIG}/${size}`)
      }
      expect(await fields()).toEqual(['r0/4', 'r4/4'])
      expect(new Set(await fields(VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_BLK_SIZE))).toEqual(
        new Set(['r0/4', 'r4/4', 'r8/4', 'r20/4']),
      )
    })

    it('accepts neither MQ nor CONFIG_WCE nor anything else that it does not implement', {
      tags: ['5.2.5.1/zoned'],
    }, async () => {
      const { session } = await makeBlk({
        features: [VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH, 13, 14, 17],
      })
      expect(session.features.bits()).toEqual([VIRTIO_BLK_F_FLUSH, 32])
    })
  })

  describe('blk/config (virtio 1.4 §5.2.4)', () => {
    it.each([1, 2 ** 32 - 1, 2 ** 32, 2 ** 44 - 1])('takes a capacity of %d sectors', async (sectors) => {
      const { disk } = await makeBlk({ sectors })
      expect(disk.capacity).toBe(sectors)
    })

    it.each([2 ** 44, 2 ** 53, 2 ** 63])(
      'refuses a capacity of %d sectors, whose bytes no number holds exactly',
      async (sectors) => {
        await expect(makeBlk({ sectors })).rejects.toMatchObject({ code: 'BLK_CAPACITY' })
      },
    )

    it('has both halves of the capacity from one generation', async () => {
      const rig = await makeRig(DEVICE_ID_BLOCK, { config: new Uint8Array(64) })
      const { device } = rig
      const fields = new DataView(device.config.buffer)
      fields.setUint32(0, 0xffff_ffff, true)
      const read = device.read.bind(device)
      let changed = false
      device.read = (offset, size) => {
        const value = read(offset, size)
        if (offset === MMIO_CONFIG && !changed) {
          changed = true
          fields.setUint32(0, 0, true)
          fields.setUint32(4, 1, true)
          device.generation++
        }
        return value
      }
      const { BlkDriver } = await import('@guestdma/drivers')
      expect(new BlkDriver(rig.session).capacity).toBe(2 ** 32)
    })

    it('takes a size_max of 0 for no bound, as qemu-storage-daemon means it, and says so', async () => {
      const { disk, warnings } = await makeBlk({ features: [VIRTIO_BLK_F_SIZE_MAX], sizeMax: 0 })
      expect(disk.maxRequest).toBe(1 << 20)
      expect(warnings).toMatchObject([{ code: 'BLK_SIZE_MAX', part: 'dev0', details: { sizeMax: 0 } }])
    })

    it.each([0, 1, 3, 511, 513, 2 ** 17, 2 ** 31, 2 ** 32 - 1])(
      'takes a blk_size of %d for none, and says so',
      async (blockSize) => {
        const { disk, warnings } = await makeBlk({ features: [VIRTIO_BLK_F_BLK_SIZE], blockSize })
        expect(disk.blockSize).toBe(512)
        expect(warnings).toMatchObject([{ code: 'BLK_BLOCK_SIZE', details: { blockSize } }])
      },
    )

    it('does not look at a seg_max of 0: a request has one segment of data', async () => {
      const rig = await makeBlk({ features: [VIRTIO_BLK_F_SEG_MAX] })
      const read = rig.disk.readBytes(0, 4096)
      await run(rig, new Uint8Array(4096 * 512).fill(7))
      expect(await read).toEqual(new Uint8Array(4096).fill(7))
    })

    it('refuses a device whose segments cannot hold one of its blocks', async () => {
      const features = [VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_BLK_SIZE]
      await expect(makeBlk({ features, sizeMax: 2048, blockSize: 4096 })).rejects.toMatchObject({
        code: 'BLK_SIZE_MAX',
        details: { bound: 2048, blockSize: 4096 },
      })
    })

    it.each([1, 511])('refuses segments of at most %d bytes', async (sizeMax) => {
      await expect(makeBlk({ features: [VIRTIO_BLK_F_SIZE_MAX], sizeMax })).rejects.toMatchObject({
        code: 'BLK_SIZE_MAX',
      })
    })

    it('blk/capacity: follows the capacity after a configuration change (§5.2.6.2, SHOULD)', {
      tags: ['5.2.6.1/capacity'],
    }, async () => {
      const rig = await makeBlk({ sectors: 8 })
      new DataView(rig.device.config.buffer).setUint32(0, 16, true)
      rig.device.generation++
      rig.device.interrupts |= 2
      rig.disk.interrupt()
      rig.disk.poll(8)
      expect(rig.disk.capacity).toBe(16)
    })
  })

  describe('blk/capacity: a configuration that changes while the device runs', () => {
    const change = (rig: BlkRig, low: number, high = 0): void => {
      const fields = new DataView(rig.device.config.buffer)
      fields.setUint32(0, low, true)
      fields.setUint32(4, high, true)
      rig.device.generation++
      rig.device.interrupts |= 2
      rig.disk.interrupt()
    }

    it('refuses what lies beyond a smaller capacity', async () => {
      const rig = await makeBlk({ sectors: 64 })
      change(rig, 8)
      rig.disk.poll(8)
      await expect(rig.disk.read(8, rig.ram.allocate(512), 512)).rejects.toMatchObject({
        code: 'BLK_RANGE',
        details: { capacity: 8 },
      })
    })

    it('submits nothing beyond a smaller capacity that was asked for before (§5.2.6.1, MUST)', {
      tags: ['5.2.6.1/in-capacity'],
    }, async () => {
      const rig = await makeBlk({ sectors: 64, queueMax: 4 })
      const address = rig.ram.allocate(8 * 512)
      const states = Array.from({ length: 8 }, (_, i) =>
        outcome(rig.disk.read(8 * i, guestAddress(address + 512 * i), 512)),
      )
      await settled()
      // One is with the device, the others wait for room.
      const [first] = requests(rig.device)
      change(rig, 17)
      answer(rig.device, first, { data: pattern(512) })
      const sectors: number[] = []
      for (let round = 0; round < 8; round++) {
        rig.disk.poll(8)
        await settled()
        for (const request of requests(rig.device)) {
          sectors.push(request.sector)
          answer(rig.device, request, { data: pattern(512) })
        }
      }
      expect(sectors).toEqual([8, 16])
      const refused = Array.from({ length: 5 }, () => 'BLK_RANGE')
      expect(states.map((state) => state())).toEqual(['ok', 'ok', 'ok', ...refused])
    })

    it.each([
      [
        'never settles',
        (rig: BlkRig) => {
          rig.device.restless = true
          change(rig, 64)
        },
      ],
      ['claims more than any number holds', (rig: BlkRig) => change(rig, 0, 0xffff_ffff)],
    ])('breaks the device and does not throw out of poll where it %s', async (_what, how) => {
      const rig = await makeBlk({ sectors: 64 })
      const state = outcome(rig.disk.read(0, rig.ram.allocate(512), 512))
      await settled()
      how(rig)
      expect(() => rig.disk.poll(8)).not.toThrow()
      await settled()
      expect(rig.errors).toEqual(['DRIVER_DEVICE_BROKEN'])
      expect(state()).toBe('DRIVER_DEVICE_BROKEN')
    })
  })

  describe('ring/geometry: queue sizes that a device may allow', () => {
    it.each([1, 2])('is too small with %d entries: header, data and status are three descriptors', async (queueMax) => {
      await expect(makeBlk({ queueMax })).rejects.toMatchObject({ code: 'VIRTQUEUE_TOO_SMALL', details: { needed: 3 } })
    })

    it.each(
      MODES.flatMap((mode) =>
        [[], [VIRTIO_F_INDIRECT_DESC], [VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC]].flatMap(
          (features) => [3, 4, 8, 100].map((queueMax) => [mode, features, queueMax] as const),
        ),
      ),
    )('in %s mode with features %j and %d entries completes 100 requests', async (mode, features, queueMax) => {
      const rig = await makeBlk({ mode, features, queueMax }).catch((error: unknown) => error as { code: string })
      // The largest power of two below 4 is 2.
      if ('code' in rig) return expect([queueMax, rig.code]).toEqual([3, 'VIRTQUEUE_TOO_SMALL'])
      const disk = pattern(100 * 512, 5)
      const address = rig.ram.allocate(100 * 512)
      const reads = Array.from({ length: 100 }, (_, i) => rig.disk.read(i, guestAddress(address + i * 512), 512))
      await run(rig, disk)
      await Promise.all(reads)
      expect(rig.memory.read(address, 100 * 512)).toEqual(disk)
      expect(rig.disk.counters).toMatchObject({ requests: 100, sectorsRead: 100, failed: 0 })
    })
  })

  describe.each(MODES)('blk in %s mode', (mode) => {
    it('reads and writes sectors, byte for byte', async () => {
      const rig = await makeBlk({ mode })
      const disk = new Uint8Array(64 * 512)
      const address = rig.ram.allocate(4096)
      rig.memory.write(address, pattern(4096, 3))
      const write = rig.disk.write(7, address, 4096)
      await run(rig, disk)
      await write
      expect(disk.slice(7 * 512, 7 * 512 + 4096)).toEqual(pattern(4096, 3))
      const back = rig.ram.allocate(4096)
      const read = rig.disk.read(7, back, 4096)
      await run(rig, disk)
      await read
      expect(rig.memory.read(back, 4096)).toEqual(pattern(4096, 3))
      expect(rig.disk.counters).toEqual({ requests: 2, sectorsRead: 8, sectorsWritten: 8, failed: 0 })
    })

    it('makes well-formed requests: 16-byte header, data, one status byte preset to no status', async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_FLUSH] })
      const address = rig.ram.allocate(1024)
      const all = [
        rig.disk.read(5, address, 1024),
        rig.disk.write(2 ** 31 % 4000, address, 512),
        rig.disk.flush(),
        rig.disk.id(),
      ]
      await settled()
      const found = requests(rig.device)
      expect(found.map(({ type, sector, data, room }) => [type, sector, data.length, room])).toEqual([
        [BLK_T_IN, 5, 0, 1025],
        [BLK_T_OUT, 2 ** 31 % 4000, 512, 1],
        [BLK_T_FLUSH, 0, 0, 1],
        [BLK_T_GET_ID, 0, 0, 21],
      ])
      for (const request of found) {
        const last = request.chain.segments.at(-1)
        expect(last).toMatchObject({ length: 1, writable: true })
        expect(rig.device.bytes(last?.address ?? 0, 1)[0]).toBe(0xff)
        answer(rig.device, request, { data: new Uint8Array(1024) })
      }
      rig.disk.poll(8)
      await Promise.all(all)
    })

    it('writes sectors beyond 2^32 as 64-bit numbers', async () => {
      const rig = await makeBlk({ mode, sectors: 2 ** 44 - 1 })
      const address = rig.ram.allocate(512)
      const read = rig.disk.read(2 ** 44 - 2, address, 512)
      await settled()
      const [request] = requests(rig.device)
      expect(request.sector).toBe(2 ** 44 - 2)
      answer(rig.device, request, { data: pattern(512) })
      rig.disk.poll(8)
      await read
      expect(rig.memory.read(address, 512)).toEqual(pattern(512))
    })

    it('submits what was asked for in one task with one notification', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(20 * 512)
      const reads = Array.from({ length: 20 }, (_, i) => rig.disk.read(i, guestAddress(address + 512 * i), 512))
      await settled()
      expect(rig.device.notified).toEqual([0])
      await run(rig, new Uint8Array(20 * 512))
      await Promise.all(reads)
    })

    it('completes in whatever order the device answers', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(8 * 512)
      const order: number[] = []
      const reads = Array.from({ length: 8 }, (_, i) =>
        rig.disk.read(i, guestAddress(address + 512 * i), 512).then(() => order.push(i)),
      )
      await settled()
      const found = requests(rig.device)
      for (const i of [3, 0, 7, 1, 6, 2, 5, 4]) {
        answer(rig.device, found[i], { data: pattern(512, i) })
        rig.disk.poll(8)
        await settled()
      }
      await Promise.all(reads)
      expect(order).toEqual([3, 0, 7, 1, 6, 2, 5, 4])
      for (let i = 0; i < 8; i++) expect(rig.memory.read(guestAddress(address + 512 * i), 512)).toEqual(pattern(512, i))
    })

    it('keeps to its budget', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(512)
      const states = Array.from({ length: 6 }, () => outcome(rig.disk.read(0, address, 512)))
      await settled()
      serve(rig.device, new Uint8Array(512))
      expect(rig.disk.poll(4)).toBe(4)
      await settled()
      expect(states.map((state) => state()).sort()).toEqual(['ok', 'ok', 'ok', 'ok', 'pending', 'pending'])
      expect(rig.disk.poll(4)).toBe(2)
    })

    it('cuts a large request by the device’s size_max and by its own bounds', {
      tags: ['5.2.6.1/sectors'],
    }, async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_SIZE_MAX], sizeMax: 1500 })
      expect(rig.disk.maxRequest).toBe(1024)
      const disk = pattern(10 * 512, 2)
      const address = rig.ram.allocate(10 * 512)
      const read = rig.disk.read(0, address, 9 * 512)
      await settled()
      const found = requests(rig.device)
      expect(found.map(({ sector, room }) => [sector, room - 1])).toEqual([
        [0, 1024],
        [2, 1024],
        [4, 1024],
        [6, 1024],
        [8, 512],
      ])
      for (const request of found)
        answer(rig.device, request, { data: disk.slice(request.sector * 512, request.sector * 512 + request.room - 1) })
      rig.disk.poll(64)
      await read
      expect(rig.memory.read(address, 9 * 512)).toEqual(disk.slice(0, 9 * 512))
    })

    it('reads and writes 3 MiB through a queue of 4', async () => {
      const rig = await makeBlk({ mode, queueMax: 4, sectors: 8192 })
      const bytes = 3 << 20
      const disk = new Uint8Array(8192 * 512)
      const address = rig.ram.allocate(bytes)
      rig.memory.write(address, pattern(bytes, 7))
      const write = rig.disk.write(100, address, bytes)
      await run(rig, disk)
      await write
      expect(Buffer.compare(disk.subarray(100 * 512, 100 * 512 + bytes), pattern(bytes, 7))).toBe(0)
      rig.memory.write(address, new Uint8Array(bytes))
      const read = rig.disk.read(100, address, bytes)
      await run(rig, disk)
      await read
      expect(Buffer.compare(rig.memory.read(address, bytes), pattern(bytes, 7))).toBe(0)
    })

    it('a transfer fails as a whole, once, after all of its parts are back', async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_SIZE_MAX], sizeMax: 512 })
      const address = rig.ram.allocate(8 * 512)
      const state = outcome(rig.disk.read(0, address, 4 * 512))
      await settled()
      const found = requests(rig.device)
      expect(found.length).toBe(4)
      answer(rig.device, found[2], { status: BLK_S_IOERR })
      rig.disk.poll(8)
      await settled()
      // Its memory is still lent for the other three.
      expect(state()).toBe('pending')
      answer(rig.device, found[0], { data: pattern(512) })
      answer(rig.device, found[1], { status: BLK_S_UNSUPP })
      rig.disk.poll(8)
      await settled()
      expect(state()).toBe('pending')
      answer(rig.device, found[3], { data: pattern(512) })
      rig.disk.poll(8)
      await settled()
      expect(state()).toBe('BLK_IOERR')
      expect(rig.disk.counters.failed).toBe(1)
      // And the driver goes on.
      const next = rig.disk.read(0, address, 512)
      await run(rig, pattern(512, 9))
      await next
    })

    it.each([
      ['IOERR', { status: BLK_S_IOERR }, 'BLK_IOERR'],
      ['UNSUPP', { status: BLK_S_UNSUPP }, 'BLK_UNSUPPORTED'],
      ['a status that there is not', { status: 77 }, 'BLK_STATUS'],
      ['no status at all', { status: null }, 'BLK_NO_STATUS'],
      ['the preset 0xff written back', { status: 0xff }, 'BLK_NO_STATUS'],
      ['success for a read of which nothing was written', { status: 0, used: 0 }, 'BLK_SHORT'],
      ['success for a read that lacks the status byte', { status: 0, used: 512 }, 'BLK_SHORT'],
      ['success for half a read', { status: 0, used: 257 }, 'BLK_SHORT'],
      ['a status that is none of the specification', { status: 0xfe }, 'BLK_STATUS'],
    ])('blk/status: %s fails the request with its reason, and only that', async (_what, how, code) => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(1024)
      const bad = outcome(rig.disk.read(1, address, 512))
      const good = outcome(rig.disk.read(2, guestAddress(address + 512), 512))
      await settled()
      const [first, second] = requests(rig.device)
      answer(rig.device, first, { data: pattern(512), ...how })
      answer(rig.device, second, { data: pattern(512) })
      rig.disk.poll(8)
      await settled()
      expect([bad(), good()]).toEqual([code, 'ok'])
      expect(rig.disk.counters.failed).toBe(1)
      expect(rig.disk.broken).toBeNull()
      expect(rig.memory.read(guestAddress(address + 512), 512)).toEqual(pattern(512))
    })

    it('blk/status: a stale OK of an earlier request in the same cell proves nothing', async () => {
      const rig = await makeBlk({ mode, queueMax: 4 })
      const address = rig.ram.allocate(512)
      for (let round = 0; round < 8; round++) {
        const good = rig.disk.read(0, address, 512)
        await run(rig, new Uint8Array(512))
        await good
      }
      const state = outcome(rig.disk.read(0, address, 512))
      await settled()
      const [request] = requests(rig.device)
      answer(rig.device, request, { status: null })
      rig.disk.poll(8)
      await settled()
      expect(state()).toBe('BLK_NO_STATUS')
    })

    it('blk/status: a write needs its status byte in the used length (§2.7.8.2)', async () => {
      const rig = await makeBlk({ mode })
      const state = outcome(rig.disk.write(1, rig.ram.allocate(512), 512))
      await settled()
      answer(rig.device, requests(rig.device)[0], { used: 0 })
      rig.disk.poll(8)
      await settled()
      expect(state()).toBe('BLK_SHORT')
    })

    it('ring/used: a used length above what was posted is clamped and proves nothing wrong', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(1024)
      rig.memory.write(address, new Uint8Array(1024).fill(0xee))
      const read = rig.disk.read(1, address, 512)
      await settled()
      answer(rig.device, requests(rig.device)[0], { data: pattern(512), used: 0xffff_ffff })
      rig.disk.poll(8)
      await read
      expect(rig.memory.read(address, 512)).toEqual(pattern(512))
      expect(rig.memory.read(guestAddress(address + 512), 512).every((byte) => byte === 0xee)).toBe(true)
    })

    it('tells the device’s ID, of up to 20 characters, with or without NUL', { tags: ['5.2.6.1/id'] }, async () => {
      const rig = await makeBlk({ mode })
      for (const id of ['', 'disk', 'x'.repeat(20)]) {
        const promise = rig.disk.id()
        await settled()
        const [request] = requests(rig.device)
        expect(request.room - 1).toBe(20)
        answer(rig.device, request, { data: new TextEncoder().encode(id.padEnd(20, '\0')) })
        rig.disk.poll(8)
        expect(await promise).toBe(id)
      }
      const none = outcome(rig.disk.id())
      await settled()
      answer(rig.device, requests(rig.device)[0], { status: BLK_S_UNSUPP })
      rig.disk.poll(8)
      await settled()
      expect(none()).toBe('BLK_UNSUPPORTED')
    })

    it('flushes only where FLUSH was agreed', {
      tags: ['5.2.6.1/flush-sector', '5.2.5.1/flush', '5.2.5.1/write-back', '5.2.6.1/flush-no-data'],
    }, async () => {
      const without = await makeBlk({ mode })
      await without.disk.flush()
      expect(without.device.notified).toEqual([])
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_FLUSH] })
      const state = outcome(rig.disk.flush())
      await settled()
      const [request] = requests(rig.device)
      expect([request.sector, request.data.length]).toEqual([0, 0])
      expect(request.chain.segments.map(({ length, writable }) => [length, writable])).toEqual([
        [16, false],
        [1, true],
      ])
      expect(state()).toBe('pending')
      answer(rig.device, request, { status: BLK_S_IOERR })
      rig.disk.poll(8)
      await settled()
      expect(state()).toBe('BLK_IOERR')
    })

    it('blk/bytes: readBytes and writeBytes give their guest memory back, also when they fail', async () => {
      const rig = await makeBlk({ mode })
      const { live } = rig.ram
      const disk = new Uint8Array(4096 * 512)
      const write = rig.disk.writeBytes(3, pattern(2048, 1))
      await run(rig, disk)
      await write
      const read = rig.disk.readBytes(3, 2048)
      await run(rig, disk)
      expect(await read).toEqual(pattern(2048, 1))
      const failing = outcome(rig.disk.readBytes(0, 512))
      await settled()
      answer(rig.device, requests(rig.device)[0], { status: BLK_S_IOERR })
      rig.disk.poll(8)
      await settled()
      expect(failing()).toBe('BLK_IOERR')
      expect(rig.ram.live).toBe(live)
    })

    it.each([
      ['an empty range', 0, 0, 'BLK_LENGTH'],
      ['half a sector', 0, 256, 'BLK_LENGTH'],
      ['a sector and a byte', 0, 513, 'BLK_LENGTH'],
      ['a length that is no number', 0, Number.NaN, 'BLK_LENGTH'],
      ['a negative length', 0, -512, 'BLK_LENGTH'],
      ['the first sector beyond the end', 4096, 512, 'BLK_RANGE'],
      ['a range across the end', 4095, 1024, 'BLK_RANGE'],
      ['a negative sector', -1, 512, 'BLK_RANGE'],
      ['half a sector number', 0.5, 512, 'BLK_RANGE'],
      ['a sector that is no number', Number.NaN, 512, 'BLK_RANGE'],
      ['a sector near 2^53', 2 ** 53 - 1, 512, 'BLK_RANGE'],
    ])('blk/range: refuses %s before the device hears of it', async (_what, sector, length, code) => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(4096)
      await expect(rig.disk.read(sector, address, length)).rejects.toMatchObject({ code })
      await expect(rig.disk.write(sector, address, length)).rejects.toMatchObject({ code })
      await expect(rig.disk.readBytes(sector, length)).rejects.toMatchObject({ code })
      await settled()
      expect(rig.device.take(0)).toEqual([])
    })

    it.each([
      [1, 4096],
      [7, 8192],
      [8, 512],
      [0, 4608],
    ])('blk/alignment: refuses sector %d with %d bytes of a device with blocks of 4096', async (sector, length) => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_BLK_SIZE], blockSize: 4096 })
      const address = rig.ram.allocate(8192)
      for (const request of [
        rig.disk.read(sector, address, length),
        rig.disk.write(sector, address, length),
        rig.disk.readBytes(sector, length),
        rig.disk.writeBytes(sector, new Uint8Array(length)),
      ])
        await expect(request).rejects.toMatchObject({ code: 'BLK_ALIGNMENT', details: { blockSize: 4096 } })
      await settled()
      expect(rig.device.take(0)).toEqual([])
    })

    it.each([4096, 65_536])('blk/alignment: cuts large requests at blocks of %d', async (blockSize) => {
      const features = [VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_SIZE_MAX]
      const rig = await makeBlk({ mode, features, blockSize, sizeMax: 3 * blockSize + 512 })
      const read = rig.disk.readBytes(0, 8 * blockSize)
      const bytes = pattern(4096 * 512)
      const seen: number[][] = []
      for (let i = 0; i < 12; i++) {
        await settled()
        for (const request of requests(rig.device)) {
          seen.push([request.sector, request.room - 1])
          const at = request.sector * 512
          answer(rig.device, request, { data: bytes.slice(at, at + request.room - 1) })
        }
        rig.disk.poll(64)
      }
      expect(await read).toEqual(bytes.slice(0, 8 * blockSize))
      expect(seen.length).toBeGreaterThan(1)
      for (const [sector, length] of seen) expect([(sector * 512) % blockSize, length % blockSize]).toEqual([0, 0])
    })

    it('blk/residue: a device that claims a read and writes nothing delivers zeros, and not what was written before', async () => {
      const rig = await makeBlk({ mode })
      const write = rig.disk.writeBytes(0, pattern(4096))
      await run(rig, new Uint8Array(4096 * 512))
      await write
      const read = rig.disk.readBytes(0, 4096)
      await settled()
      const [request] = requests(rig.device)
      const status = request.chain.segments.at(-1) as { address: number }
      rig.device.bytes(status.address, 1)[0] = 0
      rig.device.use(0, request.chain.head, request.room)
      rig.disk.poll(8)
      expect(await read).toEqual(new Uint8Array(4096))
    })

    it('blk/read-only: refuses writes itself', { tags: ['5.2.6.1/read-only'] }, async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_RO] })
      expect(rig.disk.readOnly).toBe(true)
      await expect(rig.disk.write(0, rig.ram.allocate(512), 512)).rejects.toMatchObject({ code: 'BLK_READ_ONLY' })
      const { live } = rig.ram
      await expect(rig.disk.writeBytes(0, new Uint8Array(512))).rejects.toMatchObject({ code: 'BLK_READ_ONLY' })
      expect(rig.ram.live).toBe(live)
      expect(rig.device.take(0)).toEqual([])
    })

    it.each([
      ['below memory', BASE - 512],
      ['across its end', BASE + RAM_BYTES - 256],
      ['beyond it', BASE + RAM_BYTES + 4096],
    ])(
      'blk/address: data %s rejects with a reason, throws out of nothing, and the driver goes on',
      async (_where, where) => {
        const rig = await makeBlk({ mode })
        const address = guestAddress(where)
        const states = [
          outcome(rig.disk.read(0, address, 512)),
          outcome(rig.disk.write(0, address, 512)),
          outcome(rig.disk.read(0, address, 128 << 10)),
        ]
        await run(rig, new Uint8Array(512 * 4096))
        expect(states.map((state) => state())).toEqual(['BLK_DMA', 'BLK_DMA', 'BLK_DMA'])
        const next = rig.disk.read(0, rig.ram.allocate(512), 512)
        await run(rig, new Uint8Array(512))
        await next
        expect(rig.device.status & STATUS_DRIVER_OK).toBe(STATUS_DRIVER_OK)
      },
    )

    it('pool/exhausted: requests wait for room and all complete, however little there is', async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_SIZE_MAX], sizeMax: 512 })
      rig.backend.room = 1
      const disk = pattern(64 * 512, 4)
      const address = rig.ram.allocate(64 * 512)
      const reads = Array.from({ length: 16 }, (_, i) => rig.disk.read(4 * i, guestAddress(address + 2048 * i), 2048))
      await run(rig, disk)
      await Promise.all(reads)
      expect(rig.memory.read(address, 64 * 512)).toEqual(disk)
    })

    it('fails requests with a reason where maps cannot be committed, and goes on', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(512)
      rig.backend.commitStatus = -5
      const state = outcome(rig.disk.read(0, address, 512))
      await run(rig, new Uint8Array(512))
      expect(state()).toBe('BLK_DMA')
      rig.backend.commitStatus = 0
      const next = rig.disk.read(0, address, 512)
      await run(rig, new Uint8Array(512))
      await next
    })
  })

  describe('blk/status: what the backend could not take back', () => {
    it('a read whose bytes were not delivered intact fails', async () => {
      const rig = await makeBlk()
      rig.backend.unmapStatus = -4
      const state = outcome(rig.disk.read(0, rig.ram.allocate(512), 512))
      await run(rig, new Uint8Array(512))
      expect(state()).toBe('BLK_CORRUPT')
    })
  })

  describe('blk/queue: the synchronous core', () => {
    it('takes batches, tells why it took less, and reports tokens with statuses in one call', async () => {
      const rig = await makeRig(DEVICE_ID_BLOCK, { config: new Uint8Array(64) })
      const reports: [number, number][][] = []
      const queue = new BlkQueue(rig.session, {
        mode: 'map',
        queueSize: 8,
        buffers: { count: 1, bytes: 512 },
        completed: (batch) =>
          reports.push(
            Array.from({ length: batch.count }, (_, i): [number, number] => [batch.token[i], batch.status[i]]),
          ),
      })
      rig.session.start()
      const address = rig.ram.allocate(8 * 512)
      const batch = new RequestBatch(4)
      for (let i = 0; i < 4; i++) {
        batch.type[i] = BLK_T_IN
        batch.sector[i] = i
        batch.address[i] = address + 512 * i
        batch.length[i] = 512
        batch.token[i] = 100 + i
      }
      batch.count = 4
      // Eight descriptors are two requests of three.
      expect(queue.submit(batch)).toBe(2)
      expect(queue.submitStatus).toBe(-16)
      const found = requests(rig.device)
      answer(rig.device, found[0], { status: null })
      answer(rig.device, found[1], { used: 1 })
      expect(queue.poll(8)).toBe(2)
      expect(reports).toEqual([
        [
          [100, BLK_S_UNWRITTEN],
          [101, BLK_S_SHORT],
        ],
      ])
      expect(queue.submit(batch)).toBe(2)
    })
  })
})
