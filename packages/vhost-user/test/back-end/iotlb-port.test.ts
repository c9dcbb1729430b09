import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, type BlockRequest, MemoryBlockStore } from '@guestdma/devices'
import { BlkDriver } from '@guestdma/drivers'
import { ACCESS_READ, ACCESS_WRITE, Region } from '@guestdma/memory'
import { SharedMemory, serveWatched, UnixSocket, type Watch, waitReadable, watchReadable } from '@guestdma/node'
import { DEVICE_ID_BLOCK } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { RequestChannel } from '../../src/back-end/request-channel.ts'
import { IotlbPort, iotlbProvider, VhostUserServer, VhostUserTransport } from '../../src/index.ts'
import { encodeAnswer, encodeRequest } from '../../src/protocol/codec.ts'
import * as messages from '../../src/protocol/messages.ts'
import { IOTLB_INVALIDATE } from '../../src/protocol/payload.ts'
import { DEADLINE_MS, newGuest, openSession, RAM_BASE, RAM_BYTES, run } from '../support/compose.ts'
import { missingSystem, titled } from '../support/peers.ts'

const PAGE = 4096
const USER = 2 ** 40
const IOVA = 0x10_0000

function portWithMemory(): IotlbPort {
  const port = new IotlbPort('disk')
  const region = new Region(new ArrayBuffer(16 * PAGE), 'memory')
  port.setWindows([{ base: 0, length: 16 * PAGE, region, offset: 0, user: USER }])
  port.setTranslating(true)
  return port
}

/** Where an access ends up: its bytes and where they are. */
function resolved(port: IotlbPort, address: number, length: number, access: 1 | 2): [number, number] {
  port.request[0] = address
  const granted = port.resolve(length, access)
  return [granted, granted === 0 ? -1 : port.offset]
}

describe('IotlbPort', () => {
  it('grants what an entry says, to its end, and nothing where there is none', () => {
    const port = portWithMemory()
    expect(port.update(IOVA, 2 * PAGE, USER + 3 * PAGE, 1)).toBe(true)
    expect(resolved(port, IOVA + 100, 10, ACCESS_READ)).toEqual([10, 3 * PAGE + 100])
    expect(resolved(port, IOVA + PAGE, 2 * PAGE, ACCESS_READ)).toEqual([PAGE, 4 * PAGE])
    expect(resolved(port, IOVA, 10, ACCESS_WRITE)).toEqual([0, -1])
    expect(resolved(port, IOVA + 2 * PAGE, 1, ACCESS_READ)).toEqual([0, -1])
    expect(port.faults.last().map(({ reason }) => reason)).toEqual(['permission', 'unmapped'])
  })

  it('refuses an entry for memory that the front end did not pass', () => {
    const port = portWithMemory()
    expect(port.update(IOVA, PAGE, USER + 16 * PAGE, 3)).toBe(false)
    expect(port.update(IOVA, 2 * PAGE, USER + 15 * PAGE, 3)).toBe(false)
    expect(port.update(IOVA, 0, USER, 3)).toBe(false)
    expect(port.has(IOVA, 1)).toBe(false)
  })

  it('an entry that is taken back is gone, and what was granted by it is void', () => {
    const port = portWithMemory()
    port.update(IOVA, PAGE, USER, 3)
    port.update(IOVA + PAGE, PAGE, USER + PAGE, 3)
    resolved(port, IOVA, 1, ACCESS_READ)
    const { epoch } = port
    expect(port.invalidate(IOVA, 1)).toBe(true)
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect([port.has(IOVA, 1), port.has(IOVA + PAGE, 1)]).toEqual([false, true])
    // Of another turn, or not used at all: nobody is at work on it.
    resolved(port, IOVA + PAGE, 1, ACCESS_READ)
    port.beginTurn()
    expect(port.invalidate(0, 2 ** 64)).toBe(false)
    expect(port.has(IOVA + PAGE, 1)).toBe(false)
  })

  it('an entry that is said again makes no grant void, and another one does', () => {
    const port = portWithMemory()
    port.update(IOVA, PAGE, USER, 3)
    const { epoch } = port
    port.update(IOVA, PAGE, USER, 3)
    expect(port.epoch).toBe(epoch)
    port.update(IOVA, PAGE, USER + PAGE, 3)
    expect(port.epoch).not.toBe(epoch)
    expect(resolved(port, IOVA, 1, ACCESS_READ)).toEqual([1, PAGE])
  })

  it('asks for what is missing, and not for ever', () => {
    const port = portWithMemory()
    const asked: [number, number][] = []
    port.onMiss = (iova, access) => {
      asked.push([iova, access])
      return port.update(IOVA, PAGE, USER, ACCESS_READ)
    }
    expect(resolved(port, IOVA + 8, 4, ACCESS_READ)).toEqual([4, 8])
    expect(asked).toEqual([[IOVA + 8, ACCESS_READ]])
    expect(resolved(port, IOVA + 8, 4, ACCESS_WRITE)).toEqual([0, -1])
    expect(asked.length).toBeLessThan(10)
  })

  it('without a translation reaches the windows at their guest addresses', () => {
    const port = portWithMemory()
    port.setTranslating(false)
    expect(resolved(port, PAGE, 32 * PAGE, ACCESS_WRITE)).toEqual([15 * PAGE, PAGE])
  })
})

