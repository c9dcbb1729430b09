import {
  MMIO_QUEUE_NOTIFY,
  MMIO_STATUS,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_SUSPEND,
  VIRTIO_F_SUSPEND,
  VIRTIO_NET_F_MAC,
} from '@guestdma/spec'
import { describe, expect, it } from 'vitest'
import type { HandDevice } from './support/device.ts'
import { deliver, outcome, pattern, rigsOver, serve, settled, TRANSPORTS } from './support/rig.ts'

const RUNNING = 15
const SUSPENDED = 11 | STATUS_SUSPEND
const BYTES = pattern(64 * 512)

/** The device suspends and resumes when it is asked, after so many looks at its status. */
function obey(device: HandDevice, looks = 0): void {
  device.onStatus = (value) => {
    const to = device.status === SUSPENDED ? RUNNING : SUSPENDED
    if ((value & (STATUS_SUSPEND | STATUS_DRIVER_OK)) !== (STATUS_SUSPEND | STATUS_DRIVER_OK)) return value
    if (looks === 0) return to
    let left = looks
    const { read } = device
    device.read = (offset, size) => {
      if (offset === MMIO_STATUS && left-- === 0) {
        device.status = to
        device.read = read
      }
      return read.call(device, offset, size)
    }
    return value
  }
}

const writesOf = (device: HandDevice): readonly (readonly [offset: number, value: number])[] =>
  device.log.filter(({ kind }) => kind === 'w').map(({ offset, value }) => [offset, value])

