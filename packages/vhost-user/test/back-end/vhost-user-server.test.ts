import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { sharedPoolScheme } from '@guestdma/bounce'
import {
  BlkDevice,
  type BlockRequest,
  type BlockStore,
  BusWindows,
  MemoryBlockStore,
  NetDevice,
  PagePort,
} from '@guestdma/devices'
import { BlkDriver, NetDriver } from '@guestdma/drivers'
import { SharedMemory, serveWatched, UnixSocket } from '@guestdma/node'
import { DEVICE_ID_BLOCK, DEVICE_ID_NET, FeatureSet, SECTOR_SIZE } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type VhostUserError, VhostUserServer, VhostUserTransport } from '../../src/index.ts'
import { encodeRequest } from '../../src/protocol/codec.ts'
import * as messages from '../../src/protocol/messages.ts'
import type { MemoryRegion } from '../../src/protocol/payload.ts'
import { DEADLINE_MS, type Guest, newGuest, openSession, POOL_DEVICE, run } from '../support/compose.ts'
import { missingSystem, titled } from '../support/system.ts'

const DISK_BYTES = 1 << 20
/** The server is in this process: it is served while the front end waits. */
const SERVING: Wait = { pump: () => void serveWatched(0), deadlineMs: DEADLINE_MS }
const { provider } = sharedPoolScheme()

let dir: string
let guest: Guest
let content: Uint8Array
let server: VhostUserServer | undefined
const transports: VhostUserTransport[] = []

beforeEach(() => {
  if (missingSystem !== '') return
  dir = mkdtempSync(join(tmpdir(), 'guestdma-serve-'))
  content = new Uint8Array(randomBytes(DISK_BYTES))
  guest = newGuest()
})

afterEach(() => {
  for (const transport of transports.splice(0)) transport.close()
  server?.close()
  server = undefined
  guest?.close()
  rmSync(dir, { recursive: true, force: true })
})

function serve(store: BlockStore = new MemoryBlockStore(content)): BlkDevice {
  const device = new BlkDevice({ name: 'disk', port: new BusWindows('disk'), store })
  server = VhostUserServer.listen({ path: join(dir, 's'), device })
  return device
}

function connect(): VhostUserTransport {
  const transport = VhostUserTransport.connect(join(dir, 's'), {
    name: 'disk',
    deviceId: DEVICE_ID_BLOCK,
    queues: 1,
    memory: [{ memory: guest.pool, device: POOL_DEVICE }],
    wait: SERVING,
  })
  transports.push(transport)
  return transport
}

async function drive(): Promise<BlkDriver> {
  return new BlkDriver(await openSession({ transport: connect(), guest, provider }))
}

/** A front end that sends messages as it likes. */
function raw(): UnixSocket {
  return UnixSocket.connect(join(dir, 's'), { deadlineMs: DEADLINE_MS })
}

async function until(done: () => boolean): Promise<void> {
  for (const end = performance.now() + DEADLINE_MS; !done(); await turn())
    if (performance.now() > end) throw new Error(`nothing happened for ${DEADLINE_MS} ms`)
}

const openDescriptors = (): number => readdirSync('/proc/self/fd').length

/** Of what the server recorded. */
const codes = (): string[] => (server?.faults.last() ?? []).map((error) => (error as VhostUserError).code)

/** Answers when it is told to. */
class HeldStore extends MemoryBlockStore {
  readonly held: (() => void)[] = []

  override read(request: BlockRequest): void {
    this.held.push(() => super.read(request))
  }
}

