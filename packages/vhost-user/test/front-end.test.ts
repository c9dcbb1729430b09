import type { DeviceAddress } from '@guestdma/memory'
import { SharedMemory, waitReadable } from '@guestdma/node'
import {
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  FeatureSet,
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTIO_NET_F_MAC,
} from '@guestdma/spec'
import { resetDevice, TransportLostError } from '@guestdma/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type VhostUserOptions, VhostUserTransport } from '../src/index.ts'
import { encodeAnswer } from '../src/protocol/codec.ts'
import * as messages from '../src/protocol/messages.ts'
import { FakeBackEnd } from './support/fake-back-end.ts'
import { missingSystem, titled } from './support/system.ts'

const AT = 0x10_0000
const AREAS = {
  descriptor: AT as DeviceAddress,
  driver: (AT + 0x1000) as DeviceAddress,
  device: (AT + 0x2000) as DeviceAddress,
}
const READY = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK
const LIVE = READY | STATUS_DRIVER_OK
const USER = 2 ** 46

let memory: SharedMemory
let backEnd: FakeBackEnd
let transport: VhostUserTransport | undefined

beforeEach(() => {
  if (missingSystem !== '') return
  memory = SharedMemory.create('pool', 1 << 20)
  backEnd = new FakeBackEnd()
})
afterEach(() => {
  transport?.close()
  transport = undefined
  backEnd?.close()
  memory?.close()
})

function options(changed: Partial<VhostUserOptions> = {}): VhostUserOptions {
  return {
    name: 'dev0',
    deviceId: DEVICE_ID_BLOCK,
    queues: 1,
    memory: [{ memory, device: AT }],
    wait: { pump: backEnd.pump, deadlineMs: 10_000 },
    ...changed,
  }
}

function connect(changed: Partial<VhostUserOptions> = {}): VhostUserTransport {
  transport = VhostUserTransport.over(backEnd.theirs, options(changed))
  return transport
}

/** To FEATURES_OK, with the features that are offered. */
function ready(changed: Partial<VhostUserOptions> = {}): VhostUserTransport {
  const made = connect(changed)
  made.writeFeatures(made.readFeatures())
  made.writeStatus(READY)
  return made
}