describe.each(TRANSPORTS)('suspend and resume over %s (virtio 1.4 §3.4)', (transport) => {
  const { makeBlk, makeNet } = rigsOver(transport)
  const features = [VIRTIO_F_SUSPEND, VIRTIO_NET_F_MAC]
  const blk = () => makeBlk({ queueSize: 8, features: [VIRTIO_F_SUSPEND] })

  it('SUSPEND is set only where it was agreed', { tags: ['3.4.1/suspend-if-agreed'] }, async () => {
    const { device, disk } = await makeBlk({ queueSize: 8 })
    device.log.length = 0
    await expect(disk.suspend()).rejects.toMatchObject({ code: 'DRIVER_NO_SUSPEND' })
    expect(writesOf(device)).toEqual([])
    const read = disk.readBytes(0, 512)
    await settled()
    serve(device, BYTES)
    disk.poll(8)
    expect(await read).toEqual(BYTES.slice(0, 512))
  })

  it('the status is read until the device shows that it suspended, and again until it resumed', {
    tags: ['3.4.1/verified', '3.4.1/wait-for-resume'],
  }, async () => {
    const { device, disk } = await blk()
    obey(device, 3)
    await disk.suspend()
    expect(device.status).toBe(SUSPENDED)
    const read = outcome(disk.readBytes(0, 512))
    const { length } = device.notified
    const resuming = disk.resume()
    await settled()
    expect([disk.poll(8), device.notified.length]).toEqual([0, length])
    await resuming
    expect([device.status, disk.poll(8)]).toEqual([RUNNING, 1])
    expect(device.notified.length).toBe(length + 1)
    serve(device, BYTES)
    disk.poll(8)
    await settled()
    expect(read()).toBe('ok')
  })

  it('while the device is suspended nothing is made available, rung or written but the status', {
    tags: ['3.4.1/no-buffers', '3.4.1/no-doorbells', '3.4.1/no-config'],
  }, async () => {
    const { device, net } = await makeNet({ queueSize: 8, features })
    obey(device)
    await net.suspend()
    device.log.length = 0
    const available = [0, 1].map((queue) => device.view(device.queues[queue].driver, 4).getUint16(2, true))
    deliver(device, pattern(100))
    net.interrupt()
    for (let i = 0; i < 100; i++) net.poll(8)
    expect(net.sendCopy(pattern(60))).toBe(false)
    expect([0, 1].map((queue) => device.view(device.queues[queue].driver, 4).getUint16(2, true))).toEqual(available)
    expect(writesOf(device)).toEqual([])
    await net.resume()
    expect(writesOf(device)).toEqual([[MMIO_STATUS, SUSPENDED | STATUS_DRIVER_OK]])
    net.poll(8)
    expect(writesOf(device).some(([offset]) => offset === MMIO_QUEUE_NOTIFY)).toBe(true)
  })

  it('what a device completes while it is suspended is told after it resumed', async () => {
    const { device, net, frames, events } = await makeNet({ queueSize: 8, features })
    obey(device)
    await net.suspend()
    deliver(device, pattern(100))
    net.poll(8)
    expect(net.sendCopy(pattern(60))).toBe(false)
    expect([frames, events]).toEqual([[], []])
    await net.resume()
    net.poll(8)
    expect([frames, events]).toEqual([[pattern(100)], ['drain']])
  })

  it.each<[string, (device: HandDevice) => void]>([
    ['a chain that it was not given', (device) => device.use(0, 7, 0)],
    ['an index that jumps', (device) => device.jump(0, 100)],
  ])('a device that uses %s while it is suspended is broken once it resumed', async (_, move) => {
    const { device, net, events } = await makeNet({ queueSize: 4, features })
    obey(device)
    await net.suspend()
    move(device)
    net.poll(8)
    expect(net.broken).toBe(null)
    await net.resume()
    net.poll(8)
    expect([net.broken?.code, events]).toEqual(['DRIVER_DEVICE_BROKEN', ['broken']])
  })

  it.each<[string, number, RegExp]>([
    ['stays as it is', RUNNING, /did not suspend within 50 ms/],
    ['goes on', RUNNING | STATUS_SUSPEND, /did not suspend within 50 ms/],
    ['needs a reset', SUSPENDED | STATUS_DEVICE_NEEDS_RESET, /set DEVICE_NEEDS_RESET/],
    ['is reset by somebody else', 0, /did not suspend within 50 ms/],
    ['is gone', 0xff, /is gone/],
  ])('a device that is asked to suspend and %s is broken', async (_, status, message) => {
    const { device, disk, errors } = await blk()
    const read = outcome(disk.readBytes(0, 512))
    await settled()
    device.onStatus = () => status
    await expect(disk.suspend()).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
      message: expect.stringMatching(message),
    })
    await settled()
    expect([read(), errors]).toEqual(['DRIVER_DEVICE_BROKEN', ['DRIVER_DEVICE_BROKEN']])
    await expect(disk.resume()).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
    device.onStatus = null
    await disk.close()
  })

  it.each<[string, number, RegExp]>([
    ['resumed by itself', RUNNING, /resumed by itself: its status is 15/],
    ['was reset by somebody else', 0, /reset by somebody else/],
    ['needs a reset', SUSPENDED | STATUS_DEVICE_NEEDS_RESET, /set DEVICE_NEEDS_RESET/],
  ])('a suspended device that %s is left alone, and is broken when it is to resume', async (_, status, message) => {
    const { device, disk } = await blk()
    obey(device)
    await disk.suspend()
    device.status = status
    device.log.length = 0
    disk.interrupt()
    for (let i = 0; i < 100; i++) disk.poll(8)
    expect([disk.broken, writesOf(device)]).toEqual([null, []])
    await expect(disk.resume()).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
      message: expect.stringMatching(message),
    })
    expect([disk.broken?.code, writesOf(device)]).toEqual(['DRIVER_DEVICE_BROKEN', []])
  })

  it('a device that does not resume is broken', async () => {
    const { device, disk } = await blk()
    obey(device)
    await disk.suspend()
    device.onStatus = () => SUSPENDED
    await expect(disk.resume()).rejects.toThrow(/did not resume within 50 ms/)
    expect(disk.broken?.code).toBe('DRIVER_DEVICE_BROKEN')
  })

  it('a device that suspends without being asked is broken', async () => {
    const { device, disk } = await blk()
    device.status = SUSPENDED
    device.interrupts = 2
    disk.interrupt()
    disk.poll(8)
    expect(disk.broken?.message).toMatch(/suspended by itself: its status is 27/)
  })

  it('one change at a time, and only one that fits', async () => {
    const { device, disk } = await blk()
    await expect(disk.resume()).rejects.toMatchObject({ code: 'DRIVER_SUSPENDED' })
    obey(device)
    const first = disk.suspend()
    await expect(disk.suspend()).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
    await first
    await expect(disk.suspend()).rejects.toMatchObject({ code: 'DRIVER_SUSPENDED' })
    await expect(disk.resetQueue()).rejects.toMatchObject({ code: 'DRIVER_SUSPENDED' })
    await disk.resume()
    await disk.close()
    await expect(disk.suspend()).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
  })

  it('a device that is closed while it suspends ends that, and nothing is broken', async () => {
    const { device, disk } = await blk()
    device.onStatus = (value) => value
    const suspending = disk.suspend()
    const ended = expect(suspending).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
    await disk.close()
    await ended
    expect([disk.broken, device.status]).toEqual([null, 0])
  })

  it('an owner that polled in vain meanwhile is told when the device resumed', async () => {
    let told = 0
    const { device, disk } = await makeBlk({ queueSize: 8, features: [VIRTIO_F_SUSPEND], onWork: () => told++ })
    disk.poll(8)
    obey(device)
    await disk.suspend()
    disk.interrupt()
    expect(disk.poll(8)).toBe(0)
    const before = told
    await disk.resume()
    expect(told).toBe(before + 1)
  })

  it('no deadline passes while the device is suspended', async () => {
    let time = 0
    const { device, disk, session } = await makeBlk({
      queueSize: 8,
      features: [VIRTIO_F_SUSPEND],
      requestDeadlineMs: 1000,
      onWork: () => {},
    })
    Object.assign(session.wait, { now: () => time })
    obey(device)
    const before = outcome(disk.readBytes(0, 512))
    await settled()
    disk.poll(8)
    time += 600
    await disk.suspend()
    const meanwhile = outcome(disk.readBytes(8, 512))
    time += 5000
    await disk.resume()
    time += 300
    disk.poll(8)
    await settled()
    expect([before(), meanwhile()]).toEqual(['pending', 'pending'])
    time += 200
    disk.poll(8)
    await settled()
    expect([before(), meanwhile()]).toEqual(['DRIVER_DEVICE_BROKEN', 'DRIVER_DEVICE_BROKEN'])
  })
})
