import {
  BLK_CONFIG_WRITEBACK,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_SUSPEND,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_F_SUSPEND,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import { beforeEach, describe, expect, test } from 'vitest'
import { BlkDevice, type BlockRequest, LoopbackLink, NetDevice } from '../src/index.ts'
import {
  type AnyNetMachine,
  blkMachineOver,
  DISK_BYTES,
  header,
  netMachine,
  netMachineOver,
  packet,
  RecordingLink,
  status,
  TRANSPORTS,
} from './support/devices.ts'
import { type GuestDriver, pattern } from './support/guest.ts'

const INITIALISED = 11
const SUSPENDED = INITIALISED | STATUS_SUSPEND
const RUNNING = INITIALISED | STATUS_DRIVER_OK

function ask(driver: GuestDriver): void {
  driver.status = RUNNING | STATUS_SUSPEND
}

function send(m: AnyNetMachine, seed: number): void {
  m.tx.offer(m.tx.chain(packet(m.ram, pattern(64, seed))))
  m.driver.kick(1)
}

function post(m: AnyNetMachine): void {
  m.rx.offer(m.rx.chain({ address: m.ram.alloc(1526), length: 1526, w: true }))
}

describe.each(TRANSPORTS)('a suspended device over %s (virtio 1.4 §3.4)', (transport) => {
  let link: RecordingLink
  let m: AnyNetMachine

  function start(features: readonly number[] = [VIRTIO_F_SUSPEND, VIRTIO_NET_F_STATUS]): void {
    link = new RecordingLink()
    m = netMachineOver(transport, { link })
    m.driver.start([m.rx, m.tx], ...features)
    m.device.poll(64)
  }

  function suspend(): void {
    ask(m.driver)
    m.device.poll(64)
    expect(m.driver.status).toBe(SUSPENDED)
  }

  beforeEach(() => start())

  test('SUSPEND is ignored before DRIVER_OK, with it, and without the feature', {
    tags: ['3.4.2/early-suspend-ignored'],
  }, () => {
    const ignored = (): void => {
      expect(m.device.faults.last()).toMatchObject([{ reason: 'status-bits' }])
      m.device.poll(64)
      expect(m.driver.status & STATUS_SUSPEND).toBe(0)
    }
    m = netMachineOver(transport)
    m.driver.negotiate(32, VIRTIO_F_SUSPEND)
    m.driver.status = INITIALISED | STATUS_SUSPEND
    ignored()
    m = netMachineOver(transport)
    m.driver.negotiate(32, VIRTIO_F_SUSPEND)
    ask(m.driver)
    ignored()
    expect(m.driver.status).toBe(RUNNING)
    start([])
    ask(m.driver)
    ignored()
    expect(m.driver.status).toBe(RUNNING)
  })

  test('the device suspends in a poll, and resumes at once', {
    tags: ['3.4.2/suspend-or-reset', '3.4.2/resume-or-reset'],
  }, () => {
    let due = 0
    m.device.onWork = () => due++
    ask(m.driver)
    expect([m.driver.status, due]).toEqual([RUNNING | STATUS_SUSPEND, 1])
    m.device.poll(64)
    expect([m.driver.status, m.device.suspended, m.device.live]).toEqual([SUSPENDED, true, true])
    m.driver.status = SUSPENDED | STATUS_DRIVER_OK
    expect([m.driver.status, m.device.suspended, due]).toEqual([RUNNING, false, 2])
    expect(m.device.faults.count).toBe(0)
  })

  test('what was made available meanwhile is taken after it resumed, in order', { tags: ['3.4.2/at-rest'] }, () => {
    send(m, 1)
    m.device.poll(64)
    send(m, 2)
    suspend()
    send(m, 3)
    const { length } = m.ram.writes
    for (let i = 0; i < 3; i++) expect(m.device.poll(64)).toBe(0)
    expect([link.frames.length, m.tx.usedIndex, m.ram.writes.length - length]).toEqual([1, 1, 0])
    m.driver.status = SUSPENDED | STATUS_DRIVER_OK
    m.device.poll(64)
    expect([link.frames, m.tx.usedIndex]).toEqual([[1, 2, 3].map((seed) => pattern(64, seed)), 3])
  })

  test('no frame is received: it stays with who has it', { tags: ['3.4.2/at-rest'] }, () => {
    post(m)
    ask(m.driver)
    expect(m.device.receive(pattern(64))).toBe(false)
    m.device.poll(64)
    expect([m.device.receive(pattern(64)), m.rx.usedIndex, m.driver.status]).toEqual([false, 0, SUSPENDED])
    m.driver.status = SUSPENDED | STATUS_DRIVER_OK
    expect(m.device.receive(pattern(64))).toBe(true)
    m.device.poll(64)
    expect(m.rx.reap()).toEqual([{ id: 0, length: 76 }])
  })

  test('a doorbell, and a write to a queue, is recorded and has no effect', { tags: ['3.4.2/at-rest'] }, () => {
    suspend()
    m.driver.kick(1)
    m.driver.resetQueue(1)
    m.driver.setQueue(0, m.tx, 4)
    m.driver.enableQueue(0)
    m.device.poll(64)
    expect([m.driver.queueReady(0), m.driver.queueReady(1), link.frames.length]).toEqual([true, true, 0])
    expect(new Set(m.device.faults.last().map((fault) => 'reason' in fault && fault.reason))).toEqual(
      new Set(['order']),
    )
  })

  test('a change of the configuration waits, and is told of when the device resumes', {
    tags: ['3.4.2/at-rest', '3.4.2/no-config-notification', '3.4.2/late-config-notification'],
  }, () => {
    suspend()
    const { generation } = m.driver
    for (const up of [false, true, false]) m.device.setLink(up)
    m.device.poll(64)
    expect([m.driver.config(6, 2), m.driver.generation, m.driver.interrupting]).toEqual([1, generation, false])
    m.driver.status = SUSPENDED | STATUS_DRIVER_OK
    m.device.poll(64)
    expect([m.driver.config(6, 2), m.driver.acknowledge(), m.line.rises]).toEqual([0, 2, 1])
    expect(m.driver.generation).not.toBe(generation)
  })

  test('a change that waits when the device is reset shows at once, and nobody is told', () => {
    suspend()
    m.device.setLink(false)
    m.driver.status = 0
    m.device.poll(64)
    expect([m.driver.config(6, 2), m.driver.interrupting]).toEqual([0, false])
  })

  test('a write to its configuration is ignored', { tags: ['3.4.2/config-ignored'] }, () => {
    const blk = blkMachineOver(transport, { offer: [VIRTIO_BLK_F_CONFIG_WCE] })
    blk.driver.start([blk.ring], VIRTIO_F_SUSPEND, VIRTIO_BLK_F_CONFIG_WCE, 9)
    ask(blk.driver)
    blk.device.poll(64)
    blk.driver.setConfig(BLK_CONFIG_WRITEBACK, 1, 0)
    expect(blk.driver.config(BLK_CONFIG_WRITEBACK, 1)).toBe(1)
    expect(blk.device.faults.last()).toMatchObject([{ reason: 'order' }])
    blk.driver.status = SUSPENDED | STATUS_DRIVER_OK
    blk.driver.setConfig(BLK_CONFIG_WRITEBACK, 1, 0)
    expect(blk.driver.config(BLK_CONFIG_WRITEBACK, 1)).toBe(0)
  })

  test('it suspends once all that it took is used and notified, and takes nothing new', {
    tags: ['3.4.2/before-suspending'],
  }, () => {
    const held: BlockRequest[] = []
    const take = (request: BlockRequest): void => void held.push(request)
    const blk = blkMachineOver(transport, { store: { capacity: DISK_BYTES, read: take, write: take, flush: take } })
    const { driver, device, ring, ram } = blk
    const read = (): void => {
      ring.offer(ring.chain(header(ram, 0), { address: ram.alloc(512), length: 512, w: true }, status(ram)))
      driver.kick(0)
    }
    driver.start([ring], VIRTIO_F_SUSPEND)
    read()
    device.poll(64)
    read()
    ask(driver)
    device.poll(64)
    expect([held.length, driver.status, ring.usedIndex]).toEqual([1, RUNNING | STATUS_SUSPEND, 0])
    held[0].done(0)
    expect(driver.status).toBe(RUNNING | STATUS_SUSPEND)
    device.poll(64)
    expect([held.length, driver.status, ring.usedIndex, blk.line.asserted]).toEqual([1, SUSPENDED, 1, true])
    driver.status = SUSPENDED | STATUS_DRIVER_OK
    device.poll(64)
    expect(held.length).toBe(2)
  })

  test('one that fails on the way, or suspended, needs a reset and says so', {
    tags: ['3.4.2/suspend-or-reset', '3.4.2/resume-or-reset', '3.4.2/no-config-notification'],
  }, () => {
    ask(m.driver)
    m.device.needsReset('on the way')
    m.device.poll(64)
    expect(m.driver.status).toBe(RUNNING | STATUS_SUSPEND | STATUS_DEVICE_NEEDS_RESET)
    expect([m.device.suspended, m.line.asserted]).toEqual([false, true])
    start()
    suspend()
    m.device.needsReset('suspended')
    m.device.poll(64)
    expect([m.driver.status, m.driver.interrupting]).toEqual([SUSPENDED | STATUS_DEVICE_NEEDS_RESET, false])
    m.driver.status = RUNNING
    m.device.poll(64)
    expect([m.driver.status, m.device.live, m.driver.acknowledge()]).toEqual([
      RUNNING | STATUS_DEVICE_NEEDS_RESET,
      false,
      2,
    ])
  })

  test.each([
    ['reset', 0, 0],
    ['failed', SUSPENDED | STATUS_FAILED, SUSPENDED | STATUS_FAILED],
  ])('one that is %s meanwhile lets go of its link, and can be started again', (_, write, left) => {
    let unplugged = 0
    const counting = Object.assign(new RecordingLink(), { unplugged: () => unplugged++ })
    m = netMachineOver(transport, { link: counting })
    m.driver.start([m.rx, m.tx], VIRTIO_F_SUSPEND)
    suspend()
    expect(unplugged).toBe(0)
    m.driver.status = write
    expect([m.driver.status, m.device.live, unplugged]).toEqual([left, false, 1])
    m.driver.start([m.rx, m.tx], VIRTIO_F_SUSPEND)
    suspend()
  })

  test('saved and restored it is still suspended, or still on its way', () => {
    for (const before of [() => ask(m.driver), suspend]) {
      start()
      send(m, 5)
      before()
      const other = netMachineOver(transport, { link: new RecordingLink() }, 8, m.ram)
      const state = structuredClone(m.device.save())
      other.device.restore(state)
      other.device.poll(64)
      expect([other.driver.status, other.device.suspended]).toEqual([SUSPENDED, true])
      other.driver.status = RUNNING
      other.device.poll(64)
      expect([other.device.counters.transmitted, m.tx.usedIndex]).toEqual([1, 1])
    }
  })

  test('a state that is suspended without the feature, or before FEATURES_OK, is refused', () => {
    suspend()
    const state = m.device.save()
    const refused = expect.objectContaining({ code: 'DEVICE_STATE' })
    const [low, high, ...rest] = state.driverFeatures
    const without = { ...state, driverFeatures: [low, high & ~(1 << (VIRTIO_F_SUSPEND - 32)), ...rest] }
    const other = netMachineOver(transport).device
    expect(() => other.restore(without)).toThrow(refused)
    expect(() => other.restore({ ...state, status: STATUS_SUSPEND | 3 })).toThrow(refused)
    expect(other.status).toBe(0)
  })
})

test('frames that wait in a link for a suspended device reach it when it resumes', () => {
  const link = new LoopbackLink()
  const m = netMachine({ link })
  m.driver.start([m.rx, m.tx], VIRTIO_F_SUSPEND)
  send(m, 1)
  m.device.poll(64)
  post(m)
  ask(m.driver)
  m.device.poll(64)
  expect([m.driver.status, m.rx.usedIndex]).toEqual([SUSPENDED, 0])
  m.driver.status = RUNNING
  while (m.device.poll(64) > 0);
  expect(m.rx.reap()).toEqual([{ id: 0, length: 76 }])
})

test('a capacity that changed meanwhile is the last one that was told', () => {
  const store = { capacity: DISK_BYTES, read: () => {}, write: () => {}, flush: () => {} }
  const m = blkMachineOver('mmio', { store })
  m.driver.start([m.ring], VIRTIO_F_SUSPEND)
  ask(m.driver)
  m.device.poll(64)
  for (const sectors of [100, 3, 7]) {
    store.capacity = sectors * 512
    m.device.capacityChanged()
  }
  expect(m.driver.config(0, 4)).toBe(DISK_BYTES / 512)
  m.driver.status = RUNNING
  expect(m.driver.config(0, 4)).toBe(7)
})

test('both device types offer it, and a device can withhold it', () => {
  const port = netMachine().device.port
  const store = { capacity: 512, read: () => {}, write: () => {}, flush: () => {} }
  const offers = (withhold: readonly number[]): boolean[] =>
    [new NetDevice({ name: 'n', port, withhold }), new BlkDevice({ name: 'b', port, store, withhold })].map((device) =>
      device.offered.has(VIRTIO_F_SUSPEND),
    )
  expect([offers([]), offers([VIRTIO_F_SUSPEND])]).toEqual([
    [true, true],
    [false, false],
  ])
})
