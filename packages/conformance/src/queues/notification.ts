import { DMA_OK } from '@guestdma/dma'
import { VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import type { QueueSuite } from './rig.ts'

/** More than the 16 bits of a split ring's index, so that it wraps at least once; a packed ring wraps often. */
const AROUND = 66_000

/** Who notifies whom, and when nobody needs to. */
export function describeNotification({ test, check, rig: open, packed }: QueueSuite): void {
  test('ring/notification: without EVENT_IDX the device switches doorbells off and on (virtio 1.4 §2.7.10.1, §2.8.10)', () => {
    const rig = open({ size: 4 })
    for (let n = 0; n < 20; n++) {
      const wanted = n % 3 === 0
      rig.peer.wantDoorbells(wanted)
      rig.doorbells.length = 0
      const id = rig.addPlain()
      check('publish', rig.queue.publish(), DMA_OK)
      check(`doorbells, wanted ${wanted}`, rig.doorbells.length, wanted ? 1 : 0)
      rig.takeAll()
      rig.peer.use([{ id, written: 0 }])
      check('reap', rig.queue.reap(4), 1)
    }
    check('notified', rig.queue.counters.notified, 7)
    rig.close()
  })

  if (!packed) {
    test('ring/notification: in a split ring with EVENT_IDX the flags are ignored, and suppress nothing', () => {
      const rig = open({ size: 4, features: [VIRTIO_F_EVENT_IDX] })
      rig.peer.wantDoorbells(false)
      rig.peer.wantDoorbellAt(0)
      rig.addPlain()
      rig.queue.publish()
      check('doorbells', rig.doorbells.length, 1)
      rig.close()
    })
  }

  test('ring/notification: the doorbell rings if the event lies in the batch, through the wrap (virtio 1.4 §2.7.10.1, §2.8.10)', () => {
    const rig = open({ size: 64, features: [VIRTIO_F_EVENT_IDX] })
    let position = 0
    const wrong: string[] = []
    for (let n = 0; position < 2 * AROUND; n++) {
      const batch = 1 + ((n * 7) % 64)
      // Around the batch's edges, on both sides, and far away; where a split ring's index wraps, inside the batch before
      // and behind the wrap.
      const wraps = Math.floor((position + batch - 1) / 65_536) - Math.floor(position / 65_536)
      const distances = [-2, -1, 0, 1, batch - 1, batch, batch + 1, 30_000, 40_000, -30_000]
      const event = wraps === 1 ? position + (position < 100_000 ? 0 : batch - 1) : position + distances[n % 10]
      rig.peer.wantDoorbellAt(event)
      rig.doorbells.length = 0
      for (let i = 0; i < batch; i++) rig.addPlain()
      rig.queue.publish()
      let expected = 0
      for (let p = position; p < position + batch; p++)
        if (rig.peer.positionOf(p) === rig.peer.positionOf(event)) expected = 1
      if (rig.doorbells.length !== expected)
        wrong.push(`batch of ${batch} at ${position}, event ${event}: ${rig.doorbells.length} doorbells`)
      position += batch
      if (rig.doorbells.length > 0 && rig.doorbells[0] !== rig.peer.positionOf(position))
        wrong.push(`doorbell at ${position}`)
      rig.peer.use(rig.takeAll().map(({ id }) => ({ id, written: 0 })))
      if (rig.queue.reap(64) !== batch) wrong.push(`reap at ${position}`)
      rig.queue.recycle()
    }
    check('wrong', wrong, [])
    rig.close()
  })

  for (const features of [[], [VIRTIO_F_EVENT_IDX]]) {
    const mode = features.length === 0 ? 'flags' : 'event index'
    test(`ring/notification: armed, the next completion interrupts, and disarmed none does, through the wrap (${mode})`, () => {
      const rig = open({ size: 16, features })
      const wrong: string[] = []
      let armed = true
      for (let n = 0, position = 0; position < AROUND; n++) {
        const batch = 1 + ((n * 5) % 16)
        if (n % 2 === 0) {
          if (rig.queue.arm()) wrong.push(`arm at ${position}: there is nothing yet`)
          armed = true
        } else {
          rig.queue.disarm()
          armed = false
        }
        for (let i = 0; i < batch; i++) rig.addPlain()
        rig.queue.publish()
        rig.peer.use(rig.takeAll().map(({ id }) => ({ id, written: 0 })))
        if (rig.peer.mustInterrupt() !== armed) wrong.push(`at ${position}, armed ${armed}`)
        if (rig.queue.reap(16) !== batch) wrong.push(`reap at ${position}`)
        rig.queue.recycle()
        position += batch
      }
      check('wrong', wrong, [])
      rig.close()
    })

    test(`ring/notification: disarmed from the start, or right after it was armed, it stays quiet (${mode})`, () => {
      const rig = open({ size: 8, features })
      const quiet = (what: string): void => {
        const id = rig.addPlain()
        rig.queue.publish()
        rig.takeAll()
        rig.peer.use([{ id, written: 0 }])
        check(what, rig.peer.mustInterrupt(), false)
        check('reap', rig.queue.reap(8), 1)
        rig.queue.recycle()
      }
      rig.queue.disarm()
      quiet('interrupts, disarmed from the start')
      for (let n = 0; n < 10; n++) {
        rig.queue.arm()
        rig.queue.disarm()
        quiet('interrupts, disarmed after it was armed')
      }
      rig.close()
    })

    test(`ring/notification: arm() says what arrived before it could be seen (virtio 1.4 §2.7.14, §2.8.22, ${mode})`, () => {
      const rig = open({ size: 8, features })
      rig.queue.disarm()
      const [a, b] = [rig.addPlain(), rig.addPlain()]
      rig.queue.publish()
      rig.takeAll()
      check('nothing there', rig.queue.arm(), false)
      check('nothing to be seen', rig.queue.hasUsed, false)
      rig.peer.use([{ id: a, written: 0 }])
      check('one there', rig.queue.arm(), true)
      check('one to be seen', rig.queue.hasUsed, true)
      check('reap', rig.queue.reap(8), 1)
      check('nothing there any more', rig.queue.arm(), false)
      check('nothing to be seen any more', rig.queue.hasUsed, false)
      rig.peer.mustInterrupt()
      rig.peer.use([{ id: b, written: 0 }])
      check('the next one interrupts', rig.peer.mustInterrupt(), true)
      check('one there again', rig.queue.arm(), true)
      check('reap', rig.queue.reap(8), 1)
      rig.close()
    })
  }

  test('ring/notification: reaping without a cause is harmless (spurious notifications, virtio 1.4 §2.7.7.1)', () => {
    const rig = open({ size: 4 })
    for (let i = 0; i < 10; i++) check('reap', rig.queue.reap(4), 0)
    const id = rig.addPlain()
    for (let i = 0; i < 10; i++) check('reap', rig.queue.reap(4), 0)
    rig.queue.publish()
    rig.takeAll()
    rig.peer.use([{ id, written: 0 }])
    check('reap', rig.queue.reap(4), 1)
    check('reap', rig.queue.reap(4), 0)
    check('broken', rig.queue.broken, null)
    rig.close()
  })
}
