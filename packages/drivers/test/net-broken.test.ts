import { DMA_FAILED } from '@guestdma/dma'
import { DeviceBrokenError, FrameBatch, type NetDriver } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import {
  MMIO_QUEUE_NOTIFY,
  MMIO_STATUS,
  VIRTIO_F_IN_ORDER,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import { QUEUE_BROKEN } from '@guestdma/virtqueue'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { HandDevice } from './support/device.ts'
import {
  catchMicrotasks,
  deliver,
  loseTransport,
  type NetRig,
  pattern,
  rigsOver,
  settled,
  TRANSPORTS,
} from './support/rig.ts'

const MODES = ['map', 'pool'] as const

const lies: [what: string, code: string, lie: (device: HandDevice, head: number) => void][] = [
  ['an id outside the queue', 'USED_ID', (device) => device.use(1, 256, 0)],
  ['an id of 2^32 - 1', 'USED_ID', (device) => device.use(1, 0xffff_ffff, 0)],
  ['an id that is not outstanding', 'USED_TWICE', (device, head) => device.use(1, (head + 7) % 8, 0)],
  [
    'an id twice',
    'USED_TWICE',
    (device, head) => {
      device.use(1, head, 0)
      device.use(1, head, 0)
    },
  ],
  ['an index beyond what is outstanding', 'USED_INDEX', (device) => device.jump(1, 3)],
  ['an index that went backwards', 'USED_INDEX', (device) => device.jump(1, -1)],
]

describe.each(TRANSPORTS)('over %s', (transport) => {
  const { makeNet } = rigsOver(transport)

  describe.each(MODES)('ring/used in %s mode: a device that lies breaks itself', (mode) => {
    it.each(lies)('with %s', async (_what, code, lie) => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.net.sendCopy(pattern(60), 1)
      rig.net.sendCopy(pattern(60), 2)
      const [chain] = rig.device.take(1)
      lie(rig.device, chain.head)
      rig.net.poll(8)
      rig.net.poll(8)
      expect(rig.net.broken).toBeInstanceOf(DeviceBrokenError)
      expect(rig.net.broken).toMatchObject({
        code: 'DRIVER_DEVICE_BROKEN',
        details: { queue: 1 },
        cause: { code: expect.stringMatching(/^VIRTQUEUE_USED_/) },
      })
      expect(rig.session.queues[1].broken?.code).toBe(`VIRTQUEUE_${code}`)
      expect(rig.events).toEqual(['broken'])
      expect(rig.net.sendCopy(pattern(60))).toBe(false)
      expect(rig.net.poll(8)).toBe(0)
      expect(rig.events).toEqual(['broken'])
    })

    it('on the receive queue as well, and delivers nothing of it', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      deliver(rig.device, pattern(60))
      rig.device.use(0, 9, 72)
      rig.net.poll(1)
      rig.net.poll(8)
      rig.net.poll(8)
      expect(rig.frames).toEqual([pattern(60)])
      expect(rig.events).toEqual(['broken'])
      expect(rig.net.broken?.message).toContain('receive')
    })

    it('in an in-order queue with an id out of turn that skips more than it used', async () => {
      const rig = await makeNet({ mode, queueSize: 8, features: [VIRTIO_NET_F_MAC, VIRTIO_F_IN_ORDER] })
      for (let i = 0; i < 4; i++) rig.net.sendCopy(pattern(60), i)
      const chains = rig.device.take(1)
      rig.device.use(1, chains[3].head, 0)
      rig.net.poll(8)
      expect(rig.session.queues[1].broken?.code).toBe('VIRTQUEUE_USED_ORDER')
      expect(rig.events).toEqual(['broken'])
    })

    it('stops sending on a driver whose receive queue broke', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.device.use(0, 99, 72)
      rig.net.poll(8)
      expect(rig.events).toEqual(['broken'])
      const before = rig.device.notified.length
      expect(rig.net.sendCopy(pattern(60))).toBe(false)
      expect(rig.net.sendStatus).toBe(QUEUE_BROKEN)
      expect(rig.device.notified.length).toBe(before)
    })
  })

  describe('init/status: DEVICE_NEEDS_RESET (virtio 1.4 §2.1.2)', () => {
    it('breaks the driver once the device says so, with the reason', async () => {
      const rig = await makeNet()
      rig.net.sendCopy(pattern(60))
      rig.device.fail()
      rig.net.interrupt()
      expect(rig.events).toEqual([])
      rig.net.poll(8)
      expect(rig.events).toEqual(['broken'])
      expect(rig.net.broken?.message).toContain('DEVICE_NEEDS_RESET')
      expect(rig.net.poll(8)).toBe(0)
    })

    it('delivers nothing more after it, whatever lies in the rings', { tags: ['2.1.1/needs-reset'] }, async () => {
      const rig = await makeNet()
      deliver(rig.device, pattern(60))
      rig.device.fail()
      rig.net.interrupt()
      rig.net.poll(8)
      expect(rig.frames).toEqual([])
      expect(rig.net.broken).not.toBeNull()
    })

    it('is told from poll only, never from within send', async () => {
      const rig = await makeNet()
      rig.device.fail()
      const batch = new FrameBatch(1)
      batch.address[0] = 0
      batch.length[0] = 60
      batch.count = 1
      expect(rig.net.send(batch)).toBe(0)
      expect(rig.events).toEqual([])
      rig.net.interrupt()
      rig.net.poll(8)
      expect(rig.events).toEqual(['broken'])
    })
  })

  describe('config/generation: after DRIVER_OK', () => {
    it('a configuration that never settles breaks this device and does not throw out of poll', async () => {
      const rig = await makeNet({ features: [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS] })
      rig.device.restless = true
      rig.device.interrupts |= 2
      rig.net.interrupt()
      expect(() => rig.net.poll(8)).not.toThrow()
      expect(rig.net.broken).toBeInstanceOf(DeviceBrokenError)
      expect(rig.events).toEqual(['broken'])
    })
  })

  describe('net/listener: one that throws', () => {
    let caught: ReturnType<typeof catchMicrotasks>
    beforeEach(() => {
      caught = catchMicrotasks()
    })
    afterEach(() => caught.stop())

    it('surfaces in a microtask; nothing is lost and poll goes on', async () => {
      const fail = (what: string) => (): never => {
        throw new Error(what)
      }
      const rig = await makeNet({
        queueSize: 4,
        features: [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS],
        observer: {
          frames: fail('frames'),
          sent: fail('sent'),
          drain: fail('drain'),
          link: fail('link'),
          broken: fail('broken'),
        },
      })
      for (let round = 0; round < 10; round++) {
        rig.net.sendCopy(pattern(60))
        const [chain] = rig.device.take(1)
        rig.device.use(1, chain.head, 0)
        deliver(rig.device, pattern(60, round))
        expect(rig.net.poll(8)).toBe(2)
      }
      expect(rig.frames.length).toBe(10)
      expect(rig.device.take(0).length).toBe(4)
      rig.device.config[6] = 0
      rig.device.interrupts |= 2
      rig.net.interrupt()
      rig.net.poll(8)
      rig.device.fail()
      rig.net.interrupt()
      expect(() => rig.net.poll(8)).not.toThrow()
      expect(rig.net.broken).not.toBeNull()
      await settled()
      const messages = caught.errors.map((error) => (error as Error).message)
      expect(messages.filter((message) => message === 'frames').length).toBe(10)
      expect(new Set(messages)).toEqual(new Set(['frames', 'sent', 'link', 'broken']))
    })
  })

  describe('net/poll: a listener that calls back', () => {
    it('may send from frames, sent and drain', async () => {
      let net: NetDriver | null = null
      const rig = await makeNet({
        queueSize: 4,
        observer: {
          frames: (batch) => {
            for (let i = 0; i < batch.count; i++) net?.sendCopy(batch.copy(i), 100 + i)
          },
        },
      })
      net = rig.net
      deliver(rig.device, pattern(60, 1))
      deliver(rig.device, pattern(61, 2))
      rig.net.poll(8)
      const sent = rig.device.take(1).map((chain) => rig.device.gather(chain).slice(12))
      expect(sent).toEqual([pattern(60, 1), pattern(61, 2)])
    })

    it('that polls does not make the driver post a buffer twice', async () => {
      let poll = (): number => 0
      const rig = await makeNet({ queueSize: 8, observer: { frames: () => poll() } })
      poll = () => {
        if (rig.frames.length > 20) return 0
        // Something new arrives meanwhile.
        if (heads.length > 0) rig.device.use(0, heads.shift() as number, 72)
        return rig.net.poll(8)
      }
      const heads = rig.device.take(0).map(({ head }) => head)
      for (const head of heads.splice(0, 3)) rig.device.use(0, head, 72)
      rig.net.poll(8)
      const addresses = rig.device.take(0).map(({ segments }) => segments[0].address)
      expect(new Set(addresses).size).toBe(addresses.length)
      expect(rig.session.queues[0].outstanding).toBeLessThanOrEqual(8)
      expect(rig.net.broken).toBeNull()
    })

    it('that polls does not report a token twice', async () => {
      let poll = (): number => 0
      const rig = await makeNet({ queueSize: 8, observer: { sent: () => poll() } })
      for (let i = 0; i < 6; i++) rig.net.sendCopy(pattern(60), i)
      const heads = rig.device.take(1).map(({ head }) => head)
      for (const head of heads.splice(0, 3)) rig.device.use(1, head, 0)
      poll = () => {
        if (heads.length > 0) rig.device.use(1, heads.shift() as number, 0)
        return rig.net.poll(8)
      }
      for (let round = 0; round < 8; round++) rig.net.poll(8)
      expect([...rig.sent].sort()).toEqual([0, 1, 2, 3, 4, 5])
      expect(new Set(Array.from({ length: 8 }, () => rig.net.acquire())).size).toBe(8)
    })

    it('that closes the driver: no notification after the reset (init/order)', async () => {
      let close: Promise<void> | null = null
      const rig: NetRig = await makeNet({
        queueSize: 4,
        observer: {
          frames: () => {
            close = rig.net.close()
          },
        },
      })
      deliver(rig.device, pattern(60))
      rig.device.log.length = 0
      rig.net.poll(8)
      await close
      const reset = rig.device.log.findIndex(
        ({ kind, offset, value }) => kind === 'w' && offset === MMIO_STATUS && value === 0,
      )
      expect(reset).toBeGreaterThanOrEqual(0)
      expect(
        rig.device.log.slice(reset).filter(({ kind, offset }) => kind === 'w' && offset === MMIO_QUEUE_NOTIFY),
      ).toEqual([])
      expect(rig.ram.live).toBe(0)
    })
  })

  describe.each(MODES)('reset/revokes in %s mode: a net driver that is closed', (mode) => {
    it('resets the device first, then gives every byte back', { tags: ['3.3.1/stop-first'] }, async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.net.sendCopy(pattern(60))
      expect(rig.ram.live).toBeGreaterThan(0)
      await rig.net.close()
      expect(rig.device.status).toBe(0)
      expect(rig.ram.live).toBe(0)
      const { maps, unmaps } = rig.backend.counters
      expect(maps - unmaps).toBe(0)
      expect(rig.backend.counters.allocatedBytes).toBe(0)
    })

    it('may be closed twice, and at once', async () => {
      const rig = await makeNet({ mode })
      await Promise.all([rig.net.close(), rig.net.close()])
      await rig.net.close()
      expect(rig.ram.live).toBe(0)
      expect(rig.device.resets).toBe(2)
    })

    it('is closed by `await using`', async () => {
      const rig = await makeNet({ mode })
      {
        await using net = rig.net
        expect(net.sendCopy(pattern(60))).toBe(true)
      }
      expect(rig.ram.live).toBe(0)
    })

    it('rings no doorbell and copies into no memory that is somebody else’s by now', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      const before = rig.ram.available
      await rig.net.close()
      const address = rig.ram.allocate(rig.ram.available)
      expect(rig.ram.available).toBeLessThan(before)
      rig.memory.write(address, new Uint8Array(1 << 20).fill(0xee))
      const notified = rig.device.notified.length
      expect(rig.net.sendCopy(pattern(1000))).toBe(false)
      expect(rig.memory.read(address, 1 << 20).every((byte) => byte === 0xee)).toBe(true)
      expect(rig.device.notified.length).toBe(notified)
      expect(rig.net.acquire()).toBe(-1)
    })

    it('tells nobody that the device is broken when a closed driver is used', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      await rig.net.close()
      rig.net.sendCopy(pattern(60))
      rig.net.poll(8)
      expect(rig.events).toEqual([])
    })

    it('sends nothing from the moment on at which close() was called', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      const closing = rig.net.close()
      const notified = rig.device.notified.length
      expect(rig.net.sendCopy(pattern(60))).toBe(false)
      expect(rig.device.notified.length).toBe(notified)
      await closing
      expect(rig.ram.live).toBe(0)
    })

    it('reset/quarantine: keeps its memory where the device does not answer and nothing can revoke', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      const { live } = rig.ram
      rig.device.stuck = true
      await expect(rig.net.close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: true },
      })
      expect(rig.ram.live).toBe(live)
      expect(rig.net.poll(8)).toBe(0)
    })

    it('reset/quarantine: gives its memory back where the platform could detach the device, and says so', async () => {
      let detached = 0
      const detach = (): boolean => ++detached > 0
      const rig = await makeNet({ mode, queueSize: 8, detach })
      rig.device.stuck = true
      await expect(rig.net.close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: false },
      })
      expect(detached).toBe(1)
      expect(rig.ram.live).toBe(0)
    })

    it('reset/quarantine: a platform that cannot detach after all leaves it quarantined', async () => {
      const rig = await makeNet({ mode, queueSize: 8, detach: () => false })
      rig.device.stuck = true
      await expect(rig.net.close()).rejects.toMatchObject({ details: { quarantined: true } })
      expect(rig.ram.live).toBeGreaterThan(0)
    })
  })

  describe.each(MODES)('reset/release in %s mode: every step is tried, and the first error is told', (mode) => {
    const noQuarantine = { quarantined: false }

    it('a removal that was refused before is no error once the backend revoked everything', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.net.sendCopy(pattern(60))
      rig.backend.commitUnmapsStatus = DMA_FAILED
      rig.device.use(1, rig.device.take(1)[0].head, 0)
      rig.net.poll(8)
      expect(rig.net.broken).toMatchObject({ cause: { code: 'VIRTQUEUE_COMMIT' } })
      await rig.net.close()
      expect(rig.session).toMatchObject(noQuarantine)
      expect(rig.ram.live).toBe(0)
    })

    it('nor is one that is refused meanwhile, of mappings or of rings', async () => {
      for (const refuse of ['commitUnmapsStatus', 'frees'] as const) {
        const rig = await makeNet({ mode, queueSize: 8 })
        rig.net.sendCopy(pattern(60))
        rig.backend[refuse] = DMA_FAILED
        await rig.net.close()
        expect(rig.session).toMatchObject(noQuarantine)
        expect(rig.ram.live).toBe(0)
      }
    })

    it('a removal that is refused is told where the backend cannot revoke everything either', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.net.sendCopy(pattern(60))
      rig.backend.commitUnmapsStatus = DMA_FAILED
      rig.backend.refusals = 1
      const { allocated } = rig.ram
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'VIRTQUEUE_COMMIT' })
      expect([rig.session.quarantined, rig.ram.allocated]).toEqual([true, allocated])
    })

    it('a backend that throws where it takes a mapping back is told of, and costs no memory', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.net.sendCopy(pattern(60))
      rig.backend.commitUnmaps = () => {
        throw new Error('no such row')
      }
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'VIRTQUEUE_BACKEND' })
      expect(rig.session).toMatchObject(noQuarantine)
      expect(rig.ram.live).toBe(0)
    })

    it('a backend that cannot revoke: the platform cuts the device off, all memory goes back, and that is a warning', async () => {
      let detached = 0
      const warning = vi.fn()
      const rig = await makeNet({ mode, queueSize: 8, detach: () => ++detached > 0, warning })
      rig.backend.refusals = 1
      await rig.net.close()
      expect(detached).toBe(1)
      expect(warning.mock.calls).toEqual([
        [
          {
            code: 'DRIVER_CUT_OFF',
            part: 'dev0',
            message: expect.stringMatching(/told not to revoke.*its platform cut it off/),
            details: { status: 3 },
            cause: expect.objectContaining({ code: 'DMA_STILL_REACHABLE' }),
          },
        ],
      ])
      expect(rig.session).toMatchObject(noQuarantine)
      expect(rig.ram.live).toBe(0)
    })

    it('a backend that cannot revoke, and nobody who cuts off: what it did not give back stays out of use', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.backend.refusals = 1
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE' })
      expect(rig.session.quarantined).toBe(true)
      // The queues' own memory was revoked before; frames are in buffers that the device may still know.
      expect(rig.ram.allocated).toBeGreaterThanOrEqual(16 * 1526)
    })

    it('a backend that cannot revoke, before and after the platform cut the device off: nothing goes back until it is gone', async () => {
      const warning = vi.fn()
      const rig = await makeNet({ mode, queueSize: 8, detach: () => true, warning })
      rig.backend.refusals = 2
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE' })
      expect([rig.session.quarantined, warning.mock.calls]).toEqual([true, []])
      expect(rig.ram.allocated).toBeGreaterThanOrEqual(16 * 1526)
      let released = false
      rig.session.onRelease(() => {
        released = true
      })
      rig.backend.gone?.()
      expect([rig.session.quarantined, released, rig.ram.live]).toEqual([false, true, 0])
    })

    it('a backend that learns at once that the device is gone: all memory goes back before close ends', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.backend.refusals = 1
      rig.backend.whenGone = (release) => {
        rig.backend.dispose()
        release()
      }
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE' })
      expect([rig.session.quarantined, rig.ram.live]).toEqual([false, 0])
    })

    it('a backend that throws where it is asked to tell: what it did not give back stays out of use', async () => {
      const rig = await makeNet({ mode, queueSize: 8 })
      rig.backend.refusals = 1
      rig.backend.whenGone = () => {
        throw new Error('it does not know how')
      }
      await expect(rig.net.close()).rejects.toMatchObject({ code: 'DMA_STILL_REACHABLE' })
      expect(rig.session.quarantined).toBe(true)
    })

    it('a transport whose other end is gone: the device is cut off, and all memory goes back', async () => {
      let detached = 0
      const rig = await makeNet({ mode, queueSize: 8, detach: () => ++detached > 0 })
      rig.net.sendCopy(pattern(60))
      loseTransport(rig.device)
      await expect(rig.net.close()).rejects.toThrow('the connection is gone')
      expect(detached).toBe(1)
      expect(rig.session).toMatchObject(noQuarantine)
      expect(rig.ram.live).toBe(0)
    })

    it('a transport whose other end is gone, and a platform that throws: memory stays out of use', async () => {
      const detach = (): boolean => {
        throw new Error('nor can the platform')
      }
      const rig = await makeNet({ mode, queueSize: 8, detach })
      const { allocated } = rig.ram
      loseTransport(rig.device)
      await expect(rig.net.close()).rejects.toThrow('the connection is gone')
      expect(rig.session.quarantined).toBe(true)
      expect(rig.ram.allocated).toBe(allocated)
    })
  })

  describe('net/set-up that fails', () => {
    it.each(['map', 'pool'] as const)(
      'leaves everything to session.close() in %s mode, at every amount of memory',
      async (mode) => {
        // From too little for anything to almost enough.
        for (let ramBytes = 64; ramBytes < 40_000; ramBytes = Math.ceil(ramBytes * 1.7)) {
          const rig = await makeNet({ mode, queueSize: 8, ramBytes }).catch(
            (error: unknown) => error as { code: string },
          )
          if ('code' in rig) expect(['DMA_ALLOC', 'MEMORY_EXHAUSTED']).toContain(rig.code)
          else {
            await rig.net.close()
            expect(rig.ram.live).toBe(0)
          }
        }
        const enough = await makeNet({ mode, queueSize: 8, ramBytes: 64_000 })
        expect(enough.net.sendCopy(pattern(60))).toBe(true)
      },
    )

    it('hands guest addresses out that guestAddress accepts', async () => {
      const rig = await makeNet()
      expect(rig.device.take(0).map(({ segments }) => guestAddress(segments[0].address)).length).toBe(256)
    })
  })
})
