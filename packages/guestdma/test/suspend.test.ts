import { STATUS_DRIVER_OK, STATUS_SUSPEND, VIRTIO_F_SUSPEND } from '@guestdma/spec'
import { describe, expect, it } from 'vitest'
import { CASES, expectBroken, expectServed, heldDisk, sendEight, tokensOf, withDisk, withNet } from './support/held.ts'
import { outcome, pattern, settled } from './support/machines.ts'
import { BUSES } from './support/worker-bus.ts'
import { threads } from './support/workers.ts'

const BYTES = pattern(64 << 10)
const SUSPENDED = 11 | STATUS_SUSPEND

describe('a driver suspends and resumes its device (virtio 1.4 §3.4)', () => {
  describe.each(CASES)('$name', (wanted) => {
    it(
      'net: frames on their way out, and buffers that were posted, outlast it; nothing is sent meanwhile',
      {
        tags: ['3.4.1/verified', '3.4.1/no-buffers', '3.4.1/wait-for-resume'],
      },
      () =>
        withNet(wanted, async ({ machine: one, link, sent, received }) => {
          const net = one.net('net0')
          const model = one.netModel('net0')
          for (let round = 1; round <= 3; round++) {
            link.closed = true
            expect(sendEight(one, round)).toBe(8)
            one.pump()
            await one.run(net.suspend())
            expect(model.status).toBe(SUSPENDED)
            link.closed = false
            model.wake()
            expect(sendEight(one, 9)).toBe(0)
            expect(net.sendCopy(pattern(60))).toBe(false)
            expect(model.receive(pattern(70))).toBe(false)
            one.pump()
            expect([sent, link.frames, received]).toEqual([[], [], []])
            await one.run(net.resume())
            expect(model.status & (STATUS_SUSPEND | STATUS_DRIVER_OK)).toBe(STATUS_DRIVER_OK)
            one.pump()
            expect(sent.splice(0)).toEqual(tokensOf(round))
            expect(link.frames.splice(0)).toEqual(Array.from({ length: 8 }, (_, i) => pattern(60 + i, round)))
            for (let i = 0; i < 16; i++) expect(model.receive(pattern(80 + i, round))).toBe(true)
            one.pump()
            expect(received.splice(0)).toEqual(Array.from({ length: 16 }, (_, i) => pattern(80 + i, round)))
          }
        }),
    )

    it('blk: what the device began is told after it resumed, what it had not begun is served then, and so is what waited', () =>
      withDisk(wanted, async ({ machine: one, store }) => {
        const disk = one.blk('disk0')
        for (let round = 0; round < 3; round++) {
          const begun = disk.readBytes(0, 4096)
          await settled()
          one.pump()
          const published = disk.readBytes(8, 4096)
          await settled()
          const suspending = one.run(disk.suspend())
          const waiting = disk.readBytes(16, 4096)
          const states = [suspending, begun, published, waiting].map(outcome)
          const now = (): string[] => states.map((state) => state())
          await settled()
          expect([...now(), store.held.length]).toEqual(['pending', 'pending', 'pending', 'pending', 1])
          store.release()
          await suspending
          one.pump()
          await settled()
          expect([...now(), store.held.length]).toEqual(['ok', 'pending', 'pending', 'pending', 0])
          await one.run(disk.resume())
          one.pump()
          while (store.held.length > 0) store.release()
          one.pump()
          expect(await Promise.all([begun, published, waiting])).toEqual(
            [0, 1, 2].map((i) => BYTES.slice(4096 * i, 4096 * (i + 1))),
          )
        }
      }))
  })

  it('which needs SUSPEND; without it nothing is done', async () => {
    const held = await heldDisk({ withhold: [VIRTIO_F_SUSPEND] })
    const { machine: one } = held
    await expect(one.blk('disk0').suspend()).rejects.toMatchObject({ code: 'DRIVER_NO_SUSPEND' })
    await expectServed(held)
    expect(one.blkModel('disk0').faults.last()).toEqual([])
    await one.close()
  })

  it('a device that does not complete what it began in time is broken, and a reset brings it back', async () => {
    await expectBroken((disk) => disk.suspend(), {
      code: 'DRIVER_DEVICE_BROKEN',
      message: expect.stringContaining('the device did not suspend within 20 ms'),
    })
  })

  it('a suspended device can be reset and closed, and is as good as new', async () => {
    const held = await heldDisk()
    const { machine: one } = held
    await one.run(one.blk('disk0').suspend())
    const waiting = outcome(one.blk('disk0').readBytes(0, 512))
    await one.reset('disk0')
    expect([waiting(), one.blkModel('disk0').suspended]).toEqual(['DRIVER_CLOSED', false])
    await expectServed(held)
    await one.run(one.blk('disk0').suspend())
    await one.close()
    expect(one.blkModel('disk0').status).toBe(0)
  })

  it('link and capacity that changed meanwhile are told when the device resumes', async () => {
    await withNet({ ...CASES[0], offer: [] }, async ({ machine: one }) => {
      const net = one.net('net0')
      await one.run(net.suspend())
      one.netModel('net0').setLink(false)
      one.pump()
      expect(net.linkUp).toBe(true)
      await one.run(net.resume())
      one.pump()
      expect(net.linkUp).toBe(false)
    })
  })

  it.each(BUSES)('a device in a worker completes what it took, suspends, and goes on: %s', async (bus) => {
    const far = await threads({ type: 'blk', scheme: 'shared-pool', bus, config: { writes: 'late' } })
    const { machine: one } = far
    const disk = one.blk('far')
    for (let round = 0; round < 5; round++) {
      const data = pattern(4096, round)
      const writing = disk.writeBytes(8, data)
      await settled()
      await one.run(disk.suspend())
      const reading = disk.readBytes(8, 4096)
      await one.run(disk.resume())
      await one.run(writing)
      await one.run(reading)
      expect(await one.run(disk.readBytes(8, 4096))).toEqual(data)
    }
    await far.close()
  })
})