describe.skipIf(missingSystem !== '')(titled('front-end', missingSystem), () => {
  describe('handshake (vhost-user, "Communication")', () => {
    it('asks in order, and agrees to what both ends know', () => {
      const made = connect()
      expect(backEnd.requests).toEqual([
        'SET_OWNER',
        'GET_FEATURES',
        'GET_PROTOCOL_FEATURES',
        'SET_PROTOCOL_FEATURES',
        'GET_QUEUE_NUM',
        'SET_BACKEND_REQ_FD',
      ])
      expect(made.protocolFeatures.bits()).toEqual([0, 3, 5, 9, 16])
    })

    it('a back end without protocol features is driven as well', () => {
      backEnd.offered = FeatureSet.of(VIRTIO_F_VERSION_1)
      const made = ready({ deviceId: DEVICE_ID_NET, queues: 2, config: new Uint8Array(12) })
      made.enableQueue(0, 8, AREAS)
      backEnd.pump()
      expect(backEnd.requests).not.toContain('GET_PROTOCOL_FEATURES')
      expect(backEnd.requests).not.toContain('SET_VRING_ENABLE')
      expect(backEnd.requests.at(-1)).toBe('SET_VRING_KICK')
      // Without STATUS it is kept here.
      expect(made.readStatus()).toBe(READY)
    })

    it.each<[string, () => void, Partial<VhostUserOptions>, string, RegExp]>([
      ['too few queues', () => (backEnd.queueNum = 1), { queues: 4 }, 'VHOST_QUEUES', /1 queues of the 4/],
      [
        'too few pairs of queues',
        () => (backEnd.queueNum = 1),
        { deviceId: DEVICE_ID_NET, queues: 4, config: new Uint8Array(12) },
        'VHOST_QUEUES',
        /1 queues of the 4/,
      ],
      [
        'no configuration',
        () => (backEnd.protocol = FeatureSet.empty),
        {},
        'VHOST_FEATURES',
        /CONFIG \(9\), or give config/,
      ],
      [
        'no answers for an IOTLB',
        () => (backEnd.protocol = FeatureSet.of(messages.PROTOCOL_F_CONFIG)),
        { iotlb: true },
        'VHOST_FEATURES',
        /REPLY_ACK \(3\) for iotlb, BACKEND_REQ \(5\) for iotlb/,
      ],
      [
        'no translation for an IOTLB',
        () => (backEnd.offered = FeatureSet.of(30, 32)),
        { iotlb: true },
        'VHOST_FEATURES',
        /ACCESS_PLATFORM \(33\)/,
      ],
    ])('%s is a typed error, and the connection is closed', (_, prepare, changed, code, text) => {
      prepare()
      expect(() => connect(changed)).toThrow(expect.objectContaining({ code, message: expect.stringMatching(text) }))
      expect(backEnd.theirs.fd).toBe(-1)
    })
  })

  describe('features', () => {
    it('bits of vhost itself, and those that have no message, are not offered to the driver; the former are not lost', () => {
      backEnd.offered = FeatureSet.of(1, 26, 30, 32, 38, 39, 43)
      const made = connect()
      expect(made.readFeatures().bits()).toEqual([1, 32])
      made.writeFeatures(FeatureSet.of(1, 32))
      expect(backEnd.features.bits()).toEqual([1, 30, 32])
    })

    it('translation is offered only where somebody here answers for it', () => {
      expect(connect().readFeatures().has(VIRTIO_F_ACCESS_PLATFORM)).toBe(false)
      backEnd.close()
      backEnd = new FakeBackEnd()
      expect(connect({ iotlb: true }).readFeatures().has(VIRTIO_F_ACCESS_PLATFORM)).toBe(true)
    })

    it('what the front end provides itself is offered, and the back end is not told', () => {
      const made = connect({ config: new Uint8Array(12), ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC) })
      expect(made.readFeatures().has(VIRTIO_NET_F_MAC)).toBe(true)
      made.writeFeatures(FeatureSet.of(VIRTIO_NET_F_MAC, VIRTIO_F_VERSION_1))
      expect(backEnd.features.bits()).toEqual([30, 32])
    })

    it('features that the back end refuses are told as such, for the next candidate', () => {
      const made = connect()
      backEnd.refused.add(messages.SET_FEATURES.request)
      expect(() => made.writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1))).toThrow(
        expect.objectContaining({
          code: 'TRANSPORT_FEATURES',
          cause: expect.objectContaining({ code: 'VHOST_REFUSED' }),
        }),
      )
    })
  })

  describe('memory (vhost-user, "Memory access")', () => {
    it('the table is what was given, and is sent once', () => {
      const second = { memory, device: 0x4000_0000, offset: 0x4000, length: 0x2000 }
      const made = ready({ memory: [{ memory, device: AT, length: 0x4000 }, second] })
      made.writeStatus(0)
      made.writeStatus(READY)
      expect(backEnd.requests.filter((name) => name === 'SET_MEM_TABLE')).toHaveLength(1)
      expect(backEnd.table).toEqual([
        { guest: AT, length: 0x4000, user: USER + AT, offset: 0 },
        { guest: 0x4000_0000, length: 0x2000, user: USER + 0x4000_0000, offset: 0x4000 },
      ])
      expect(backEnd.tableDescriptors).toBe(2)
    })

    it.each<[string, () => VhostUserOptions['memory'], RegExp]>([
      ['none', () => [], /0 windows/],
      [
        'nine',
        () => Array.from({ length: 9 }, (_, i) => ({ memory, device: i * 0x1000, length: 0x1000 })),
        /9 windows/,
      ],
      ['an odd address', () => [{ memory, device: 0x800 }], /device 2048, which must be whole pages/],
      ['an odd length', () => [{ memory, device: 0, length: 100 }], /length 100, which must be whole pages/],
      ['a negative offset', () => [{ memory, device: 0, offset: -4096 }], /offset -4096/],
      ['more than there is', () => [{ memory, device: 0, offset: 0x1000, length: 1 << 20 }], /must lie in the 1048576/],
      ['beyond 2^46', () => [{ memory, device: 2 ** 46 - 4096 }], /below 0x400000000000/],
      [
        'an overlap',
        () => [
          { memory, device: AT },
          { memory, device: AT + 0x1000 },
        ],
        /begins inside the one at/,
      ],
      ['a closed one', () => [{ memory: { fd: -1, bytes: 4096 }, device: 0 }], /is closed/],
    ])('windows: %s', (_, windows, text) => {
      expect(() => connect({ memory: windows() })).toThrow(
        expect.objectContaining({ code: 'VHOST_MEMORY', message: expect.stringMatching(text) }),
      )
    })
  })

  it.each<[Partial<VhostUserOptions>]>([
    [{ deviceId: 0 }],
    [{ queues: 0 }],
    [{ queues: 257 }],
    [{ maxQueueSize: 100 }],
    [{ maxQueueSize: 65_536 }],
    [{ configLength: 257 }],
    [{ deviceId: DEVICE_ID_NET }],
  ])('an option out of range is refused before anything is sent: %o', (changed) => {
    expect(() => connect(changed)).toThrow(expect.objectContaining({ code: 'VHOST_OPTION' }))
    expect(backEnd.requests).toEqual([])
  })

  describe('queues (vhost-user, "Ring states")', () => {
    it('a queue is described, then started', () => {
      const made = ready()
      const before = backEnd.requests.length
      made.enableQueue(0, 128, AREAS)
      expect(backEnd.requests.slice(before)).toEqual([
        'SET_VRING_NUM',
        'SET_VRING_BASE',
        'SET_VRING_ADDR',
        'SET_VRING_ERR',
        'SET_VRING_CALL',
        'SET_VRING_KICK',
        'SET_VRING_ENABLE',
      ])
      const user = USER + AT
      expect(backEnd.address).toMatchObject({ descriptor: user, available: user + 0x1000, used: user + 0x2000 })
      expect(backEnd.base).toBe(0)
      made.notify(0, 0)
      made.notify(0, 0)
      expect(backEnd.kick?.take()).toBe(2)
    })

    it('with translation, rings are at I/O virtual addresses', () => {
      ready({ iotlb: true }).enableQueue(0, 8, AREAS)
      expect(backEnd.address).toMatchObject({ descriptor: AT, available: AT + 0x1000, used: AT + 0x2000 })
    })

    it('a packed ring begins with both wrap counters set', () => {
      backEnd.offered = FeatureSet.of(30, VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)
      ready().enableQueue(0, 8, AREAS)
      expect(backEnd.base).toBe(0x8000_8000)
    })

    it('a queue that is too large, in use, absent, or outside of the memory is refused before anything is sent', () => {
      const made = ready({ maxQueueSize: 256 })
      expect([made.maxQueueSize(0), made.maxQueueSize(1)]).toEqual([256, 0])
      const before = backEnd.requests.length
      expect(() => made.enableQueue(0, 512, AREAS)).toThrow(expect.objectContaining({ code: 'TRANSPORT_QUEUE_SIZE' }))
      const outside = { ...AREAS, device: 0x8000_0000 as DeviceAddress }
      expect(() => made.enableQueue(0, 8, outside)).toThrow(expect.objectContaining({ code: 'VHOST_MEMORY' }))
      expect(backEnd.requests).toHaveLength(before)
      made.enableQueue(0, 8, AREAS)
      expect(() => made.enableQueue(0, 8, AREAS)).toThrow(expect.objectContaining({ code: 'TRANSPORT_QUEUE_BUSY' }))
    })

    it('a reset stops each queue and waits until the back end has let go of it', async () => {
      const made = ready()
      made.enableQueue(0, 8, AREAS)
      made.writeStatus(LIVE)
      const before = backEnd.requests.length
      await resetDevice(made, { pump: backEnd.pump })
      expect(backEnd.requests.slice(before)).toEqual(['SET_VRING_ENABLE', 'GET_VRING_BASE', 'SET_STATUS', 'GET_STATUS'])
      made.writeStatus(READY)
      made.enableQueue(0, 8, AREAS)
      made.resetQueue(0)
      expect(made.queueResetDone(0)).toBe(true)
    })

    it('a request that the back end refuses says which, and the connection goes on', () => {
      const made = ready()
      backEnd.refused.add(messages.SET_VRING_ADDR.request)
      expect(() => made.enableQueue(0, 8, AREAS)).toThrow(
        expect.objectContaining({ code: 'VHOST_REFUSED', message: expect.stringContaining('SET_VRING_ADDR') }),
      )
      expect(made.readStatus()).toBe(READY)
    })
  })

  describe('interrupts and status', () => {
    it('used buffers, a change of the configuration, and neither', () => {
      const made = ready()
      made.enableQueue(0, 8, AREAS)
      made.writeStatus(LIVE)
      expect(made.takeInterrupts()).toBe(0)
      backEnd.call?.signal()
      expect(made.takeInterrupts()).toBe(INTERRUPT_USED_BUFFER)
      let cause = 0
      const answer = backEnd.ask('config-change', () => {
        cause = made.takeInterrupts()
      })
      expect([answer, cause, made.takeInterrupts()]).toEqual([0, INTERRUPT_CONFIGURATION, 0])
    })

    it('a queue in error is a device that needs a reset, says so by an interrupt, and goes on doing so', () => {
      const made = ready()
      made.enableQueue(0, 8, AREAS)
      made.writeStatus(LIVE)
      expect(waitReadable(made.descriptors, 0)).toEqual([])
      backEnd.error?.signal()
      expect(waitReadable(made.descriptors, 0)).toHaveLength(1)
      expect(made.takeInterrupts()).toBe(INTERRUPT_CONFIGURATION)
      for (let i = 0; i < 2; i++) expect(made.readStatus()).toBe(LIVE | STATUS_DEVICE_NEEDS_RESET)
      made.writeStatus(0)
      expect(made.readStatus()).toBe(0)
    })

    it('what the back end says of its status counts', () => {
      const made = ready()
      backEnd.status = READY & ~STATUS_FEATURES_OK
      expect(made.readStatus()).toBe(READY & ~STATUS_FEATURES_OK)
    })
  })

  describe('configuration', () => {
    it('of the back end', () => {
      backEnd.config = Uint8Array.from({ length: 36 }, (_, i) => i)
      const made = connect()
      expect(made.readConfig((config) => [config.read8(1), config.read16(2), config.read32(4)])).toEqual([
        1, 0x0302, 0x0706_0504,
      ])
      made.writeConfig(32, 1, 1)
      expect(backEnd.requests.at(-1)).toBe('SET_CONFIG')
    })

    it('of the front end', () => {
      const config = Uint8Array.from([1, 2, 3, 4])
      const made = connect({ config })
      made.writeConfig(2, 2, 0x0908)
      expect(made.readConfig(({ read32 }) => read32(0))).toBe(0x0908_0201)
      expect(config).toEqual(Uint8Array.from([1, 2, 3, 4]))
      expect(() => made.readConfig(({ read32 }) => read32(4))).toThrow(
        expect.objectContaining({ code: 'TRANSPORT_CONFIG_RANGE' }),
      )
    })

    it.each([
      ['too short', encodeAnswer(messages.GET_CONFIG, { offset: 0, flags: 0, bytes: new Uint8Array(8) })],
      ['none', encodeAnswer(messages.GET_STATUS, 0).with(0, 24).with(8, 0).subarray(0, 12)],
    ])('%s: a typed error, and the connection goes on', (_, answer) => {
      backEnd.answers.set(messages.GET_CONFIG.request, answer)
      const made = connect()
      const read = (): number => made.readConfig(({ read32 }) => read32(0))
      expect(read).toThrow(expect.objectContaining({ code: 'VHOST_CONFIG' }))
      backEnd.answers.clear()
      expect(read()).toBe(0)
    })
  })

  describe('lost', () => {
    const calls: [string, (made: VhostUserTransport) => unknown][] = [
      ['readStatus', (made) => made.readStatus()],
      ['writeStatus', (made) => made.writeStatus(0)],
      ['readFeatures', (made) => made.readFeatures()],
      ['writeFeatures', (made) => made.writeFeatures(FeatureSet.of(32))],
      ['maxQueueSize', (made) => made.maxQueueSize(1)],
      ['enableQueue', (made) => made.enableQueue(0, 8, AREAS)],
      ['resetQueue', (made) => made.resetQueue(0)],
      ['queueResetDone', (made) => made.queueResetDone(0)],
      ['notify', (made) => made.notify(0, 0)],
      ['readConfig', (made) => made.readConfig((config) => config.read8(0))],
      ['writeConfig', (made) => made.writeConfig(0, 1, 0)],
      ['takeInterrupts', (made) => made.takeInterrupts()],
    ]

    it.each(calls)('%s throws the same TransportLostError, however often it is called', (_, call) => {
      const made = ready()
      backEnd.close()
      expect(() => made.readStatus()).toThrow(TransportLostError)
      for (let i = 0; i < 2; i++)
        expect(() => call(made)).toThrow(
          expect.objectContaining({ code: 'TRANSPORT_LOST', cause: expect.objectContaining({ code: 'VHOST_CLOSED' }) }),
        )
      expect(made.descriptors).toEqual([])
    })

    it.each<[string, (request: number) => Uint8Array | null, string]>([
      ['an answer with another version', () => encodeAnswer(messages.GET_STATUS, 0).with(4, 6), 'VHOST_VERSION'],
      ['a request instead of an answer', () => encodeAnswer(messages.GET_STATUS, 0).with(4, 1), 'VHOST_FLAGS'],
      ['an answer of another size', () => encodeAnswer(messages.GET_STATUS, 0).with(8, 4), 'VHOST_SIZE'],
      ['an answer to something else', () => encodeAnswer(messages.GET_QUEUE_NUM, 0), 'VHOST_REQUEST'],
      ['an unknown number', () => encodeAnswer(messages.GET_STATUS, 0).with(0, 200), 'VHOST_REQUEST'],
    ])('%s ends the connection with a typed cause', (_, answer, code) => {
      const made = ready()
      backEnd.answers.set(messages.GET_STATUS.request, answer(40))
      expect(() => made.readStatus()).toThrow(
        expect.objectContaining({ code: 'TRANSPORT_LOST', cause: expect.objectContaining({ code }) }),
      )
      expect(backEnd.theirs.fd).toBe(-1)
    })

    it('an end in the middle of an answer is told apart', () => {
      backEnd.protocol = FeatureSet.of(messages.PROTOCOL_F_CONFIG, messages.PROTOCOL_F_STATUS)
      backEnd.answers.set(messages.GET_STATUS.request, encodeAnswer(messages.GET_STATUS, 0).subarray(0, 15))
      const pump = (): void => {
        backEnd.pump()
        if (backEnd.requests.at(-1) === 'GET_STATUS') backEnd.close()
      }
      const made = connect({ wait: { pump } })
      expect(() => made.readStatus()).toThrow(
        expect.objectContaining({ cause: expect.objectContaining({ code: 'VHOST_TRUNCATED' }) }),
      )
    })

    it('a back end that says nothing does not hold anybody up for longer than the deadline', () => {
      const made = connect({ wait: { pump: backEnd.pump, deadlineMs: 20 } })
      backEnd.answers.set(messages.GET_CONFIG.request, null)
      expect(() => made.readConfig(({ read8 }) => read8(0))).toThrow(
        expect.objectContaining({ cause: expect.objectContaining({ code: 'VHOST_TIMEOUT' }) }),
      )
    })

    it('an answer that nobody asked for ends it', () => {
      const made = ready()
      backEnd.socket.send(encodeAnswer(messages.GET_STATUS, 0))
      expect(() => made.readStatus()).toThrow(
        expect.objectContaining({ cause: expect.objectContaining({ code: 'VHOST_REQUEST' }) }),
      )
    })

    it('a back end that ends during each request of the handshake is lost', () => {
      connect()
      const names = [...backEnd.requests]
      for (const name of names) {
        transport?.close()
        backEnd = new FakeBackEnd()
        backEnd.onRequest = (current) => {
          if (current === name) backEnd.close()
        }
        // What needs no answer is lost with the next request.
        expect(() => connect().readStatus(), name).toThrow(TransportLostError)
      }
    })

    it('close is not taken back, and may be called again', () => {
      const made = ready()
      made.close()
      made.close()
      expect(() => made.readStatus()).toThrow(TransportLostError)
    })
  })
})