describe.skipIf(missingSystem !== '')(titled('VhostUserServer with a front end that translates', missingSystem), () => {
  const content = new Uint8Array(randomBytes(1 << 20))

  /** A disk over a port that asks, and its driver, which answers: all in this process. */
  async function withDisk(
    store: MemoryBlockStore,
    body: (parts: { disk: BlkDriver; port: IotlbPort; transport: VhostUserTransport }) => Promise<void>,
  ): Promise<void> {
    using ram = SharedMemory.create('ram', RAM_BYTES)
    const guest = newGuest(ram)
    const port = new IotlbPort('disk')
    const device = new BlkDevice({ name: 'disk', port, store, accessPlatform: 'offered' })
    const path = join(tmpdir(), `guestdma-${randomBytes(6).toString('hex')}.sock`)
    using server = VhostUserServer.listen({ path, device })
    const wait: Wait = { pump: () => void serveWatched(0), deadlineMs: DEADLINE_MS }
    using transport = VhostUserTransport.connect(path, {
      name: 'disk',
      deviceId: DEVICE_ID_BLOCK,
      queues: 1,
      memory: [{ memory: ram, device: RAM_BASE }],
      iotlb: true,
      wait,
    })
    const { requests } = transport.connection
    if (requests === null) throw new Error('there is no channel')
    using _watch: Watch = watchReadable(requests.descriptor, () => requests.serve())
    const disk = new BlkDriver(await openSession({ transport, guest, provider: iotlbProvider(transport) }))
    await body({ disk, port, transport })
    expect([device.faults.last(), server.faults.last()]).toEqual([[], []])
    guest.close()
  }

  it('reads and writes by translations that it asks for, and none is left when the driver took it back', () =>
    withDisk(new MemoryBlockStore(content), async ({ disk, port }) => {
      const given: number[] = []
      const update = port.update.bind(port)
      port.update = (iova, ...rest) => {
        given.push(iova)
        return update(iova, ...rest)
      }
      for (const at of [0, 64 << 10]) {
        const read = await run(disk, disk.readBytes(at / 512, 20_480))
        expect(Buffer.compare(read, content.subarray(at, at + 20_480))).toBe(0)
      }
      const written = randomBytes(9216)
      await run(disk, disk.writeBytes(100, written))
      expect(Buffer.compare(content.subarray(51_200, 60_416), written)).toBe(0)
      await disk.close()
      expect(given.length).toBeGreaterThan(2)
      for (const iova of given) expect(port.has(iova, ACCESS_READ)).toBe(false)
    }))

  it('what is taken back under the device is gone at once, and confirmed when its turn is over', async () => {
    const seen: boolean[] = []
    let confirmed = (): boolean => false
    class Store extends MemoryBlockStore {
      override read(request: BlockRequest): void {
        seen.push(confirmed())
        super.read(request)
      }
    }
    await withDisk(new Store(content), async ({ disk, port, transport }) => {
      const { connection } = transport
      const answer = transport.onIotlb
      const asked: number[] = []
      let gone = Number.NaN
      transport.onIotlb = (message) => {
        asked.push(message.iova)
        // The device uses what it asked for first.
        if (asked.length === 2) {
          gone = asked[0]
          const taken = { iova: gone, length: 1, user: 0, permission: 0, type: IOTLB_INVALIDATE }
          connection.send(encodeRequest(messages.IOTLB_MSG, taken, true))
        }
        return answer(message)
      }
      confirmed = () => waitReadable(connection.descriptors.slice(0, 1), 0).length > 0
      await run(disk, disk.readBytes(0, 512))
      seen.length = 0
      // So that everything is asked for again.
      port.invalidate(0, 2 ** 53)
      asked.length = 0
      const reads = Array.from({ length: 4 }, (_, i) => disk.readBytes(8 * i, 4096))
      disk.poll(64)
      for (const end = performance.now() + DEADLINE_MS; seen.length < 4 && performance.now() < end; )
        await new Promise((resolve) => setImmediate(resolve))
      expect(asked.length).toBeGreaterThan(1)
      expect(seen).toEqual([false, false, false, false])
      expect(port.has(gone, ACCESS_READ)).toBe(false)
      expect(connection.receive(messages.IOTLB_MSG)).toBe(0)
      const found = Buffer.concat(await run(disk, Promise.all(reads)))
      expect(Buffer.compare(found, content.subarray(0, 16_384))).toBe(0)
      await disk.close()
    })
  })
})

