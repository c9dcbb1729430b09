import {
  DEVICE_ID_NET,
  FeatureSet,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_SEL,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_STATUS,
} from '@guestdma/spec'
import { beforeAll, describe, expect, test } from 'vitest'
import { everything, NetDevice } from '../src/index.ts'
import {
  blkMachine,
  blkMachineOver,
  netMachine,
  netMachineOver,
  nextUncaught,
  packet,
  RecordingLink,
  TRANSPORTS,
  type TransportName,
} from './support/devices.ts'
import { pattern, Ram } from './support/guest.ts'

let transport: TransportName
const V1 = VIRTIO_F_VERSION_1

describe.each(TRANSPORTS)('over %s', (name) => {
  beforeAll(() => {
    transport = name
  })

  describe('init/features (virtio 1.4 §2.2)', () => {
    test('what is offered by default', {
      tags: [
        '2.2.2/only-supported',
        '6.2/version-1',
        '5.2.5.2/flush',
        '5.2.5.2/not-zoned',
        '6.2/sr-iov',
        '5.2.6.2/no-lifetime',
      ],
    }, () => {
      expect(netMachineOver(transport).device.offered.bits()).toEqual([
        VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_STATUS,
        VIRTIO_F_INDIRECT_DESC,
        VIRTIO_F_EVENT_IDX,
        V1,
        VIRTIO_F_RING_RESET,
        VIRTIO_F_SUSPEND,
      ])
      expect(blkMachineOver(transport).device.offered.bits()).toEqual([
        2,
        9,
        VIRTIO_F_INDIRECT_DESC,
        VIRTIO_F_EVENT_IDX,
        V1,
        VIRTIO_F_RING_RESET,
        VIRTIO_F_SUSPEND,
      ])
    })

    test('windows of 32 bits, 0 beyond the last', () => {
      const m = netMachineOver(transport, { offer: [70] })
      const word = (index: number): number => m.driver.deviceFeatures(index)
      expect([word(1), word(2), word(3), word(4), word(0xffff_ffff)]).toEqual([
        1 | (1 << 8) | (1 << 11),
        1 << 6,
        0,
        0,
        0,
      ])
    })

    test('a subset is accepted, and only it counts', { tags: ['2.2.2/valid-subsets'] }, () => {
      const m = netMachineOver(transport)
      expect(m.driver.negotiate(V1, VIRTIO_NET_F_MAC)).toBe(true)
      expect(m.device.negotiated.bits()).toEqual([VIRTIO_NET_F_MAC, V1])
    })

    test.each([
      ['a bit that was not offered', [V1, VIRTIO_NET_F_CSUM], 'not-offered', [VIRTIO_NET_F_CSUM]],
      ['a bit of the third window', [V1, 64], 'not-offered', [64]],
      ['no VERSION_1', [VIRTIO_NET_F_MAC], 'version-1', [V1]],
    ])('refused: %s', (_, bits, reason, at) => {
      const m = netMachineOver(transport)
      expect(m.driver.negotiate(...bits)).toBe(false)
      expect(m.device.faults.last()).toEqual([{ kind: 'features', device: 'net0', reason, bits: at }])
      expect(m.device.negotiated.equals(FeatureSet.empty)).toBe(true)
      m.driver.driverOk()
      expect(m.driver.status & STATUS_DRIVER_OK).toBe(0)
      // The only way on is a reset, and that works.
      expect(m.driver.negotiate(V1)).toBe(true)
    })

    test('refused: bits beyond 128', () => {
      const m = netMachineOver(transport)
      m.driver.status = 3
      m.driver.driverFeatures(1, 1)
      m.driver.driverFeatures(4, 1)
      m.driver.status = 11
      expect(m.driver.status).toBe(3)
    })

    test('dependencies, also those that either of two features satisfies', () => {
      const m = netMachineOver(transport, {
        offer: [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN],
      })
      expect(m.driver.negotiate(V1, VIRTIO_NET_F_HOST_TSO4)).toBe(false)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'dependency', bits: [VIRTIO_NET_F_HOST_TSO4] }])
      expect(m.driver.negotiate(V1, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN)).toBe(false)
      expect(m.driver.negotiate(V1, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN)).toBe(true)
    })

    test('features are fixed once FEATURES_OK is set', () => {
      const m = netMachineOver(transport)
      m.driver.negotiate(V1)
      m.driver.driverFeatures(0, 1 << VIRTIO_NET_F_MAC)
      m.driver.driverOk()
      expect(m.device.negotiated.bits()).toEqual([V1])
      expect(m.device.faults.last()).toMatchObject([
        { kind: 'register', reason: 'order', value: 1 << VIRTIO_NET_F_MAC },
      ])
    })

    test('the same features are accepted again after a reset (§2.2.2)', { tags: ['2.2.2/same-after-reset'] }, () => {
      const m = netMachineOver(transport)
      for (let round = 0; round < 3; round++) {
        expect(m.driver.negotiate(V1, VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS)).toBe(true)
        expect(m.device.negotiated.bits()).toEqual([VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, V1])
        m.driver.status = 0
      }
    })

    test('a feature is offered only together with what it needs (§2.2.2)', { tags: ['2.2.2/needs-offered'] }, () => {
      const refused = expect.objectContaining({ code: 'DEVICE_FEATURE', part: 'net0' })
      expect(() => netMachineOver(transport, { offer: [VIRTIO_NET_F_HOST_TSO4] })).toThrow(refused)
      expect(() => netMachineOver(transport, { offer: [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN] })).toThrow(refused)
      expect(() => netMachineOver(transport, { offer: [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4] })).not.toThrow()
    })

    test('a network device without an address does not offer MAC: its driver chooses one (§5.1.5)', () => {
      const device = new NetDevice({ name: 'n', port: everything(new Ram().memory) })
      expect([device.offered.has(VIRTIO_NET_F_MAC), [...device.config.bytes.slice(0, 6)]]).toEqual([
        false,
        [0, 0, 0, 0, 0, 0],
      ])
    })

    test('offer, withhold, requires', () => {
      const bits = [VIRTIO_F_ANY_LAYOUT, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA]
      const m = netMachineOver(transport, {
        offer: bits,
        withhold: [VIRTIO_F_RING_RESET],
        requires: FeatureSet.of(VIRTIO_F_ANY_LAYOUT),
      })
      expect(bits.every((bit) => m.device.offered.has(bit))).toBe(true)
      expect(m.device.offered.has(VIRTIO_F_RING_RESET)).toBe(false)
      expect(m.driver.negotiate(V1)).toBe(false)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'required', bits: [VIRTIO_F_ANY_LAYOUT] }])
      expect(m.driver.negotiate(V1, VIRTIO_F_ANY_LAYOUT)).toBe(true)
    })

    test("options that cannot be are the caller's error", () => {
      expect(() => netMachineOver(transport, { requires: FeatureSet.of(27) })).toThrow(
        expect.objectContaining({ code: 'DEVICE_FEATURE' }),
      )
      for (const queueSize of [0, 3, 65536, 1.5]) {
        expect(() => netMachineOver(transport, { queueSize })).toThrow(
          expect.objectContaining({ code: 'DEVICE_QUEUE_SIZE' }),
        )
      }
    })
  })

  describe('init/version-1, init/access-platform', () => {
    test('offered or required', () => {
      const offered = netMachineOver(transport, { accessPlatform: 'offered' })
      expect(offered.driver.negotiate(V1)).toBe(true)
      const required = netMachineOver(transport, { accessPlatform: 'required' })
      expect(required.driver.negotiate(V1)).toBe(false)
      expect(required.driver.negotiate(V1, VIRTIO_F_ACCESS_PLATFORM)).toBe(true)
    })

    test('a device without VERSION_1 is what a driver must refuse', () => {
      const m = netMachineOver(transport, { withhold: [V1] })
      expect(m.driver.offered(V1)).toBe(false)
      expect(m.driver.negotiate()).toBe(true)
    })
  })

  describe('init/order (§2.1, §3.1)', () => {
    test('status bits stay set, and only a reset clears them', {
      tags: ['2.4.1/status-zero', '3.4.2/early-suspend-ignored'],
    }, () => {
      const m = netMachineOver(transport)
      m.driver.status = 1
      m.driver.status = 2
      expect(m.driver.status).toBe(3)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'status-bits', value: 2 }])
      m.driver.status = 3 | STATUS_DEVICE_NEEDS_RESET | 16
      expect(m.driver.status).toBe(3)
      m.driver.status = 0
      expect(m.driver.status).toBe(0)
    })

    test('FEATURES_OK is not set before ACKNOWLEDGE and DRIVER are (§3.1.1)', () => {
      const m = netMachineOver(transport)
      for (const status of [8, 9, 10]) {
        m.driver.status = 0
        m.driver.driverFeatures(1, 1)
        m.driver.status = status
        expect(m.driver.status).toBe(status & 3)
      }
      m.driver.status = 11
      expect(m.driver.status).toBe(11)
    })

    test('nothing is touched before DRIVER_OK, after FAILED, or after a reset', {
      tags: ['2.1.2/idle-before-driver-ok', '2.4.1/quiet-after-reset'],
    }, () => {
      const link = new RecordingLink()
      const m = netMachineOver(transport, { link })
      m.driver.negotiate(V1)
      m.driver.queue(0, m.rx)
      m.driver.queue(1, m.tx)
      m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
      m.ram.writes.length = 0
      const idle = (): void => {
        m.device.queues[1].marked = true
        expect(m.device.poll(64)).toBe(0)
        expect(m.device.receive(pattern(64))).toBe(false)
        expect(m.ram.writes).toEqual([])
        expect(m.line.asserted).toBe(false)
      }
      idle()
      m.driver.status = 15 | STATUS_FAILED
      idle()
      m.driver.status = 0
      idle()
      expect(link.frames).toEqual([])
    })

    test('queues are set up after FEATURES_OK', () => {
      const m = netMachineOver(transport)
      m.driver.status = 3
      m.driver.queue(0, m.rx)
      expect(m.driver.queueReady(0)).toBe(false)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'order', value: 1 }])
    })

    test('a device that needs a reset stops and notifies', {
      tags: ['2.1.2/needs-reset', '2.1.2/needs-reset-notification'],
    }, () => {
      const m = netMachineOver(transport, { link: new RecordingLink() })
      m.driver.start([m.rx, m.tx])
      m.device.needsReset('the cable burns')
      expect(m.driver.status & STATUS_DEVICE_NEEDS_RESET).not.toBe(0)
      expect(m.driver.interrupting).toBe(true)
      expect(m.line.asserted).toBe(false)
      m.device.poll(1)
      expect(m.line.asserted).toBe(true)
      expect(m.driver.acknowledge()).toBe(2)
      expect(m.device.live).toBe(false)
      expect(m.device.faults.last()).toEqual([{ kind: 'needs-reset', device: 'net0', reason: 'the cable burns' }])
    })

    test('an observer sees each fault, and what it throws does not reach the guest', async () => {
      const seen: string[] = []
      const uncaught = nextUncaught()
      const m = netMachineOver(transport, {
        observer: (fault) => {
          seen.push(fault.kind)
          throw new Error('observer')
        },
      })
      m.driver.config(0x100, 4)
      expect(seen).toEqual(['register'])
      expect(await uncaught).toBe('observer')
    })
  })

  describe('queue reset (§2.6.1)', () => {
    test('stops the queue at once, clears its registers, and it can be set up again', {
      tags: [
        '2.6.1.1.1/defaults',
        '2.6.1.2.1/new-configuration',
        '4.2.2.1/queue-reset-at-enable',
        '4.2.2.1/queue-reset',
        '4.2.2.1/queue-reset-done',
        '2.6.1.1.1/stopped',
      ],
    }, () => {
      const link = new RecordingLink()
      const m = netMachineOver(transport, { link })
      m.driver.start([m.rx, m.tx], VIRTIO_F_RING_RESET)
      m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
      m.driver.kick(1)
      m.driver.resetQueue(1)
      expect(m.driver.queueReady(1)).toBe(false)
      expect(m.device.poll(64)).toBe(0)
      expect([...m.device.queues[1].areas, m.device.queues[1].size]).toEqual([0, 0, 0, 0, 0, 0, 256])
      const tx = netMachineOver(transport, {}, 4, m.ram).tx
      m.driver.queue(1, tx)
      tx.offer(tx.chain(packet(m.ram, pattern(80))))
      m.driver.kick(1)
      m.device.poll(64)
      expect(link.frames).toEqual([pattern(80)])
      expect(tx.reap()).toEqual([{ id: 0, length: 0 }])
      expect(m.tx.usedIndex).toBe(0)
    })

    test('is nothing without RING_RESET', () => {
      const m = netMachineOver(transport)
      m.driver.start([m.rx, m.tx])
      m.driver.resetQueue(1)
      expect(m.driver.queueReady(1)).toBe(true)
      expect(m.device.faults.last()).toMatchObject([{ reason: 'feature', value: 1 }])
    })
  })
})

test('the device says what it is', () => {
  expect(netMachine().driver.r(8)).toBe(DEVICE_ID_NET)
  expect(blkMachine().driver.r(8)).toBe(2)
})

test('QueueReady 0 stops a queue too (§4.2.2.1)', { tags: ['4.2.2.1/ready-first'] }, () => {
  const m = netMachine({ link: new RecordingLink() })
  m.driver.start([m.rx, m.tx])
  m.tx.offer(m.tx.chain(packet(m.ram, pattern(64))))
  m.driver.kick(1)
  m.driver.w(MMIO_QUEUE_SEL, 1)
  m.driver.w(MMIO_QUEUE_READY, 0)
  expect(m.device.poll(64)).toBe(0)
  m.driver.w(MMIO_QUEUE_READY, 1)
  expect(m.device.poll(64)).toBe(1)
})
