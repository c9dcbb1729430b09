import { VIRTIO_F_RING_RESET } from '@guestdma/spec'
import { describe, expect, it } from 'vitest'
import { CASES, expectBroken, expectServed, heldDisk, sendEight, tokensOf, withDisk, withNet } from './support/held.ts'
import { outcome, pattern, settled } from './support/machines.ts'

describe('a driver resets one queue (virtio 1.4 §2.6.1)', () => {
  describe.each(CASES)('$name', (wanted) => {
    it(
      'transmit: what was on its way is told, and later frames go out; receive buffers stay posted',
      {
        tags: ['2.6.1.1.2/verified', '2.6.1.2.2/whole-configuration'],
      },
      () =>
        withNet(wanted, async ({ machine: one, link, sent, received }) => {
          const net = one.net('net0')
          for (let round = 1; round <= 3; round++) {
            link.closed = true
            expect(sendEight(one, round)).toBe(8)
            one.pump()
            expect(sent).toEqual([])
            await one.run(net.resetQueue('transmit'))
            expect(sent.splice(0)).toEqual(tokensOf(round))
            link.closed = false
            expect(sendEight(one, 7)).toBe(8)
            one.pump()
            expect(sent.splice(0)).toEqual(tokensOf(7))
            expect(link.frames.splice(0)).toEqual(Array.from({ length: 8 }, (_, i) => pattern(60 + i, 7)))
            expect(one.netModel('net0').receive(pattern(90, round))).toBe(true)
            one.pump()
            expect(received.splice(0)).toEqual([pattern(90, round)])
          }
        }),
    )

    it('receive: buffers are posted anew, and what is on its way out stays', () =>
      withNet(wanted, async ({ machine: one, link, sent, received }) => {
        const net = one.net('net0')
        const model = one.netModel('net0')
        for (let round = 1; round <= 3; round++) {
          link.closed = true
          expect(sendEight(one, round)).toBe(8)
          one.pump()
          for (let i = 0; i < 5; i++) expect(model.receive(pattern(70 + i, round))).toBe(true)
          one.pump()
          await one.run(net.resetQueue('receive'))
          one.pump()
          expect(received.splice(0)).toHaveLength(5)
          for (let i = 0; i < 16; i++) expect(model.receive(pattern(80 + i, round))).toBe(true)
          one.pump()
          expect(received.splice(0)).toEqual(Array.from({ length: 16 }, (_, i) => pattern(80 + i, round)))
          link.closed = false
          model.wake()
          one.pump()
          expect([sent.splice(0), link.frames.splice(0).length]).toEqual([tokensOf(round), 8])
        }
      }))

    it('blk: what is in flight rejects once the store has ended it, and later requests are served', () =>
      withDisk(wanted, async ({ machine: one, store }) => {
        const disk = one.blk('disk0')
        for (let round = 0; round < 3; round++) {
          const lost = [0, 8, 16].map((sector) => outcome(disk.readBytes(sector, 4096)))
          await settled()
          one.pump()
          expect(store.held).toHaveLength(3)
          const resetting = one.run(disk.resetQueue())
          const reset = outcome(resetting)
          const waiting = outcome(disk.readBytes(24, 512))
          await settled()
          expect([reset(), ...lost.map((state) => state())]).toEqual(['pending', 'pending', 'pending', 'pending'])
          for (let i = 0; i < 3; i++) store.release()
          await resetting
          await settled()
          expect(lost.map((state) => state())).toEqual(['BLK_RESET', 'BLK_RESET', 'BLK_RESET'])
          one.pump()
          store.release()
          one.pump()
          await settled()
          expect(waiting()).toBe('ok')
        }
      }))
  })

  it('which needs RING_RESET; without it nothing is done', async () => {
    const held = await heldDisk({ withhold: [VIRTIO_F_RING_RESET] })
    await expect(held.machine.blk('disk0').resetQueue()).rejects.toMatchObject({ code: 'DRIVER_NO_RING_RESET' })
    await expectServed(held)
    await held.machine.close()
  })

  it('a device that does not confirm it is broken, and its memory comes back with its own reset', async () => {
    await expectBroken((disk) => disk.resetQueue(), { code: 'TRANSPORT_DEVICE_STUCK' })
  })

  it('a second reset, and one of a device that was closed, is refused', async () => {
    const { machine: one } = await heldDisk()
    const disk = one.blk('disk0')
    const first = disk.resetQueue()
    await expect(disk.resetQueue()).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
    await one.run(first)
    await one.close()
    await expect(disk.resetQueue()).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
  })
})
