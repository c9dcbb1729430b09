import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { sharedPoolScheme } from '@guestdma/bounce'
import {
  BlkDevice,
  type BlockRequest,
  type BlockStore,
  BusWindows,
  LoopbackLink,
  MemoryBlockStore,
  NetDevice,
  type VirtioDevice,
} from '@guestdma/devices'
import { BlkDriver, FrameBatch, NetDriver } from '@guestdma/drivers'
import { EventFd, UnixSocket } from '@guestdma/node'
import { BLK_S_OK, DEVICE_ID_NET, FeatureSet, SECTOR_SIZE, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { VhostUserBackEnd, VhostUserTransport } from '../src/index.ts'
import { encodeRequest } from '../src/protocol/codec.ts'
import * as messages from '../src/protocol/messages.ts'
import { type Guest, newGuest, openSession, POOL_DEVICE, run, until } from './support/compose.ts'
import { missingSystem, titled } from './support/peers.ts'

const DISK_BYTES = 1 << 20
const { provider } = sharedPoolScheme()
const content = randomBytes(DISK_BYTES)

let guest: Guest
let port: BusWindows
let backEnd: VhostUserBackEnd | undefined
let transport: VhostUserTransport | undefined

beforeEach(() => {
  if (missingSystem !== '') return
  guest = newGuest()
  port = new BusWindows('disk')
})
afterEach(() => {
  transport?.close()
  backEnd?.close()
  guest?.close()
})

const pump = (): number => (backEnd as VhostUserBackEnd).poll(64)

function diskOver(store: BlockStore = new MemoryBlockStore(new Uint8Array(content))): BlkDevice {
  return new BlkDevice({ name: 'disk', port, store })
}

function serve(device: VirtioDevice): VhostUserBackEnd {
  backEnd = new VhostUserBackEnd({ device, port })
  return backEnd
}

/** A front end in this process. */
function connect(config?: Uint8Array): VhostUserTransport {
  const [ours, theirs] = UnixSocket.pair()
  const { device } = backEnd as VhostUserBackEnd
  backEnd?.serve(theirs)
  transport = VhostUserTransport.over(ours, {
    name: 'dev0',
    deviceId: device.deviceId,
    queues: device.queues.length,
    memory: [{ memory: guest.pool, device: POOL_DEVICE }],
    maxQueueSize: 128,
    wait: { pump, deadlineMs: 10_000 },
    ...(config === undefined ? {} : { config }),
  })
  return transport
}

async function drive(over = connect()): Promise<BlkDriver> {
  return new BlkDriver(await openSession({ transport: over, guest, provider }))
}

/** A store whose requests wait until the test lets them go. */
class HeldStore implements BlockStore {
  readonly capacity = DISK_BYTES
  readonly held: BlockRequest[] = []
  read(request: BlockRequest): void {
    this.held.push(request)
  }
  write(request: BlockRequest): void {
    this.held.push(request)
  }
  flush(request: BlockRequest): void {
    this.held.push(request)
  }
}

describe.skipIf(missingSystem !== '')(titled('back-end: a device model served to a front end', missingSystem), () => {
  it('a disk is read and written, reset, and served to another front end', async () => {
    const store = new Uint8Array(content)
    serve(diskOver(new MemoryBlockStore(store)))
    for (let connection = 0; connection < 2; connection++) {
      const over = connect()
      for (let reset = 0; reset < 2; reset++) {
        const disk = await drive(over)
        expect(disk.capacity).toBe(DISK_BYTES / SECTOR_SIZE)
        expect(Buffer.compare(await run(disk, disk.readBytes(0, DISK_BYTES), pump), store)).toBe(0)
        const written = randomBytes(DISK_BYTES / 2)
        await run(disk, disk.writeBytes(8, written), pump)
        expect(Buffer.compare(store.subarray(4096, 4096 + written.length), written)).toBe(0)
        await disk.close()
      }
      over.close()
      pump()
      expect(backEnd?.lost).toMatchObject({ code: 'VHOST_CLOSED' })
      expect(port.windows).toEqual([])
    }
    expect(guest.ram.live).toBe(0)
  })

  it('frames go round', async () => {
    port = new BusWindows('net')
    serve(new NetDevice({ name: 'net', port, link: new LoopbackLink() }))
    const received: Uint8Array[] = []
    const session = await openSession({ transport: connect(new Uint8Array(12)), guest, provider })
    expect(session.transport.deviceId).toBe(DEVICE_ID_NET)
    const net = new NetDriver(session, {
      observer: {
        frames: (batch) => {
          for (let i = 0; i < batch.count; i++) received.push(batch.copy(i))
        },
      },
    })
    net.poll(64)
    const batch = new FrameBatch(8)
    batch.count = 8
    batch.length.fill(100)
    for (let i = 0; i < 8; i++) {
      batch.buffer[i] = net.acquire()
      net.bufferRegion.u8.fill(i, net.bufferOffset(batch.buffer[i]), net.bufferOffset(batch.buffer[i]) + 100)
    }
    expect(net.send(batch)).toBe(8)
    await until(net, () => received.length === 8, pump)
    expect(received).toEqual(Array.from({ length: 8 }, (_, i) => new Uint8Array(100).fill(i)))
    await net.close()
  })

  it('a queue that is stopped loses nothing: what was taken is completed before the answer, and it goes on there', async () => {
    const store = new HeldStore()
    serve(diskOver(store))
    const disk = await drive()
    const requests = [disk.readBytes(0, 512), disk.readBytes(1, 512)]
    disk.poll(64)
    while (store.held.length < 2) pump()
    // The front end stops the queue while the store has two requests.
    const { connection } = transport as VhostUserTransport
    connection.send(encodeRequest(messages.GET_VRING_BASE, { index: 0, num: 0 }, false))
    pump()
    expect(backEnd?.device.inFlight).toBe(2)
    for (const request of store.held.splice(0)) request.done(BLK_S_OK)
    expect(connection.receive(messages.GET_VRING_BASE)).toEqual({ index: 0, num: 2 })
    await run(disk, Promise.all(requests), pump)
    expect(backEnd?.device.inFlight).toBe(0)
  })

  it('what a front end may ask only of a queue that exists or stands still is refused, and the connection goes on', async () => {
    serve(diskOver())
    const disk = await drive()
    const { connection } = transport as VhostUserTransport
    const refused = (act: () => void): void => expect(act).toThrow(expect.objectContaining({ code: 'VHOST_REFUSED' }))
    refused(() => connection.tell(messages.SET_VRING_NUM, { index: 9, num: 8 }))
    refused(() => connection.tell(messages.SET_VRING_NUM, { index: 0, num: 8 }))
    refused(() => connection.tell(messages.SET_VRING_ENABLE, { index: 300, num: 1 }))
    refused(() => connection.tell(messages.SET_FEATURES, FeatureSet.of(VIRTIO_F_VERSION_1)))
    refused(() => connection.tell(messages.SET_CONFIG, { offset: 0, flags: 0, bytes: Uint8Array.of(1) }))
    expect(Buffer.compare(await run(disk, disk.readBytes(0, 512), pump), content.subarray(0, 512))).toBe(0)
    await disk.close()
  })

  it('features that the device does not offer are refused', () => {
    serve(diskOver())
    expect(() => connect().writeFeatures(FeatureSet.of(VIRTIO_F_VERSION_1, 63))).toThrow(
      expect.objectContaining({ code: 'TRANSPORT_FEATURES' }),
    )
    expect(backEnd?.device.faults.last().at(-1)).toMatchObject({ kind: 'features' })
  })

  it('a front end that breaks the protocol or ends is gone, and the device reaches nothing', async () => {
    serve(diskOver())
    const disk = await drive()
    expect(port.windows).toHaveLength(1)
    transport?.connection.send(new Uint8Array(12).fill(0xff))
    pump()
    expect(backEnd?.lost).toMatchObject({ code: 'VHOST_VERSION' })
    expect([port.windows, backEnd?.descriptors, backEnd?.device.status]).toEqual([[], [], 0])
    await expect(disk.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
  })

  it('whatever a front end sends, poll does not throw, no descriptor is left over, and the next front end is served', () => {
    serve(diskOver())
    const types = [...messages.FRONT_END_MESSAGES.values()]
    const message = fc
      .constantFrom(...types)
      .chain(({ request, payload: { least, most }, descriptors: [fewest, all] }) =>
        fc.record({
          request: fc.constant(request),
          payload: fc.uint8Array({ minLength: least, maxLength: Math.min(most, least + 64) }),
          // Small numbers, or none would name a queue.
          sparse: fc.boolean(),
          event: fc.boolean(),
          count: fc.integer({ min: fewest, max: all }),
        }),
      )
    const open = (): number => readdirSync('/proc/self/fd').length
    const event = EventFd.create()
    let before = -1
    fc.assert(
      fc.property(fc.array(message, { maxLength: 40 }), (sent) => {
        const [ours, theirs] = UnixSocket.pair()
        backEnd?.serve(theirs)
        for (const { request, payload, sparse, event: isEvent, count } of sent) {
          const bytes = new Uint8Array(12 + payload.length)
          new Uint32Array(bytes.buffer, 0, 3).set([request, 1 | 8, payload.length])
          bytes.set(sparse ? payload.map((byte, i) => (i % 4 === 0 ? byte & 1 : 0)) : payload, 12)
          if (backEnd?.lost !== null) break
          ours.send(bytes, Array(count).fill(isEvent ? event.fd : guest.pool.fd))
          backEnd?.poll(16)
        }
        ours.close()
        for (let i = 0; i < 4; i++) backEnd?.poll(16)
        backEnd?.close()
        if (before < 0) before = open()
        expect([open(), port.windows]).toEqual([before, []])
      }),
      { numRuns: 200 },
    )
    event.close()
    expect(() => connect()).not.toThrow()
  })
})
