import { VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import type { RegisterFaultReason } from '../src/index.ts'
import { type PciMachine, packet, pciMachine, RecordingLink } from './support/devices.ts'
import { pattern } from './support/guest.ts'

const NOTIFY_CFG = 2

function unmark(m: PciMachine): void {
  for (const queue of m.device.queues) queue.marked = false
}

const marked = (m: PciMachine): boolean[] => m.device.queues.map((queue) => queue.marked)

function expectRefused(
  m: PciMachine,
  reason: RegisterFaultReason,
  offset: number,
  size: 1 | 2 | 4,
  value: number,
): void {
  const { offset: base } = m.driver.structure(NOTIFY_CFG)
  const before = m.device.faults.count
  m.driver.write(NOTIFY_CFG, offset, size, value)
  expect(m.device.faults.count).toBe(before + 1)
  expect(m.device.faults.last().at(-1)).toEqual({
    kind: 'register',
    device: 'net0',
    reason,
    space: 0,
    offset: base + offset,
    size,
    value,
  })
  expect(marked(m)).toEqual([false, false])
}

describe('available buffer notifications (virtio 1.4 §4.1.5.2)', () => {
  test.each([0, 2, 4, 64])('queue_notify_off * %i is the place of a doorbell, the index its value', (multiplier) => {
    const m = pciMachine({ notifyMultiplier: multiplier })
    m.driver.start([m.rx, m.tx])
    for (const queue of [0, 1]) {
      unmark(m)
      m.driver.set('queueSelect', queue)
      m.driver.write(NOTIFY_CFG, m.driver.get('notifyOff') * multiplier, 2, queue)
      expect(marked(m)).toEqual([queue === 0, queue === 1])
    }
    expect(m.device.faults.count).toBe(0)
  })

  test('16 bits wide, at the place of the queue that it names', () => {
    const m = pciMachine()
    m.driver.start([m.rx, m.tx])
    unmark(m)
    expectRefused(m, 'width', 4, 4, 1)
    expectRefused(m, 'width', 4, 1, 1)
    expectRefused(m, 'value', 0, 2, 1)
    expectRefused(m, 'value', 4, 2, 0)
    expectRefused(m, 'value', 2, 2, 0)
    expectRefused(m, 'no-queue', 0, 2, 2)
    expectRefused(m, 'no-queue', 4, 2, 0xffff)
    expectRefused(m, 'unknown', 8, 2, 2)
  })

  test('before DRIVER_OK it is ignored; reading gives 0', () => {
    const m = pciMachine()
    m.driver.negotiate(32)
    m.driver.queue(1, m.tx)
    expectRefused(m, 'order', 4, 2, 1)
    expect(m.driver.read(NOTIFY_CFG, 4, 2)).toBe(0)
    expect(m.device.faults.last().at(-1)).toMatchObject({ reason: 'write-only', value: null })
  })

  test('with NOTIFICATION_DATA 32 bits wide; the upper half is not part of the index', () => {
    const link = new RecordingLink()
    const m = pciMachine({}, { link, offer: [VIRTIO_F_NOTIFICATION_DATA] })
    m.driver.start([m.rx, m.tx], VIRTIO_F_NOTIFICATION_DATA)
    unmark(m)
    expectRefused(m, 'width', 4, 2, 1)
    expectRefused(m, 'no-queue', 4, 4, 0x8001_0007)
    expectRefused(m, 'value', 0, 4, 0x8001_0001)
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
    m.driver.write(NOTIFY_CFG, 4, 4, 0xffff_0001)
    m.device.poll(64)
    expect(link.frames).toHaveLength(1)
  })

  test('offered and not negotiated, it stays 16 bits wide', () => {
    const m = pciMachine({}, { offer: [VIRTIO_F_NOTIFICATION_DATA] })
    m.driver.start([m.rx, m.tx])
    unmark(m)
    expectRefused(m, 'width', 4, 4, 1)
    m.driver.write(NOTIFY_CFG, 4, 2, 1)
    expect(marked(m)).toEqual([false, true])
  })

  test('with NOTIF_CONFIG_DATA the value is queue_notif_config_data', () => {
    const m = pciMachine({ notifConfigData: (index) => 0xff00 - index }, { offer: [VIRTIO_F_NOTIF_CONFIG_DATA] })
    m.driver.start([m.rx, m.tx], VIRTIO_F_NOTIF_CONFIG_DATA)
    unmark(m)
    m.driver.set('queueSelect', 1)
    expect(m.driver.get('notifConfigData')).toBe(0xfeff)
    m.driver.write(NOTIFY_CFG, 4, 2, 0xfeff)
    expect(marked(m)).toEqual([false, true])
    unmark(m)
    expectRefused(m, 'no-queue', 4, 2, 1)
    expectRefused(m, 'value', 0, 2, 0xfeff)
  })

  test.each([[() => 5], [() => 0x1_0000], [() => -1], [() => 0.5]])(
    'queue_notif_config_data of 16 bits, another for each queue: not %s',
    (notifConfigData) => {
      expect(() => pciMachine({ notifConfigData })).toThrow(expect.objectContaining({ code: 'DEVICE_OPTION' }))
    },
  )

  test('inline: the doorbell runs the device before it returns', () => {
    const link = new RecordingLink()
    const m = pciMachine({ notify: 'inline' }, { link })
    m.driver.start([m.rx, m.tx])
    m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
    expect(m.tx.usedIndex).toBe(0)
    m.driver.kick(1)
    expect([m.tx.usedIndex, m.line.asserted, link.frames.length]).toEqual([1, true, 1])
  })
})
