import type { BlkDriver, NetDriver, VirtioDriver } from '@guestdma/drivers'
import { guestAddress, type Region } from '@guestdma/memory'
import { STATUS_DEVICE_NEEDS_RESET, VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { describe, expect, test, vi } from 'vitest'
import type { HandDevice } from './support/device.ts'
import { BASE, deliver, outcome, pattern, type Rig, rigsOver, serve, settled, TRANSPORTS } from './support/rig.ts'

const MODES = [
  ['flags', []],
  ['event index', [VIRTIO_F_EVENT_IDX]],
] as const

/** Would a completion now interrupt (virtio 1.4 §2.7.7.2)? */
function interrupts(device: HandDevice, index: number): boolean {
  const queue = device.queues[index]
  const driver = device.view(queue.driver, 6 + 2 * queue.size)
  if (!device.accepted.has(VIRTIO_F_EVENT_IDX)) return driver.getUint16(0, true) === 0
  return driver.getUint16(4 + 2 * queue.size, true) === queue.used
}

/** Polls until nothing is left, as an owner does that sleeps afterwards. */
function exhaust(driver: VirtioDriver): void {
  for (let polls = 0; driver.poll(64) > 0; polls++) if (polls > 100) throw new Error('it never comes to rest')
}

/** Calls `act` right after the next store of an event field of a queue, before the used index is looked at. */
function afterArming({ memory, device }: Rig, index: number, act: () => void): void {
  const region = memory.regions[0] as Region
  const { driver, size } = device.queues[index]
  const { offset } = memory.window(guestAddress(driver), 2)
  const event = device.accepted.has(VIRTIO_F_EVENT_IDX) ? offset + 4 + 2 * size : offset
  let acted = false
  region.storeThenLoad = (half, value, other, otherHalf) => {
    Atomics.store(region.u16, half, value)
    if (half * 2 === event && !acted) {
      acted = true
      act()
    }
    return other.loadShared(otherHalf)
  }
}

describe.each(TRANSPORTS)('waiting over %s', (transport) => {
  const { makeBlk, makeNet } = rigsOver(transport)

  describe.each(MODES)('%s', (_mode, features) => {
    test('after poll() returned 0, a completion interrupts: blk', async () => {
      const rig = await makeBlk({ features })
      exhaust(rig.disk)
      expect(interrupts(rig.device, 0)).toBe(true)
      for (let n = 0; n < 5; n++) {
        const read = outcome(rig.disk.read(0, guestAddress(BASE), 512))
        await settled()
        expect(interrupts(rig.device, 0)).toBe(true)
        serve(rig.device, new Uint8Array(512))
        rig.disk.interrupt()
        exhaust(rig.disk)
        await settled()
        expect(read()).toBe('ok')
      }
    })

    test('after poll() returned 0, a completion interrupts: net, both queues, for `sent` too', async () => {
      const rig = await makeNet({ features })
      exhaust(rig.net)
      for (let n = 1; n <= 5; n++) {
        rig.net.sendCopy(pattern(64), n)
        expect([interrupts(rig.device, 0), interrupts(rig.device, 1)]).toEqual([true, true])
        for (const { head } of rig.device.take(1)) rig.device.use(1, head, 0)
        rig.net.interrupt()
        exhaust(rig.net)
        expect(rig.sent).toHaveLength(n)
        expect([interrupts(rig.device, 0), interrupts(rig.device, 1)]).toEqual([true, true])
        deliver(rig.device, pattern(64))
        rig.net.interrupt()
        exhaust(rig.net)
        expect(rig.frames).toHaveLength(n)
      }
    })

    test('poll() does not return 0 where a completion came before the device saw that it is to interrupt (§2.7.14)', async () => {
      const blk = await makeBlk({ features })
      const read = outcome(blk.disk.read(0, guestAddress(BASE), 512))
      expect(blk.disk.poll(64)).toBeGreaterThan(0)
      afterArming(blk, 0, () => serve(blk.device, new Uint8Array(512)))
      expect(blk.disk.poll(64)).toBe(1)
      await settled()
      expect(read()).toBe('ok')

      const net = await makeNet({ features })
      // A queue stays armed until something completes.
      net.net.sendCopy(pattern(64), 6)
      for (const { head } of net.device.take(1)) net.device.use(1, head, 0)
      net.net.poll(64)
      net.net.sendCopy(pattern(64), 7)
      afterArming(net, 1, () => {
        for (const { head } of net.device.take(1)) net.device.use(1, head, 0)
      })
      expect(net.net.poll(64)).toBe(1)
      expect(net.sent).toEqual([6, 7])
    })
  })

  test('acquire() that finds no buffer is followed by `drain`', async () => {
    const onWork = vi.fn()
    const rig = await makeNet({ queueSize: 4, onWork })
    exhaust(rig.net)
    const held: number[] = []
    for (let buffer = rig.net.acquire(); buffer >= 0; buffer = rig.net.acquire()) held.push(buffer)
    onWork.mockClear()
    rig.net.release(held[0])
    expect(onWork).toHaveBeenCalledTimes(1)
    exhaust(rig.net)
    expect(rig.events).toEqual(['drain'])
  })

  test('a `drain` listener that takes all buffers and gives one back keeps nobody busy', async () => {
    const onWork = vi.fn()
    const made: { net: NetDriver | null } = { net: null }
    const drain = (): void => {
      const held: number[] = []
      for (let buffer = made.net?.acquire() ?? -1; buffer >= 0; buffer = made.net?.acquire() ?? -1) held.push(buffer)
      for (const buffer of held) made.net?.release(buffer)
    }
    const rig = await makeNet({ queueSize: 4, onWork, observer: { drain } })
    made.net = rig.net
    exhaust(rig.net)
    drain()
    onWork.mockClear()
    exhaust(rig.net)
    expect([rig.events, onWork.mock.calls]).toEqual([['drain'], []])
  })

  test('a sender that tries again at each `drain` while the backend has no room keeps nobody busy', async () => {
    const onWork = vi.fn()
    const made: { net: NetDriver | null } = { net: null }
    const rig = await makeNet({ onWork, observer: { drain: () => void made.net?.sendCopy(pattern(64)) } })
    made.net = rig.net
    exhaust(rig.net)
    rig.backend.room = 0
    rig.net.sendCopy(pattern(64))
    exhaust(rig.net)
    onWork.mockClear()
    exhaust(rig.net)
    expect(onWork).not.toHaveBeenCalled()
  })

  test('onWork is called once for what no poll has told of, and what it throws surfaces elsewhere', async () => {
    const onWork = vi.fn()
    const rig = await makeBlk({ onWork })
    // Nothing is armed before the first poll.
    expect(onWork).toHaveBeenCalledTimes(1)
    exhaust(rig.disk)
    rig.disk.interrupt()
    rig.disk.interrupt()
    expect(onWork).toHaveBeenCalledTimes(2)
    exhaust(rig.disk)
    rig.disk.interrupt()
    expect(onWork).toHaveBeenCalledTimes(3)
  })

  describe('without interrupts, a device that will never answer is noticed within 64 polls without work', () => {
    const ends: readonly (readonly [string, (device: HandDevice) => void, RegExp])[] = [
      [
        'it needs a reset (§2.1.2)',
        (device) => {
          device.status |= STATUS_DEVICE_NEEDS_RESET
        },
        /DEVICE_NEEDS_RESET/,
      ],
      ['somebody else reset it', (device) => device.reset(), /reset by somebody else/],
      [
        'it is gone',
        (device) => {
          device.status = 0xff
        },
        /the device is gone/,
      ],
    ]
    const poll = (driver: VirtioDriver): void => {
      for (let n = 0; n < 64; n++) driver.poll(64)
    }

    test.each(ends)('%s', async (_name, end, why) => {
      const blk = await makeBlk({ interrupts: false })
      const read = outcome(blk.disk.read(0, guestAddress(BASE), 512))
      exhaust(blk.disk)
      end(blk.device)
      poll(blk.disk)
      await settled()
      expect(read()).toBe('DRIVER_DEVICE_BROKEN')
      expect(blk.disk.broken?.message).toMatch(why)

      const net = await makeNet({ interrupts: false })
      end(net.device)
      poll(net.net)
      expect(net.events).toEqual(['broken'])
      expect(net.net.broken?.message).toMatch(why)
    })
  })

  describe('a deadline', () => {
    const silent = /did not answer within 100 ms/

    test('ends the requests of a silent device, and the reason is told', async () => {
      const rig = await makeBlk({ requestDeadlineMs: 100 })
      const reads = [0, 1].map((sector) => outcome(rig.disk.read(sector, guestAddress(BASE), 512)))
      for (let n = 0; n < 30; n++) rig.disk.poll(64)
      await settled()
      expect(reads.map((read) => read())).toEqual(['DRIVER_DEVICE_BROKEN', 'DRIVER_DEVICE_BROKEN'])
      expect(rig.disk.broken?.message).toMatch(silent)
      expect(rig.errors).toEqual(['DRIVER_DEVICE_BROKEN'])
    })

    test('counts for each request: one that is never answered is not hidden by those that are', async () => {
      const rig = await makeBlk({ requestDeadlineMs: 100 })
      const lost = outcome(rig.disk.read(0, guestAddress(BASE), 512))
      rig.disk.poll(64)
      rig.device.take(0)
      for (let n = 0; n < 40 && rig.disk.broken === null; n++) {
        void rig.disk.read(1, guestAddress(BASE), 512).catch(() => {})
        rig.disk.poll(64)
        serve(rig.device, new Uint8Array(1024))
        rig.disk.poll(64)
      }
      await settled()
      expect(lost()).toBe('DRIVER_DEVICE_BROKEN')
    })

    test('does not blame the device for a request that it was never given', async () => {
      const rig = await makeBlk({ requestDeadlineMs: 100 })
      rig.backend.room = 0
      const read = outcome(rig.disk.read(0, guestAddress(BASE), 512))
      for (let n = 0; n < 30; n++) rig.disk.poll(64)
      await settled()
      expect([read(), rig.disk.broken]).toEqual(['BLK_TIMEOUT', null])
      rig.backend.room = Infinity
      const second = outcome(rig.disk.read(0, guestAddress(BASE), 512))
      exhaust(rig.disk)
      serve(rig.device, new Uint8Array(512))
      exhaust(rig.disk)
      await settled()
      expect(second()).toBe('ok')
    })

    test('counts from when a request was handed over: a long one, answered piece by piece, takes as long as it takes', async () => {
      const rig = await makeBlk({ requestDeadlineMs: 100, queueSize: 4 })
      const bytes = new Uint8Array(1 << 20)
      const read = outcome(rig.disk.read(0, guestAddress(BASE + (2 << 20)), 1 << 20))
      const many = Array.from({ length: 40 }, (_, i) => outcome(rig.disk.read(i, guestAddress(BASE + (4 << 20)), 512)))
      // The rig's clock moves by 10 with each look at it: far more than 100 in all of this.
      for (let n = 0; n < 200 && read() === 'pending'; n++) {
        rig.disk.poll(64)
        serve(rig.device, bytes, 1)
        await settled()
      }
      for (let n = 0; n < 200; n++) {
        rig.disk.poll(64)
        serve(rig.device, bytes, 1)
        await settled()
      }
      expect([read(), rig.disk.broken]).toEqual(['ok', null])
      expect(new Set(many.map((one) => one()))).toEqual(new Set(['ok']))
    })

    test('passes for what is left of a request, whose beginning the device has answered, without blame', async () => {
      const rig = await makeBlk({ requestDeadlineMs: 100 })
      rig.backend.room = 1
      const read = outcome(rig.disk.read(0, guestAddress(BASE + (2 << 20)), 2 << 20))
      rig.disk.poll(64)
      rig.backend.room = 0
      expect(serve(rig.device, new Uint8Array(1 << 21))).toBe(1)
      for (let n = 0; n < 60; n++) rig.disk.poll(64)
      await settled()
      expect([read(), rig.disk.broken]).toEqual(['BLK_TIMEOUT', null])
    })

    test.each([
      ['gives no number', () => Number.NaN],
      ['stands still', () => 5],
    ])('passes though the clock %s', async (_name, now) => {
      let disk: BlkDriver | null = null
      const onWork = (): void => {
        queueMicrotask(() => disk?.poll(64))
      }
      const rig = await makeBlk({ requestDeadlineMs: 5, onWork })
      ;({ disk } = rig)
      Object.assign(rig.session.wait, { now })
      exhaust(disk)
      await expect(disk.read(0, guestAddress(BASE), 512)).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
      await disk.close()
    })

    test('ends frames that a device does not take, and never a link on which nothing is sent', async () => {
      const rig = await makeNet({ requestDeadlineMs: 100 })
      for (let n = 0; n < 30; n++) rig.net.poll(64)
      expect(rig.net.broken).toBeNull()
      rig.net.sendCopy(pattern(64))
      for (let n = 0; n < 30; n++) rig.net.poll(64)
      expect(rig.net.broken?.message).toMatch(silent)
    })

    test('wakes whoever sleeps: no poll is needed for it to pass', async () => {
      const woken = await new Promise<BlkDriver>((resolve, reject) => {
        let disk: BlkDriver | null = null
        const onWork = (): void => {
          queueMicrotask(() => {
            if (disk === null) return
            exhaust(disk)
            if (disk.broken !== null) resolve(disk)
          })
        }
        makeBlk({ requestDeadlineMs: 20, onWork }).then((rig) => {
          ;({ disk } = rig)
          exhaust(disk)
          disk.read(0, guestAddress(BASE), 512).catch(() => {})
        }, reject)
      })
      expect(woken.broken?.message).toMatch(/did not answer within 20 ms/)
      await woken.close()
    })

    test.each([0, -1, Number.NaN])('of %s is refused', async (requestDeadlineMs) => {
      await expect(makeBlk({ requestDeadlineMs })).rejects.toMatchObject({ code: 'DRIVER_OPTION' })
      await expect(makeNet({ requestDeadlineMs })).rejects.toMatchObject({ code: 'DRIVER_OPTION' })
    })
  })

  describe('a transport that throws ends the driver and not its caller', () => {
    const refuse = (): never => {
      throw new Error('the other end is gone')
    }

    test('in a doorbell: what was sent is accounted for, and the next poll tells', async () => {
      const onWork = vi.fn()
      const rig = await makeNet({ onWork })
      exhaust(rig.net)
      onWork.mockClear()
      rig.session.transport.notify = refuse
      expect(rig.net.sendCopy(pattern(64))).toBe(true)
      expect(onWork).toHaveBeenCalledTimes(1)
      rig.net.poll(64)
      expect([rig.events, rig.net.broken?.message]).toEqual([
        ['broken'],
        expect.stringContaining('the other end is gone'),
      ])

      const blk = await makeBlk()
      exhaust(blk.disk)
      blk.session.transport.notify = refuse
      const read = outcome(blk.disk.read(0, guestAddress(BASE), 512))
      await settled()
      blk.disk.poll(64)
      await settled()
      expect(read()).toBe('DRIVER_DEVICE_BROKEN')
    })

    test('in the interrupt registers and in the status', async () => {
      for (const method of ['takeInterrupts', 'readStatus'] as const) {
        const rig = await makeNet({ interrupts: false })
        rig.session.transport[method] = refuse
        rig.net.interrupt()
        const polls = (net: NetDriver): void => {
          for (let n = 0; n < 64; n++) net.poll(64)
        }
        expect(() => polls(rig.net)).not.toThrow()
        expect(rig.events).toEqual(['broken'])
      }
    })
  })
})