describe.skipIf(missingSystem !== '')(titled('RequestChannel', missingSystem), () => {
  it('does not take an answer that comes late for that of the next question', () => {
    const [ours, theirs] = UnixSocket.pair()
    const faults: Error[] = []
    const channel = new RequestChannel({
      name: 'disk',
      descriptor: ours.fd,
      answers: true,
      deadlineMs: DEADLINE_MS,
      onFault: (error) => faults.push(error),
    })
    let questions = 0
    let found = false
    using _watch = watchReadable(theirs.fd, () => {
      theirs.receive(4096, 0)
      questions++
      // The first is answered only after the second was asked.
      if (questions === 2) theirs.send(encodeAnswer(messages.BACKEND_IOTLB_MSG, 0))
      else found = true
    })
    let rounds = 0
    const asker = { found: () => found, ended: () => false, catchUp: () => {} }
    expect(channel.ask(IOVA, ACCESS_READ, asker)).toBe(true)
    found = false
    const later = {
      ...asker,
      found: () => {
        if (questions === 2 && ++rounds === 5) found = true
        return found
      },
    }
    expect(channel.ask(IOVA, ACCESS_READ, later)).toBe(true)
    channel.close()
    theirs.close()
    expect(faults).toEqual([])
  })

  it('gives up where the front end refuses, where it is gone, and at the deadline', () => {
    const asker = { found: () => false, ended: () => false, catchUp: () => {} }
    const [ours, theirs] = UnixSocket.pair()
    const options = { name: 'disk', descriptor: ours.fd, deadlineMs: 50, onFault: () => {} }
    const channel = new RequestChannel({ ...options, answers: true })
    expect(() => channel.ask(IOVA, ACCESS_READ, asker)).toThrow('did not translate')
    using watch = watchReadable(theirs.fd, () => {
      theirs.receive(4096, 0)
      theirs.send(encodeAnswer(messages.BACKEND_IOTLB_MSG, 1))
      theirs.send(encodeAnswer(messages.BACKEND_IOTLB_MSG, 1))
    })
    expect(channel.ask(IOVA, ACCESS_READ, asker)).toBe(false)
    watch.close()
    theirs.close()
    serveWatched(0)
    expect(channel.ask(IOVA, ACCESS_READ, asker)).toBe(false)
    channel.close()
  })
})