describe.skipIf(missingSystem !== '')(titled('VhostUserServer', missingSystem), () => {
  it('serves a disk over memory that the front end passed', async () => {
    const device = serve()
    const disk = await drive()
    expect(disk.capacity).toBe(DISK_BYTES / SECTOR_SIZE)
    expect(Buffer.compare(await run(disk, disk.readBytes(0, DISK_BYTES)), content)).toBe(0)
    const written = randomBytes(64 << 10)
    await run(disk, disk.writeBytes(8, written))
    expect(Buffer.compare(content.subarray(8 * SECTOR_SIZE, 8 * SECTOR_SIZE + written.length), written)).toBe(0)
    await disk.close()
    expect([device.faults.last(), server?.faults.last()]).toEqual([[], []])
  })

  it('serves one front end after the other, and reaches nothing in between', async () => {
    const device = serve()
    for (let round = 0; round < 3; round++) {
      const disk = await drive()
      await run(disk, disk.readBytes(0, 4096))
      for (const transport of transports.splice(0)) transport.close()
      await until(() => server?.connected === false)
      expect((device.port as BusWindows).windows).toEqual([])
      expect(device.status).toBe(0)
    }
    expect(server?.faults.last()).toEqual([])
  })

  it('answers a stop only when nothing is in flight, and says where the queue stands', async () => {
    const store = new HeldStore(content)
    const device = serve(store)
    const disk = await drive()
    const read = disk.readBytes(0, 4096)
    disk.poll(64)
    await until(() => store.held.length === 1)
    const { connection } = transports[0]
    connection.send(encodeRequest(messages.GET_VRING_BASE, { index: 0, num: 0 }, false))
    for (let i = 0; i < 20; i++) await turn()
    expect(device.queues[0].ready).toBe(true)
    store.held[0]()
    await until(() => !device.queues[0].ready)
    expect(connection.receive(messages.GET_VRING_BASE)).toEqual({ index: 0, num: 1 })
    expect(Buffer.compare(await run(disk, read), content.subarray(0, 4096))).toBe(0)
  })

  it('a table that lies about its files is refused, and the one before it stays', async () => {
    const device = serve()
    const disk = await drive()
    const { connection } = transports[0]
    using short = SharedMemory.create('short', 4096)
    const region = { guest: 0, length: 4096, user: 2 ** 40, offset: 0 }
    const tables: [MemoryRegion[], number[]][] = [
      [[{ ...region, length: 8192 }], [short.fd]],
      [[{ ...region, offset: 4096 }], [short.fd]],
      [[{ ...region, length: 0 }], [short.fd]],
      [[{ ...region, guest: 2 ** 53 }], [short.fd]],
      [
        [region, { ...region, user: 2 ** 41 }],
        [short.fd, short.fd],
      ],
      [
        [region, { ...region, guest: 2 ** 41 }],
        [short.fd, short.fd],
      ],
      [[region], [short.fd, short.fd]],
    ]
    const before = openDescriptors()
    for (const [regions, descriptors] of tables)
      expect(() => connection.tell(messages.SET_MEM_TABLE, regions, descriptors)).toThrow(/refused SET_MEM_TABLE/)
    expect(openDescriptors()).toBe(before)
    expect(server?.faults.last().map((error) => (error as VhostUserError).code)).toEqual(
      tables.map(() => 'VHOST_TABLE'),
    )
    expect(Buffer.compare(await run(disk, disk.readBytes(0, 4096)), content.subarray(0, 4096))).toBe(0)
    expect(device.faults.last()).toEqual([])
  })

  it('the memory changes under requests, and none is lost', async () => {
    const store = new HeldStore(content)
    const device = serve(store)
    const disk = await drive()
    const reads = Array.from({ length: 4 }, (_, i) => disk.readBytes(i * 8, 4096))
    disk.poll(64)
    await until(() => store.held.length === 4)
    const { connection, table } = transports[0]
    const { windows } = device.port as BusWindows
    // Not told, since it is answered only when all requests ended.
    connection.send(encodeRequest(messages.SET_MEM_TABLE, table.regions, true), table.descriptors)
    await until(() => !device.queues[0].walker.more)
    expect((device.port as BusWindows).windows[0].region).toBe(windows[0].region)
    for (const answer of store.held.splice(0)) answer()
    await until(() => (device.port as BusWindows).windows[0].region !== windows[0].region)
    expect(connection.receive(messages.SET_MEM_TABLE)).toBe(0)
    for (const [i, bytes] of (await run(disk, Promise.all(reads))).entries())
      expect(Buffer.compare(bytes, content.subarray(i * 4096, (i + 1) * 4096))).toBe(0)
    const next = disk.readBytes(0, 512)
    disk.poll(64)
    await until(() => store.held.length === 1)
    store.held[0]()
    expect(Buffer.compare(await run(disk, next), content.subarray(0, 512))).toBe(0)
  })

  it('a front end that goes away with requests in flight leaves a device that serves the next one', async () => {
    const store = new HeldStore(content)
    serve(store)
    const before = openDescriptors()
    const disk = await drive()
    const read = disk.readBytes(0, 4096)
    read.catch(() => {})
    disk.poll(64)
    await until(() => store.held.length === 1)
    for (const transport of transports.splice(0)) transport.close()
    await until(() => server?.connected === false)
    expect(openDescriptors()).toBe(before)
    const [late] = store.held.splice(0)
    const again = await drive()
    late()
    const next = again.readBytes(8, 512)
    again.poll(64)
    await until(() => store.held.length === 1)
    store.held[0]()
    expect(Buffer.compare(await run(again, next), content.subarray(8 * SECTOR_SIZE, 9 * SECTOR_SIZE))).toBe(0)
  })

  it.each<[string, messages.AnyMessageType, unknown]>([
    ['a queue that is not there', messages.SET_VRING_NUM, { index: 7, num: 8 }],
    ['a size that is no power of two', messages.SET_VRING_NUM, { index: 0, num: 7 }],
    ['a size beyond that of the device', messages.SET_VRING_NUM, { index: 0, num: 512 }],
    ['a position beyond 16 bits', messages.SET_VRING_BASE, { index: 0, num: 1 << 16 }],
    ['a switch that is neither on nor off', messages.SET_VRING_ENABLE, { index: 0, num: 2 }],
    ['a log of writes', messages.SET_VRING_ADDR, { index: 0, flags: 1, descriptor: 0, used: 0, available: 0, log: 0 }],
    ['features that are not offered', messages.SET_FEATURES, FeatureSet.of(32, 63)],
    ['a reset of one queue, which is not offered', messages.SET_FEATURES, FeatureSet.of(32, 40)],
    ['to be suspended, which is not offered', messages.SET_FEATURES, FeatureSet.of(32, 43)],
    ['a translation where nothing is translated', messages.SET_FEATURES, FeatureSet.of(32, 33)],
  ])('refuses %s by a typed error, and goes on', async (_, type, value) => {
    serve()
    const { connection } = connect()
    expect(() => connection.tell(type as messages.MessageType<unknown, number>, value)).toThrow(/refused/)
    expect(codes()).toHaveLength(1)
    expect(codes()[0]).toMatch(/^VHOST_(VRING|FEATURES_REFUSED)$/)
    expect(connection.ask(messages.GET_STATUS, null)).toBeTypeOf('number')
  })

  it('whatever arrives, in whatever pieces, leaves no descriptor behind and the next front end is served', async () => {
    serve()
    const before = openDescriptors()
    const anything = fc.record({ request: fc.nat(50), flags: fc.nat(15), payload: fc.uint8Array({ maxLength: 64 }) })
    // Of the right length, and with numbers that are often the right ones.
    const plausible = fc
      .constantFrom(...messages.FRONT_END_MESSAGES.values())
      .chain(({ request, payload: { least, most } }) =>
        fc.record({
          request: fc.constant(request),
          flags: fc.constantFrom(1, 9),
          payload: fc
            .array(fc.oneof({ weight: 5, arbitrary: fc.constantFrom(0, 1) }, fc.nat(255)), {
              minLength: least,
              maxLength: Math.min(most, 40),
            })
            .map((bytes) => Uint8Array.from(bytes)),
        }),
      )
    const message = fc.tuple(fc.oneof({ weight: 9, arbitrary: plausible }, anything), fc.nat(2), fc.nat(20))
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 12 }), async (sent) => {
        const socket = raw()
        await until(() => server?.connected === true)
        try {
          for (const [{ request, flags, payload }, descriptors, split] of sent) {
            const bytes = new Uint8Array(12 + payload.length)
            new Uint32Array(bytes.buffer, 0, 3).set([request, flags, payload.length])
            bytes.set(payload, 12)
            socket.send(bytes.subarray(0, split), split === 0 ? [] : [guest.pool.fd, 0].slice(0, descriptors), 0)
            socket.send(bytes.subarray(split), [], 0)
            await turn()
          }
        } catch (error) {
          expect((error as { code: string }).code).toBe('NODE_CLOSED')
        }
        socket.close()
        await until(() => server?.connected === false)
        expect(openDescriptors()).toBe(before)
      }),
      { numRuns: 300 },
    )
    const disk = await drive()
    expect(disk.capacity).toBe(DISK_BYTES / SECTOR_SIZE)
  })

  it('tells the driver that the configuration changed, and outlives a front end that does not listen', async () => {
    const device = new NetDevice({ name: 'net', port: new BusWindows('net'), mac: [2, 0, 0, 0, 0, 1] })
    server = VhostUserServer.listen({ path: join(dir, 's'), device })
    const transport = VhostUserTransport.connect(join(dir, 's'), {
      name: 'net',
      deviceId: DEVICE_ID_NET,
      queues: 2,
      configLength: 8,
      memory: [{ memory: guest.pool, device: POOL_DEVICE }],
      wait: SERVING,
    })
    transports.push(transport)
    const net = new NetDriver(await openSession({ transport, guest, provider }))
    net.poll(64)
    await until(() => device.live)
    expect(net.linkUp).toBe(true)
    device.setLink(false)
    await turn()
    await until(() => {
      net.interrupt()
      net.poll(64)
      return !net.linkUp
    })
    for (let i = 0; codes().length === 0 && i < 100_000; i++) {
      device.setLink(i % 2 === 0)
      device.poll(0)
    }
    expect(codes()).toEqual(['NODE_DEADLINE'])
    expect(server.connected).toBe(true)
  })

  it('a kick that is no event, and one that never ends, neither ends the process nor keeps it busy', async () => {
    serve()
    const { connection } = connect()
    const file = openSync('/dev/null', 'r')
    expect(() => connection.tell(messages.SET_VRING_KICK, 0, [file])).toThrow(/refused SET_VRING_KICK/)
    closeSync(file)
    const [here, there] = UnixSocket.pair()
    here.close()
    connection.tell(messages.SET_VRING_KICK, 0, [there.fd])
    there.close()
    while (serveWatched(0));
    expect(codes()).toEqual(['VHOST_VRING'])
  })

  it('a device that cannot be served leaves no socket behind', () => {
    const path = join(dir, 's')
    const device = serve()
    server?.close()
    expect(() => VhostUserServer.listen({ path, device })).toThrow(/already has a transport/)
    expect(readdirSync(dir)).toEqual([])
    const port = new PagePort('disk', guest.memory)
    const other = new BlkDevice({ name: 'disk', port, store: new MemoryBlockStore(content) })
    expect(() => VhostUserServer.listen({ path, device: other })).toThrow(/neither a BusWindows nor an IotlbPort/)
  })
})
