import { DMA_EXHAUSTED, DMA_OK, DMA_UNMAPPABLE } from '@guestdma/dma'
import { FrameBatch, NetDriver } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import {
  DEVICE_ID_NET,
  MMIO_CONFIG,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_STATUS,
  STATUS_DRIVER_OK,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import { QUEUE_FULL } from '@guestdma/virtqueue'
import { describe, expect, it } from 'vitest'
import { BASE, deliver, MAC, type NetRig, pattern, RAM_BYTES, rigsOver, TRANSPORTS } from './support/rig.ts'

const MODES = ['map', 'pool'] as const

/** The device completes everything that was sent; returns the frames without their headers. */
function transmitted({ device }: NetRig, most = Infinity): Uint8Array[] {
  return device.take(1, most).map((chain) => {
    const bytes = device.gather(chain)
    device.use(1, chain.head, 0)
    return bytes.slice(12)
  })
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const { makeRig, makeNet } = rigsOver(transport)

  describe('init/order: what the net driver does around DRIVER_OK (virtio 1.4 §3.1.1)', () => {
    it('makes both queues ready, then sets DRIVER_OK once, and notifies nobody before', {
      tags: ['3.1.1/order', '3.1.1/no-early-doorbell'],
    }, async () => {
      const { device } = await makeNet()
      const events = device.log
        .filter(({ kind }) => kind === 'w')
        .flatMap(({ offset, value }) => {
          if (offset === MMIO_QUEUE_READY) return ['ready']
          if (offset === MMIO_STATUS && (value & STATUS_DRIVER_OK) !== 0) return ['DRIVER_OK']
          return offset === MMIO_QUEUE_NOTIFY ? ['notify'] : []
        })
      expect(events).toEqual(['ready', 'ready', 'DRIVER_OK', 'notify'])
    })

    it('reads configuration after FEATURES_OK only, in the width of its fields, and never writes it', {
      tags: ['3.1.1/no-early-config-write', '5.1.4.2/unwritten'],
    }, async () => {
      const { device } = await makeNet({ features: [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_MTU] })
      const config = device.log.filter(({ offset }) => offset >= MMIO_CONFIG)
      expect(config.every(({ kind }) => kind === 'r')).toBe(true)
      expect(config.map(({ offset, size }) => `${offset - MMIO_CONFIG}/${size}`).sort()).toEqual([
        '0/1',
        '1/1',
        '10/2',
        '2/1',
        '3/1',
        '4/1',
        '5/1',
        '6/2',
      ])
      const featuresOk = device.log.findIndex(
        ({ kind, offset, value }) => kind === 'w' && offset === MMIO_STATUS && (value & 8) !== 0,
      )
      expect(device.log.findIndex(({ offset }) => offset >= MMIO_CONFIG)).toBeGreaterThan(featuresOk)
    })

    it('reads no field whose feature was not negotiated (§2.5.1)', {
      tags: ['5.1.4.2/status', '2.5.1/optional-fields'],
    }, async () => {
      const { device, net } = await makeNet({ features: [] })
      expect(device.log.filter(({ offset }) => offset >= MMIO_CONFIG)).toEqual([])
      expect(net.mac).toBeNull()
      expect(net.linkUp).toBe(true)
      expect(net.mtu).toBe(1500)
    })

    it('does not accept MRG_RXBUF, which it does not implement', async () => {
      const { session, device } = await makeNet({ features: [VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF] })
      expect(session.features.has(VIRTIO_NET_F_MRG_RXBUF)).toBe(false)
      expect(device.accepted.bits()).toEqual([VIRTIO_NET_F_MAC, 32])
    })
  })

  describe('net/config (virtio 1.4 §5.1.4)', () => {
    it('takes MAC, status and MTU from the device', {
      tags: ['5.1.4.2/status', '5.1.4.2/mac-address', '5.1.4.2/mtu', '5.1.4.2/mac'],
    }, async () => {
      const features = [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_MTU]
      const { net } = await makeNet({ features, mtu: 1400, linkStatus: 0 })
      expect([...(net.mac ?? [])]).toEqual(MAC)
      expect([net.mtu, net.maxFrame, net.linkUp]).toEqual([1400, 1414, false])
    })

    it('has a consistent picture although the configuration changes while it is read', async () => {
      const rig = await makeRig(DEVICE_ID_NET, {
        features: [VIRTIO_NET_F_MAC],
        config: Uint8Array.from([2, 2, 2, 2, 2, 2, 0, 0]),
      })
      const { device } = rig
      const read = device.read.bind(device)
      let changed = false
      device.read = (offset, size) => {
        const value = read(offset, size)
        if (offset === MMIO_CONFIG + 2 && !changed) {
          changed = true
          device.config.fill(6, 0, 6)
          device.generation++
        }
        return value
      }
      expect([...(new NetDriver(rig.session).mac ?? [])]).toEqual([6, 6, 6, 6, 6, 6])
    })

    it.each([
      ['zero', [0, 0, 0, 0, 0, 0]],
      ['a group', [1, 0, 0x5e, 0, 0, 1]],
      ['everybody', [255, 255, 255, 255, 255, 255]],
    ])('takes an address that is no station’s (%s) for none, and says so', async (_what, mac) => {
      const rig = await makeNet({ mac })
      expect(rig.net.mac).toBe(null)
      expect(rig.warnings).toMatchObject([{ code: 'NET_MAC', part: 'dev0', details: { mac } }])
      expect((await makeNet({ features: [], mac })).warnings).toEqual([])
    })

    it.each([0, 1, 67])('refuses an MTU of %d (§5.1.4.1 says 68 at least)', async (mtu) => {
      await expect(makeNet({ features: [VIRTIO_NET_F_MTU], mtu })).rejects.toMatchObject({
        code: 'NET_MTU',
        details: { mtu },
      })
    })

    it.each([68, 1400])(
      'sends no frame above an MTU of %d (§5.1.4.2)',
      { tags: ['5.1.4.2/mtu-transmit'] },
      async (mtu) => {
        const rig = await makeNet({ features: [VIRTIO_NET_F_MTU], mtu })
        const refused = expect.objectContaining({ code: 'NET_FRAME_LENGTH' })
        expect(() => rig.net.sendCopy(pattern(mtu + 15))).toThrow(refused)
        expect(rig.device.take(1)).toEqual([])
        expect(rig.net.sendCopy(pattern(mtu + 14))).toBe(true)
      },
    )

    it.each([68, 9000, 65535])('works with an MTU of %d', async (mtu) => {
      const rig = await makeNet({ features: [VIRTIO_NET_F_MTU], mtu, queueSize: 16 })
      const frame = pattern(mtu + 14)
      expect(rig.net.sendCopy(frame)).toBe(true)
      expect(transmitted(rig)).toEqual([frame])
      deliver(rig.device, frame)
      rig.net.poll(8)
      expect(rig.frames).toEqual([frame])
    })

    it.each([68, 1500, 9000])(
      'posts receive buffers for the largest frame under an MTU of %d, and never less than 1526 bytes (§5.1.9.3.1)',
      { tags: ['5.1.4.2/mtu-buffers', '5.1.9.3.1/buffer-size'] },
      async (mtu) => {
        const { device } = await makeNet({ features: [VIRTIO_NET_F_MTU], mtu, queueSize: 8 })
        const posted = device.take(0)
        expect(posted.length).toBe(8)
        for (const { segments } of posted) {
          const bytes = segments.reduce((sum, { length }) => sum + length, 0)
          expect(segments.every(({ writable }) => writable)).toBe(true)
          expect(bytes).toBeGreaterThanOrEqual(Math.max(1526, 12 + mtu + 14))
        }
      },
    )

    it.each([
      ['map', 4 << 20],
      ['pool', 1 << 20],
    ] as const)(
      'net/buffers: in %s mode each direction holds at most %d bytes, whatever the MTU',
      async (mode, most) => {
        const rig = await makeNet({ mode, features: [VIRTIO_NET_F_MTU], mtu: 65_520, ramBytes: 2 * most + (64 << 10) })
        const frame = pattern(65_534)
        let sent = 0
        while (rig.net.sendCopy(frame)) sent++
        expect(sent).toBe(Math.floor(most / (65_534 + 16)))
        expect(rig.device.take(0).length).toBe(sent)
        // Full, and there is room again once something was sent.
        expect(rig.net.sendStatus).toBe(QUEUE_FULL)
        const [first, ...rest] = rig.device.take(1)
        expect(rest.length).toBe(sent - 1)
        rig.device.use(1, first.head, 0)
        rig.net.poll(8)
        expect(rig.events).toEqual(['drain'])
        expect(rig.net.sendCopy(frame)).toBe(true)
      },
    )

    it('net/back-pressure: drain follows an acquire that had no buffer', async () => {
      const rig = await makeNet({ queueSize: 2 })
      const batch = new FrameBatch(2)
      for (let i = 0; i < 2; i++) batch.buffer[i] = rig.net.acquire()
      batch.length.fill(60)
      batch.count = 2
      expect(rig.net.send(batch)).toBe(2)
      expect([rig.net.acquire(), rig.net.sendStatus]).toEqual([-1, QUEUE_FULL])
      rig.net.poll(8)
      expect(rig.events).toEqual([])
      rig.device.use(1, rig.device.take(1)[0].head, 0)
      rig.net.poll(8)
      expect(rig.events).toEqual(['drain'])
      expect(rig.net.acquire()).toBeGreaterThanOrEqual(0)
    })

    it('refuses a device without a transmit queue', async () => {
      await expect(makeNet({ queueMax: [256, 0] })).rejects.toMatchObject({
        code: 'DRIVER_NO_QUEUE',
        details: { index: 1 },
      })
    })
  })

  describe('ring/geometry: sizes that a device may allow', () => {
    it('fails in map mode with a queue of 1, since a frame in the caller’s memory needs two descriptors', async () => {
      await expect(makeNet({ queueMax: 1 })).rejects.toMatchObject({
        code: 'VIRTQUEUE_TOO_SMALL',
        details: { size: 1, needed: 2 },
      })
    })

    it.each(
      MODES.flatMap((mode) => [1, 2, 3, 4, 7, 8, 100, 256, 0xffff_ffff].map((queueMax) => [mode, queueMax] as const)),
    )('sends and receives in %s mode where the device allows %d entries', async (mode, queueMax) => {
      if (mode === 'map' && queueMax === 1) return expect(queueMax).toBe(1)
      const rig = await makeNet({ mode, queueMax, queueSize: 32 })
      const size = 2 ** Math.floor(Math.log2(Math.min(queueMax, 32)))
      expect(rig.session.queues.map((queue) => queue.size)).toEqual([size, size])
      for (let round = 0; round < 3 * size; round++) {
        const frame = pattern(60 + round, round)
        expect(rig.net.sendCopy(frame, round)).toBe(true)
        expect(transmitted(rig)).toEqual([frame])
        deliver(rig.device, frame)
        rig.net.poll(8)
        expect(rig.frames.at(-1)).toEqual(frame)
      }
      expect(rig.sent.length).toBe(3 * size)
      expect(rig.net.broken).toBeNull()
    })

    it('passes the wrap of the 16-bit indices with every queue feature', async () => {
      const features = [VIRTIO_NET_F_MAC, VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_IN_ORDER]
      const rig = await makeNet({ features, queueSize: 4 })
      const { device, net } = rig
      const frame = pattern(60)
      let wrong = 0
      for (let round = 0; round < 66_000; round++) {
        if (!net.sendCopy(frame)) wrong++
        const [chain] = device.take(1)
        if (chain === undefined) wrong++
        else device.use(1, chain.head, 0)
        net.poll(4)
        device.log.length = 0
      }
      expect(wrong).toBe(0)
      expect(net.counters.framesSent).toBe(66_000)
      // Each send was news to a device that had seen everything: no kick is lost at the wrap.
      expect(device.notified.filter((value) => value === 1).length).toBe(66_000)
    })
  })

  describe.each(MODES)('net/send in %s mode', (mode) => {
    it('puts a zero header of 12 bytes before a copied frame', {
      tags: [
        '5.1.9.2.1/header',
        '5.1.9.2.1/num-buffers',
        '5.1.9.2.1/no-csum',
        '5.1.9.2.1/no-tso4',
        '5.1.9.2.1/no-tso6',
        '5.1.9.2.1/no-ufo',
        '5.1.9.2.1/no-uso',
        '5.1.9.2.1/no-tunnel-gso',
        '5.1.9.2.1/no-tunnel-csum',
        '5.1.9.2.1/gso-none',
        '5.1.9.2.1/no-tunnel-bits',
        '5.1.9.2.1/no-tunnel-csum-bit',
        '5.1.9.2.1/receive-flags',
        '5.1.9.3.1/header',
      ],
    }, async () => {
      const rig = await makeNet({ mode })
      const frame = pattern(61)
      expect(rig.net.sendCopy(frame, 7)).toBe(true)
      const [chain] = rig.device.take(1)
      expect(rig.device.gather(chain)).toEqual(Uint8Array.from([...new Uint8Array(12), ...frame]))
      expect(chain.segments.every(({ writable }) => !writable)).toBe(true)
      expect(rig.device.notified.at(-1)).toBe(1)
      expect(rig.sent).toEqual([])
      rig.device.use(1, chain.head, 0)
      expect(rig.net.poll(8)).toBe(1)
      expect(rig.sent).toEqual([7])
      expect(rig.net.counters).toMatchObject({ framesSent: 1, bytesSent: 61 })
    })

    it('sends a frame in place from a buffer that was acquired', async () => {
      const rig = await makeNet({ mode })
      const { net } = rig
      const frame = pattern(1000, 3)
      const buffer = net.acquire()
      net.bufferRegion.u8.set(frame, net.bufferOffset(buffer))
      const batch = new FrameBatch(4)
      batch.buffer[0] = buffer
      batch.length[0] = frame.length
      batch.token[0] = 42
      batch.count = 1
      expect(net.send(batch)).toBe(1)
      expect(transmitted(rig)).toEqual([frame])
      net.poll(8)
      expect(rig.sent).toEqual([42])
    })

    it('takes a buffer back that was not sent', async () => {
      const { net } = await makeNet({ mode, queueSize: 4 })
      const buffers = [net.acquire(), net.acquire(), net.acquire(), net.acquire()]
      expect(new Set(buffers).size).toBe(4)
      expect(net.acquire()).toBe(-1)
      net.release(buffers[2])
      expect(net.acquire()).toBe(buffers[2])
    })

    it('net/misuse: throws when a buffer is released twice, and hands no buffer out twice', async () => {
      const { net } = await makeNet({ mode, queueSize: 4 })
      const buffer = net.acquire()
      net.release(buffer)
      expect(() => net.release(buffer)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^[A-Z]+_/) }))
      const again = [net.acquire(), net.acquire(), net.acquire(), net.acquire()]
      expect(new Set(again).size).toBe(4)
    })

    it.each([4, 9999, -2, 2 ** 31 - 1])(
      'net/misuse: refuses a batch that names buffer %d, which there is not, and sends nothing',
      async (buffer) => {
        const rig = await makeNet({ mode, queueSize: 4 })
        const batch = new FrameBatch(2)
        batch.buffer[0] = rig.net.acquire()
        batch.buffer[1] = buffer
        batch.length.fill(60)
        batch.count = 2
        expect(() => rig.net.send(batch)).toThrow(expect.objectContaining({ code: 'NET_FRAME_PLACE' }))
        expect(rig.device.take(1)).toEqual([])
      },
    )

    it.each([0, 1515, 100_000])(
      'refuses a frame of %d bytes; a bad row stops the whole batch before anything is sent',
      async (length) => {
        const rig = await makeNet({ mode })
        expect(() => rig.net.sendCopy(new Uint8Array(length))).toThrow(
          expect.objectContaining({ code: 'NET_FRAME_LENGTH' }),
        )
        const batch = new FrameBatch(2)
        batch.buffer[0] = rig.net.acquire()
        batch.buffer[1] = rig.net.acquire()
        batch.length.set([60, length])
        batch.count = 2
        expect(() => rig.net.send(batch)).toThrow(
          expect.objectContaining({ code: 'NET_FRAME_LENGTH', details: { length, maxFrame: 1514 } }),
        )
        expect(rig.device.take(1)).toEqual([])
        expect(rig.net.counters.framesSent).toBe(0)
      },
    )

    it('a VLAN tag is not part of the MTU, nor are two (802.1Q, 802.1ad)', async () => {
      const tagged = (length: number, ...types: number[]): Uint8Array => {
        const frame = pattern(length)
        types.forEach((type, i) => {
          frame.set([type >> 8, type & 255], 12 + 4 * i)
        })
        return frame
      }
      const rig = await makeNet({ mode })
      const { net } = rig
      const good = [tagged(1518, 0x8100), tagged(1518, 0x88a8), tagged(1522, 0x88a8, 0x8100)]
      for (const frame of good) expect(net.sendCopy(frame)).toBe(true)
      expect(transmitted(rig)).toEqual(good)
      const bad = [tagged(1518, 0x0800), tagged(1519, 0x8100), tagged(1522, 0x8100), tagged(1523, 0x88a8, 0x8100)]
      const batch = new FrameBatch(1)
      batch.count = 1
      for (const frame of bad) {
        expect(() => net.sendCopy(frame)).toThrow(expect.objectContaining({ code: 'NET_FRAME_LENGTH' }))
        batch.buffer[0] = net.acquire()
        net.bufferRegion.u8.set(frame, net.bufferOffset(batch.buffer[0]))
        batch.length[0] = frame.length
        expect(() => net.send(batch)).toThrow(expect.objectContaining({ code: 'NET_FRAME_LENGTH' }))
        net.release(batch.buffer[0])
      }
      net.poll(8)
      batch.buffer[0] = net.acquire()
      net.bufferRegion.u8.set(good[2], net.bufferOffset(batch.buffer[0]))
      batch.length[0] = 1522
      expect(net.send(batch)).toBe(1)
      expect(transmitted(rig)).toEqual([good[2]])
    })

    it.each([1, 2, 13, 14, 59, 60, 1513, 1514])('sends a frame of %d bytes', async (length) => {
      const rig = await makeNet({ mode })
      expect(rig.net.sendCopy(pattern(length))).toBe(true)
      expect(transmitted(rig)).toEqual([pattern(length)])
    })

    it('publishes a batch with one index and one notification', async () => {
      const rig = await makeNet({ mode })
      const { net } = rig
      const batch = new FrameBatch(8)
      for (let i = 0; i < 8; i++) {
        const buffer = net.acquire()
        net.bufferRegion.u8.set(pattern(100 + i, i), net.bufferOffset(buffer))
        batch.buffer[i] = buffer
        batch.length[i] = 100 + i
        batch.token[i] = 1000 + i
      }
      batch.count = 8
      const before = rig.device.notified.length
      expect(net.send(batch)).toBe(8)
      expect(rig.device.notified.slice(before)).toEqual([1])
      expect(transmitted(rig)).toEqual(Array.from({ length: 8 }, (_, i) => pattern(100 + i, i)))
      net.poll(3)
      expect(rig.sent).toEqual([1000, 1001, 1002])
      net.poll(100)
      expect(rig.sent).toEqual(Array.from({ length: 8 }, (_, i) => 1000 + i))
    })

    it('net/back-pressure: a full ring stops the sender, nothing is lost, and drain follows once', async () => {
      const rig = await makeNet({ mode, queueSize: 4 })
      const { net } = rig
      for (let i = 0; i < 4; i++) expect(net.sendCopy(pattern(60, i), i)).toBe(true)
      expect(net.sendCopy(pattern(60, 4), 4)).toBe(false)
      expect(net.sendStatus).toBe(QUEUE_FULL)
      expect(net.poll(8)).toBe(0)
      expect(rig.events).toEqual([])
      expect(transmitted(rig, 1)).toEqual([pattern(60, 0)])
      net.poll(8)
      expect(rig.events).toEqual(['drain'])
      expect(net.sendCopy(pattern(60, 4), 4)).toBe(true)
      expect(transmitted(rig)).toEqual([1, 2, 3, 4].map((seed) => pattern(60, seed)))
      net.poll(8)
      expect(rig.sent).toEqual([0, 1, 2, 3, 4])
      expect(rig.events).toEqual(['drain'])
    })

    it('net/back-pressure: a batch larger than the ring is taken in part, from row 0 on', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      const { net } = rig
      const batch = new FrameBatch(8)
      for (let i = 0; i < 8; i++) {
        batch.buffer[i] = net.acquire()
        batch.length[i] = 60
        batch.token[i] = i
      }
      batch.count = 5
      expect(net.send(batch)).toBe(5)
      batch.buffer.copyWithin(0, 5)
      batch.token.copyWithin(0, 5)
      batch.count = 3
      expect(net.send(batch)).toBe(3)
      batch.count = 1
      expect(net.acquire()).toBe(-1)
      expect(transmitted(rig).length).toBe(8)
      net.poll(16)
      expect(rig.sent).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    })

    it('net/send: used elements that come back in any order release the right buffers and tokens', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      for (let i = 0; i < 8; i++) rig.net.sendCopy(pattern(60, i), i)
      const chains = rig.device.take(1)
      for (const i of [5, 0, 7, 2, 1, 6, 4, 3]) rig.device.use(1, chains[i].head, 0)
      rig.net.poll(8)
      expect(rig.sent).toEqual([5, 0, 7, 2, 1, 6, 4, 3])
      expect(new Set(Array.from({ length: 8 }, () => rig.net.acquire())).size).toBe(8)
    })
  })

  describe.each(MODES)('net/misuse in %s mode: buffers that are not the caller’s to give', (mode) => {
    const batchOf = (...buffers: number[]): FrameBatch => {
      const batch = new FrameBatch(buffers.length)
      batch.buffer.set(buffers)
      batch.length.fill(60)
      batch.token.set(buffers.map((_, i) => i))
      batch.count = buffers.length
      return batch
    }

    it('refuses a batch that names one buffer twice, before anything is sent', async () => {
      const rig = await makeNet({ mode, queueSize: 4 })
      const buffer = rig.net.acquire()
      expect(() => rig.net.send(batchOf(buffer, buffer))).toThrow(expect.objectContaining({ code: 'NET_FRAME_PLACE' }))
      expect(rig.device.take(1)).toEqual([])
    })

    it('refuses a buffer that is with the device already', async () => {
      const rig = await makeNet({ mode, queueSize: 4 })
      const batch = batchOf(rig.net.acquire())
      expect(rig.net.send(batch)).toBe(1)
      expect(() => rig.net.send(batch)).toThrow(expect.objectContaining({ code: 'NET_FRAME_PLACE' }))
      expect(rig.device.take(1).length).toBe(1)
    })

    it('throws when a buffer is released that is with the device, and poll() does not throw later', async () => {
      const rig = await makeNet({ mode, queueSize: 4 })
      const buffer = rig.net.acquire()
      expect(rig.net.send(batchOf(buffer))).toBe(1)
      expect(() => rig.net.release(buffer)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^[A-Z]+_/) }),
      )
      expect(transmitted(rig).length).toBe(1)
      expect(rig.net.poll(8)).toBe(1)
      expect(new Set([rig.net.acquire(), rig.net.acquire(), rig.net.acquire(), rig.net.acquire()]).size).toBe(4)
    })
  })

  describe('net/headed: frames in the caller’s memory with their header before them', () => {
    it('go out as one piece', async () => {
      const rig = await makeNet()
      const address = rig.ram.allocate(2000, 64)
      rig.memory.write(guestAddress(address + 12), pattern(600, 4))
      const batch = new FrameBatch(1)
      batch.headed = true
      batch.address[0] = address + 12
      batch.length[0] = 600
      batch.count = 1
      expect(rig.net.send(batch)).toBe(1)
      const [chain] = rig.device.take(1)
      expect(chain.segments).toEqual([{ address, length: 612, writable: false }])
      expect(rig.device.gather(chain).slice(12)).toEqual(pattern(600, 4))
    })

    it('may be mixed with frames in buffers of the driver’s', async () => {
      const rig = await makeNet()
      const address = rig.ram.allocate(2000, 64)
      rig.memory.write(guestAddress(address + 12), pattern(600, 4))
      const batch = new FrameBatch(2)
      batch.headed = true
      const buffer = rig.net.acquire()
      rig.net.bufferRegion.u8.set(pattern(80, 5), rig.net.bufferOffset(buffer))
      batch.buffer[0] = buffer
      // A stale address, which must not matter.
      batch.address.set([address + 1000, address + 12])
      batch.length.set([80, 600])
      batch.count = 2
      expect(rig.net.send(batch)).toBe(2)
      expect(transmitted(rig)).toEqual([pattern(80, 5), pattern(600, 4)])
    })

    it('go out as one piece too where there are more than the ring holds, and the backend takes but a part', async () => {
      const rig = await makeNet({ queueSize: 4 })
      const address = rig.ram.allocate(2000, 64)
      const batch = new FrameBatch(6)
      batch.headed = true
      batch.address.fill(address + 12)
      batch.length.fill(60)
      batch.count = 6
      rig.backend.commitMaps = () => {
        rig.backend.commitMaps = () => DMA_OK
        return DMA_EXHAUSTED
      }
      expect(rig.net.send(batch)).toBe(1)
      expect([rig.net.sendStatus, batch.count]).toEqual([DMA_EXHAUSTED, 6])
      expect(rig.device.take(1).map(({ segments }) => segments)).toEqual([[{ address, length: 72, writable: false }]])
    })

    it('says why for good where the backend refuses the rest for good', async () => {
      const rig = await makeNet({ queueSize: 4 })
      const batch = new FrameBatch(4)
      batch.headed = true
      batch.address.fill(rig.ram.allocate(2000, 64) + 12)
      batch.length.fill(60)
      batch.count = 4
      rig.backend.commitMaps = () => {
        rig.backend.commitStatus = DMA_UNMAPPABLE
        rig.backend.commitMaps = () => rig.backend.commitStatus
        return DMA_EXHAUSTED
      }
      expect([rig.net.send(batch), rig.net.sendStatus]).toEqual([0, DMA_UNMAPPABLE])
    })

    it('are unmappable where their header would lie before memory', async () => {
      const rig = await makeNet()
      const batch = new FrameBatch(1)
      batch.headed = true
      batch.address[0] = BASE + 11
      batch.length[0] = 60
      batch.count = 1
      expect(rig.net.send(batch)).toBe(0)
      expect(rig.net.sendStatus).toBe(DMA_UNMAPPABLE)
      expect(rig.device.take(1)).toEqual([])
    })
  })

  describe('net/zero-copy: frames in the caller’s own guest memory', () => {
    const send = (rig: NetRig, address: number, length: number, token = 0): number => {
      const batch = new FrameBatch(1)
      batch.address[0] = address
      batch.length[0] = length
      batch.token[0] = token
      batch.count = 1
      return rig.net.send(batch)
    }

    it('lends the bytes where they lie, behind a zero header of its own', async () => {
      const rig = await makeNet()
      const address = rig.ram.allocate(2000, 1) + 3
      rig.memory.write(guestAddress(address), pattern(700, 9))
      expect(send(rig, address, 700, 5)).toBe(1)
      const [chain] = rig.device.take(1)
      expect(chain.segments.at(-1)).toEqual({ address, length: 700, writable: false })
      expect(rig.device.gather(chain)).toEqual(Uint8Array.from([...new Uint8Array(12), ...pattern(700, 9)]))
      rig.device.use(1, chain.head, 0)
      rig.net.poll(1)
      expect(rig.sent).toEqual([5])
      expect(rig.backend.counters.maps - rig.backend.counters.unmaps).toBe(256)
    })

    it.each([
      ['below memory', BASE - 1],
      ['across its end', BASE + RAM_BYTES - 59],
      ['beyond it', BASE + RAM_BYTES],
      ['far away', 2 ** 52],
      ['at no number', Number.NaN],
    ])('reports a frame %s as a permanent status and goes on', async (_where, address) => {
      const rig = await makeNet()
      expect(send(rig, address, 60)).toBe(0)
      expect(rig.net.sendStatus).toBe(DMA_UNMAPPABLE)
      expect(rig.device.take(1)).toEqual([])
      expect(rig.net.broken).toBeNull()
      expect(rig.net.sendCopy(pattern(60))).toBe(true)
      expect(transmitted(rig)).toEqual([pattern(60)])
    })

    it('sends what stands before an unmappable row', async () => {
      const rig = await makeNet()
      const address = rig.ram.allocate(100)
      const batch = new FrameBatch(3)
      batch.address.set([address, 0, address])
      batch.length.fill(60)
      batch.token.set([1, 2, 3])
      batch.count = 3
      expect(rig.net.send(batch)).toBe(1)
      expect(transmitted(rig).length).toBe(1)
      rig.net.poll(4)
      expect(rig.sent).toEqual([1])
    })

    it('is refused in pool mode, where only buffers of the driver’s are visible to the device', async () => {
      const rig = await makeNet({ mode: 'pool' })
      expect(() => send(rig, rig.ram.allocate(100), 60)).toThrow(expect.objectContaining({ code: 'NET_FRAME_PLACE' }))
      expect(rig.device.take(1)).toEqual([])
    })

    it('net/back-pressure: exhausted mappings stop the sender, and drain follows a completion', async () => {
      const rig = await makeNet({ queueSize: 8 })
      rig.backend.room = rig.backend.live + 2
      const address = rig.ram.allocate(100)
      expect([send(rig, address, 60, 1), send(rig, address, 60, 2), send(rig, address, 60, 3)]).toEqual([1, 1, 0])
      expect(rig.net.sendStatus).toBe(DMA_EXHAUSTED)
      expect(transmitted(rig, 1).length).toBe(1)
      rig.net.poll(8)
      expect(rig.events).toEqual(['drain'])
      expect(send(rig, address, 60, 3)).toBe(1)
    })

    it('net/back-pressure: drain also follows where somebody else held what was missing', async () => {
      const rig = await makeNet({ queueSize: 8 })
      rig.backend.room = rig.backend.live
      expect(rig.net.sendCopy(pattern(60))).toBe(false)
      expect(rig.net.sendStatus).toBe(DMA_EXHAUSTED)
      rig.net.poll(8)
      // Another device of the same pool gives its slots back; nothing of ours is outstanding.
      rig.backend.room = Infinity
      rig.net.poll(8)
      expect(rig.events).toContain('drain')
      expect(rig.net.sendCopy(pattern(60))).toBe(true)
    })

    it('gives the buffer of a copied frame back when nothing could be mapped', async () => {
      const rig = await makeNet({ queueSize: 4 })
      rig.backend.room = rig.backend.live
      for (let i = 0; i < 20; i++) expect(rig.net.sendCopy(pattern(60))).toBe(false)
      rig.backend.room = Infinity
      for (let i = 0; i < 4; i++) expect(rig.net.sendCopy(pattern(60, i))).toBe(true)
      expect(transmitted(rig).length).toBe(4)
    })
  })

  describe.each(MODES)('net/receive in %s mode', (mode) => {
    it('hands batches of frames over within the budget and posts the buffers again', async () => {
      const sizes: number[] = []
      const rig = await makeNet({ mode, queueSize: 16, observer: { frames: (batch) => sizes.push(batch.count) } })
      for (let i = 0; i < 16; i++) deliver(rig.device, pattern(60 + i, i))
      expect(rig.net.poll(5)).toBe(5)
      expect(rig.net.poll(5)).toBe(5)
      expect(rig.net.poll(100)).toBe(6)
      expect(rig.net.poll(100)).toBe(0)
      expect(sizes).toEqual([5, 5, 6])
      expect(rig.frames).toEqual(Array.from({ length: 16 }, (_, i) => pattern(60 + i, i)))
      expect(rig.device.take(0).length).toBe(16)
      expect(rig.net.counters).toMatchObject({ framesReceived: 16, malformed: 0 })
    })

    it('fires no callback before poll', async () => {
      const rig = await makeNet({ mode })
      deliver(rig.device, pattern(60))
      rig.net.interrupt()
      expect(rig.frames).toEqual([])
      rig.net.poll(1)
      expect(rig.frames.length).toBe(1)
    })

    it('never posts a buffer that is posted already', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      const free = new Set<number>()
      const posted = new Set<number>()
      const learn = (): void => {
        for (const { head, segments } of rig.device.take(0)) {
          const { address } = segments[0]
          expect(posted.has(address)).toBe(false)
          posted.add(address)
          heads.push({ head, address })
        }
      }
      const heads: { head: number; address: number }[] = []
      for (let round = 0; round < 50; round++) {
        learn()
        const { head, address } = heads.splice((round * 5) % heads.length, 1)[0]
        posted.delete(address)
        free.add(address)
        rig.device.use(0, head, 12 + 60)
        rig.net.poll(8)
      }
      learn()
      expect(posted.size).toBe(8)
      expect(rig.frames.length).toBe(50)
    })

    it.each([
      ['nothing', 0],
      ['part of the header', 11],
      ['the header alone', 12],
    ])(
      'ring/used: counts a buffer in which the device claims %s as malformed, and posts it again',
      async (_what, used) => {
        const rig = await makeNet({ mode, queueSize: 4 })
        deliver(rig.device, pattern(60), { used })
        rig.net.poll(8)
        expect(rig.frames).toEqual([])
        expect(rig.net.counters).toMatchObject({ framesReceived: 0, bytesReceived: 0, malformed: 1 })
        expect(rig.net.broken).toBeNull()
        expect(rig.device.take(0).length).toBe(4)
      },
    )

    it.each([1535, 65536, 0xffff_ffff])('ring/used: a claim of %d bytes is clamped to the buffer', async (used) => {
      const rig = await makeNet({ mode, queueSize: 4 })
      deliver(rig.device, pattern(60), { used })
      rig.net.poll(8)
      expect(rig.frames.map(({ length }) => length)).toEqual([1522])
      expect(rig.frames[0].slice(0, 60)).toEqual(pattern(60))
      expect(rig.session.queues[0].counters.clamped).toBe(1)
    })

    it.each([
      ['NEEDS_CSUM', 1, 0],
      ['gso_type TCPV4', 0, 1],
      ['gso_type UDP', 0, 3],
      ['gso_type ECN alone', 0, 0x80],
      ['both tunnel bits', 0, 0x60 | 1],
      ['a tunnel bit', 0, 0x20 | 1],
      ['a tunnel bit with DATA_VALID', 2, 0x40 | 4],
    ])(
      'net/header: drops a frame that asks for an offload nobody agreed on (%s)',
      { tags: ['5.1.9.4.2/both-tunnels', '5.1.9.4.2/tunnel-flags'] },
      async (_what, flags, gso) => {
        const rig = await makeNet({ mode, queueSize: 4 })
        const header = new Uint8Array(12)
        header[0] = flags
        header[1] = gso
        deliver(rig.device, pattern(60), { header })
        deliver(rig.device, pattern(61))
        rig.net.poll(8)
        expect(rig.frames).toEqual([pattern(61)])
        expect(rig.net.counters.malformed).toBe(1)
      },
    )

    it.each([0x10, 0x20, 0x40, 0x80])(
      'net/header: unknown flag bits (%d) are ignored (§5.1.9.4.2, MUST)',
      { tags: ['5.1.9.4.2/unknown-flags'] },
      async (flags) => {
        const rig = await makeNet({ mode, queueSize: 4 })
        const header = new Uint8Array(12)
        header[0] = flags
        deliver(rig.device, pattern(60), { header })
        rig.net.poll(8)
        expect(rig.frames).toEqual([pattern(60)])
      },
    )

    it('net/header: ignores num_buffers and the offload fields where nothing was agreed', {
      tags: [
        '5.1.9.4.2/csum-fields',
        '5.1.9.4.2/hdr-len',
        '2.7.8.3/length-believed',
        '5.1.9.4.2/outer-offset',
        '5.1.9.4.2/checksum',
        '5.1.9.4.2/tunnel-offsets',
      ],
    }, async () => {
      const rig = await makeNet({ mode, queueSize: 4 })
      deliver(rig.device, pattern(60), { header: Uint8Array.from([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) })
      rig.net.poll(8)
      expect(rig.frames).toEqual([pattern(60)])
    })

    it('works without a listener', async () => {
      const rig = await makeRig(DEVICE_ID_NET, { config: new Uint8Array(16) })
      const net = new NetDriver(rig.session, { mode, queueSize: 4 })
      net.poll(1)
      for (let i = 0; i < 10; i++) {
        deliver(rig.device, pattern(60))
        expect(net.poll(8)).toBe(1)
      }
      expect(net.counters.framesReceived).toBe(10)
    })
  })

  describe('net/receive: a buffer is never lost', () => {
    it('RT-Thread #11726: buffers that cannot be posted now are posted later, all of them', async () => {
      const rig = await makeNet({ queueSize: 8 })
      for (let i = 0; i < 8; i++) deliver(rig.device, pattern(60, i))
      rig.backend.room = 0
      rig.net.poll(8)
      expect(rig.frames.length).toBe(8)
      expect(rig.device.take(0)).toEqual([])
      rig.net.poll(8)
      rig.backend.room = 3
      rig.net.poll(8)
      expect(rig.device.take(0).length).toBe(3)
      rig.backend.room = Infinity
      rig.net.poll(8)
      const last = rig.device.take(0)
      expect(last.length).toBe(5)
      expect(rig.session.queues[0].outstanding).toBe(8)
    })

    it('starts without receive buffers where there is no room yet, and posts them when there is', async () => {
      const rig = await makeRig(DEVICE_ID_NET, { config: new Uint8Array(16) })
      rig.backend.room = 0
      const net = new NetDriver(rig.session, { queueSize: 4 })
      net.poll(1)
      expect(rig.device.take(0)).toEqual([])
      rig.backend.room = Infinity
      net.poll(1)
      expect(rig.device.take(0).length).toBe(4)
    })

    it('undoes a batch of receive buffers whose maps cannot be committed, and tries again', async () => {
      const rig = await makeRig(DEVICE_ID_NET, { config: new Uint8Array(16) })
      rig.backend.commitStatus = -5
      const net = new NetDriver(rig.session, { queueSize: 4 })
      net.poll(1)
      expect(rig.device.take(0)).toEqual([])
      expect(rig.backend.live).toBe(0)
      net.poll(1)
      rig.backend.commitStatus = 0
      net.poll(1)
      const posted = rig.device.take(0)
      expect(new Set(posted.map(({ segments }) => segments[0].address)).size).toBe(4)
    })

    it('sends nothing and keeps the caller’s buffers where the maps of a batch cannot be committed', async () => {
      const rig = await makeNet({ queueSize: 4 })
      rig.backend.commitStatus = -5
      for (let i = 0; i < 10; i++) expect(rig.net.sendCopy(pattern(60))).toBe(false)
      expect(rig.device.take(1)).toEqual([])
      expect(rig.net.counters.framesSent).toBe(0)
      rig.backend.commitStatus = 0
      expect(rig.net.sendCopy(pattern(60, 2))).toBe(true)
      expect(transmitted(rig)).toEqual([pattern(60, 2)])
    })

    it('counts a buffer that the backend could not take back intact as malformed and posts it again', async () => {
      const rig = await makeNet({ queueSize: 4 })
      rig.backend.unmapStatus = -4
      deliver(rig.device, pattern(60))
      rig.net.poll(8)
      expect(rig.frames).toEqual([])
      expect(rig.net.counters.malformed).toBe(1)
      expect(rig.device.take(0).length).toBe(4)
    })
  })

  describe('net/link (virtio 1.4 §5.1.4)', () => {
    const make = (): Promise<NetRig> => makeNet({ features: [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS] })
    const set = ({ device, net }: NetRig, status: number): void => {
      device.config[6] = status
      device.generation++
      device.interrupts |= 2
      net.interrupt()
    }

    it('tells of changes once each, from poll', async () => {
      const rig = await make()
      set(rig, 0)
      expect(rig.events).toEqual([])
      rig.net.poll(1)
      expect([rig.events, rig.net.linkUp]).toEqual([['down'], false])
      set(rig, 2)
      rig.net.poll(1)
      expect(rig.events).toEqual(['down'])
      set(rig, 3)
      rig.net.poll(1)
      expect([rig.events, rig.net.linkUp]).toEqual([['down', 'up'], true])
      expect(rig.device.interrupts & 2).toBe(0)
    })

    it('handles one interrupt for both queues and for the configuration (§4.1.5.4.2)', {
      tags: ['4.1.5.4.2/shared-interrupt', '4.2.3.4.1/read-status', '4.2.3.4.1/all-queues'],
    }, async () => {
      const rig = await make()
      rig.net.sendCopy(pattern(61), 7)
      const [chain] = rig.device.take(1)
      rig.device.use(1, chain.head, 0)
      deliver(rig.device, pattern(60))
      rig.device.config[6] = 0
      rig.device.generation++
      rig.device.interrupts |= 3
      rig.net.interrupt()
      rig.net.poll(8)
      expect([rig.sent, rig.frames, rig.events, rig.device.interrupts]).toEqual([[7], [pattern(60)], ['down'], 0])
    })

    it('does not look at the status where STATUS was not negotiated', { tags: ['5.1.4.2/status'] }, async () => {
      const rig = await makeNet({ features: [VIRTIO_NET_F_MAC] })
      rig.device.log.length = 0
      set(rig, 0)
      rig.net.poll(1)
      expect(rig.events).toEqual([])
      expect(rig.device.log.filter(({ offset }) => offset >= MMIO_CONFIG)).toEqual([])
    })

    it('ring/notification: a spurious interrupt does no harm', {
      tags: ['2.7.7.1/spurious'],
    }, async () => {
      const rig = await make()
      for (let i = 0; i < 10; i++) {
        rig.net.interrupt()
        expect(rig.net.poll(8)).toBe(0)
      }
      expect(rig.events).toEqual([])
      expect(rig.net.broken).toBeNull()
    })
  })

  describe('ring/notification: NOTIFICATION_DATA (virtio 1.4 §2.9)', () => {
    it('tells where the next entry of the available ring will go', async () => {
      const rig = await makeNet({ features: [VIRTIO_NET_F_MAC, VIRTIO_F_NOTIFICATION_DATA], queueSize: 8 })
      expect(rig.device.notified).toEqual([(8 << 16) | 0])
      rig.net.sendCopy(pattern(60))
      rig.net.sendCopy(pattern(60))
      expect(rig.device.notified.slice(1)).toEqual([(1 << 16) | 1, (2 << 16) | 1])
    })
  })
})
