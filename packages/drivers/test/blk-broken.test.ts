import { DeviceBrokenError } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import { VIRTIO_BLK_F_FLUSH } from '@guestdma/spec'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { HandDevice } from './support/device.ts'
import {
  answer,
  catchMicrotasks,
  loseTransport,
  outcome,
  requests,
  rigsOver,
  settled,
  TRANSPORTS,
} from './support/rig.ts'

const MODES = ['map', 'pool'] as const

const lies: [what: string, lie: (device: HandDevice, head: number) => void][] = [
  ['an id outside the queue', (device) => device.use(0, 128, 513)],
  ['an id that is no head', (device, head) => device.use(0, head + 1, 513)],
  [
    'an id twice',
    (device, head) => {
      device.use(0, head, 513)
      device.use(0, head, 513)
    },
  ],
  ['an index beyond what is outstanding', (device) => device.jump(0, 100)],
  [
    'DEVICE_NEEDS_RESET',
    (device) => {
      device.fail()
    },
  ],
]

describe.each(TRANSPORTS)('over %s', (transport) => {
  const { makeBlk } = rigsOver(transport)

  it.each(MODES)('reset/release in %s mode: requests end where the transport is gone', async (mode) => {
    const rig = await makeBlk({ mode, detach: () => true })
    const states = [outcome(rig.disk.readBytes(0, 4096)), outcome(rig.disk.read(0, guestAddress(0x8000_0000), 512))]
    await settled()
    loseTransport(rig.device)
    await expect(rig.disk.close()).rejects.toThrow('the connection is gone')
    await settled()
    expect(states.map((state) => state())).toEqual(['DRIVER_CLOSED', 'DRIVER_CLOSED'])
    expect(rig.ram.live).toBe(0)
  })

  describe.each(MODES)('ring/used in %s mode: every request settles when the device breaks', (mode) => {
    it.each(lies)('with %s', async (_what, lie) => {
      const rig = await makeBlk({ mode, queueMax: 8, features: [VIRTIO_BLK_F_FLUSH] })
      const address = rig.ram.allocate(16 * 512)
      // More than the queue holds: some are with the device, some wait.
      const states = [
        ...Array.from({ length: 8 }, (_, i) => outcome(rig.disk.read(i, guestAddress(address + 512 * i), 512))),
        outcome(rig.disk.write(0, address, 4096)),
        outcome(rig.disk.flush()),
        outcome(rig.disk.id()),
        outcome(rig.disk.readBytes(0, 512)),
      ]
      await settled()
      const [first] = requests(rig.device)
      lie(rig.device, first.chain.head)
      rig.disk.interrupt()
      for (let i = 0; i < 3; i++) {
        rig.disk.poll(8)
        await settled()
      }
      // Of the two uses of one id the first was true, with a status that nobody wrote.
      expect(states.filter((state) => state() === 'pending')).toEqual([])
      expect(states.slice(1).every((state) => state() === 'DRIVER_DEVICE_BROKEN')).toBe(true)
      expect(['DRIVER_DEVICE_BROKEN', 'BLK_NO_STATUS']).toContain(states[0]())
      expect(rig.errors).toEqual(['DRIVER_DEVICE_BROKEN'])
      expect(rig.disk.broken).toBeInstanceOf(DeviceBrokenError)
      expect(rig.disk.counters.failed).toBe(states.length)
      // What comes later rejects at once.
      await expect(rig.disk.read(0, address, 512)).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
      expect(rig.disk.poll(8)).toBe(0)
      rig.ram.release(address)
      await rig.disk.close()
      expect(rig.ram.live).toBe(0)
    })
  })

  describe('blk/listener: one that throws', () => {
    let caught: ReturnType<typeof catchMicrotasks>
    beforeEach(() => {
      caught = catchMicrotasks()
    })
    afterEach(() => caught.stop())

    it('surfaces in a microtask and unwinds nothing', async () => {
      const rig = await makeBlk({
        observer: {
          broken: () => {
            throw new Error('listener')
          },
        },
      })
      const state = outcome(rig.disk.read(0, rig.ram.allocate(512), 512))
      await settled()
      rig.device.use(0, 4000, 0)
      expect(() => rig.disk.poll(8)).not.toThrow()
      await settled()
      expect(state()).toBe('DRIVER_DEVICE_BROKEN')
      expect(caught.errors.map((error) => (error as Error).message)).toEqual(['listener'])
    })
  })

  describe.each(MODES)('reset/revokes in %s mode: a block driver that is closed', (mode) => {
    it('rejects what is in flight and what waits, once each, after the device was reset', async () => {
      const rig = await makeBlk({ mode, queueMax: 4 })
      const address = rig.ram.allocate(8 * 512)
      const states = Array.from({ length: 8 }, (_, i) =>
        outcome(rig.disk.read(i, guestAddress(address + 512 * i), 512)),
      )
      await settled()
      expect(requests(rig.device).length).toBeGreaterThan(0)
      let resetsWhenRejected = -1
      rig.disk.read(0, address, 512).catch(() => {
        resetsWhenRejected = rig.device.resets
      })
      const { resets } = rig.device
      await rig.disk.close()
      await settled()
      expect(states.map((state) => state())).toEqual(states.map(() => 'DRIVER_CLOSED'))
      expect(resetsWhenRejected).toBe(resets + 1)
      expect(rig.disk.counters.failed).toBe(9)
      rig.ram.release(address)
      expect(rig.ram.live).toBe(0)
      const { maps, unmaps } = rig.backend.counters
      expect(maps - unmaps).toBe(0)
    })

    it('rejects whatever is asked of it afterwards, leaks nothing, and lets nobody hang', async () => {
      const rig = await makeBlk({ mode, features: [VIRTIO_BLK_F_FLUSH] })
      await rig.disk.close()
      await rig.disk.close()
      const address = rig.ram.allocate(512)
      const states = [
        outcome(rig.disk.read(0, address, 512)),
        outcome(rig.disk.write(0, address, 512)),
        outcome(rig.disk.flush()),
        outcome(rig.disk.id()),
        outcome(rig.disk.readBytes(0, 512)),
        outcome(rig.disk.writeBytes(0, new Uint8Array(512))),
      ]
      await settled()
      expect(states.map((state) => state())).toEqual(states.map(() => 'DRIVER_CLOSED'))
      expect(rig.disk.poll(8)).toBe(0)
      expect(rig.ram.live).toBe(1)
    })

    it('leaks nothing when it is used after a break and a close', async () => {
      const rig = await makeBlk({ mode })
      rig.device.fail()
      rig.disk.interrupt()
      rig.disk.poll(8)
      await rig.disk.close()
      for (let i = 0; i < 5; i++)
        await expect(rig.disk.readBytes(0, 512)).rejects.toMatchObject({ code: expect.stringMatching(/^DRIVER_/) })
      expect(rig.ram.live).toBe(0)
    })

    it('gives back what readBytes and writeBytes lent, once the device was reset and not before', async () => {
      const rig = await makeBlk({ mode })
      const { live } = rig.ram
      const states = [outcome(rig.disk.readBytes(0, 512)), outcome(rig.disk.writeBytes(0, new Uint8Array(1024)))]
      await settled()
      rig.device.fail()
      rig.disk.interrupt()
      rig.disk.poll(8)
      await settled()
      expect(states.map((state) => state())).toEqual(['DRIVER_DEVICE_BROKEN', 'DRIVER_DEVICE_BROKEN'])
      expect(rig.ram.live).toBe(live + 2)
      await rig.disk.close()
      expect(rig.ram.live).toBe(0)
    })

    it('reset/quarantine: a stuck device keeps all memory that it may still reach, readBytes’ included', async () => {
      const rig = await makeBlk({ mode })
      const { live } = rig.ram
      const state = outcome(rig.disk.readBytes(0, 512))
      await settled()
      rig.device.stuck = true
      await expect(rig.disk.close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: true },
      })
      await settled()
      expect(state()).toMatch(/^DRIVER_/)
      expect(rig.ram.live).toBe(live + 1)
    })

    it('reset/quarantine: gives everything back where the platform could detach the device', async () => {
      const rig = await makeBlk({ mode, detach: () => true })
      const state = outcome(rig.disk.readBytes(0, 512))
      await settled()
      rig.device.stuck = true
      await expect(rig.disk.close()).rejects.toMatchObject({ details: { quarantined: false } })
      await settled()
      expect(state()).toBe('DRIVER_CLOSED')
      expect(rig.ram.live).toBe(0)
    })

    it('does nothing with completions that arrive while it closes', async () => {
      const rig = await makeBlk({ mode })
      const address = rig.ram.allocate(512)
      const state = outcome(rig.disk.read(0, address, 512))
      await settled()
      const [request] = requests(rig.device)
      answer(rig.device, request, { data: new Uint8Array(512).fill(0xaa) })
      const closing = rig.disk.close()
      expect(rig.disk.poll(8)).toBe(0)
      await closing
      await settled()
      expect(state()).toBe('DRIVER_CLOSED')
    })
  })
})
