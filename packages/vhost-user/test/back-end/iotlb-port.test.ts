import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { BlkDevice, MemoryBlockStore } from '@guestdma/devices'
import { BlkDriver } from '@guestdma/drivers'
import { ACCESS_READ, ACCESS_WRITE, Region } from '@guestdma/memory'
import { SharedMemory, serveWatched, UnixSocket, type Watch, waitReadable, watchReadable } from '@guestdma/node'
import { DEVICE_ID_BLOCK } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import { afterEach, describe, expect, it } from 'vitest'
import { RequestChannel } from '../../src/back-end/request-channel.ts'
import { IotlbPort, iotlbProvider, VhostUserServer, VhostUserTransport } from '../../src/index.ts'
import { encodeAnswer, encodeRequest } from '../../src/protocol/codec.ts'
import * as messages from '../../src/protocol/messages.ts'
import { IOTLB_INVALIDATE } from '../../src/protocol/payload.ts'
import { DEADLINE_MS, newGuest, openSession, RAM_BASE, RAM_BYTES, run } from '../support/compose.ts'
import { missingSystem, titled } from '../support/system.ts'

const PAGE = 4096
const USER = 2 ** 40
const IOVA = 0x10_0000
/** A header and an address, a length, a place and two bytes, padded. */
const QUESTION_BYTES = encodeRequest(
  messages.BACKEND_IOTLB_MSG,
  { iova: 0, length: 0, user: 0, permission: 1, type: 1 },
  false,
).length

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
    port.invalidate(IOVA, 1)
    expect(port.epoch).not.toBe(epoch)
    expect(port.window[1]).toBe(0)
    expect([port.has(IOVA, 1), port.has(IOVA + PAGE, 1)]).toEqual([false, true])
    port.invalidate(0, 2 ** 64)
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

  it('asks for what is missing, and is pending until it is told more or refused', () => {
    const port = portWithMemory()
    const asked: [number, number][] = []
    let refused = false
    port.onMiss = (iova, access) => {
      asked.push([iova, access])
      return !refused
    }
    expect([resolved(port, IOVA + 8, 4, ACCESS_READ), port.pending]).toEqual([[0, -1], true])
    port.update(IOVA, PAGE, USER, ACCESS_READ)
    expect([resolved(port, IOVA + 8, 4, ACCESS_READ), port.pending]).toEqual([[4, 8], false])
    expect([resolved(port, IOVA + 8, 4, ACCESS_WRITE), port.pending]).toEqual([[0, -1], true])
    expect(port.faults.last()).toEqual([])
    refused = true
    expect([resolved(port, IOVA + 8, 4, ACCESS_WRITE), port.pending]).toEqual([[0, -1], false])
    expect(port.faults.last().map(({ reason }) => reason)).toEqual(['permission'])
    expect(asked).toEqual([
      [IOVA + 8, ACCESS_READ],
      [IOVA + 8, ACCESS_WRITE],
      [IOVA + 8, ACCESS_WRITE],
    ])
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

  it('confirms at once what is taken back while the device waits for a translation, and goes on when it comes', () =>
    withDisk(new MemoryBlockStore(content), async ({ disk, port, transport }) => {
      const { connection } = transport
      const answer = transport.onIotlb
      await run(disk, disk.readBytes(0, 512))
      const known: number[] = []
      const update = port.update.bind(port)
      port.update = (iova, ...rest) => {
        known.push(iova)
        return update(iova, ...rest)
      }
      port.invalidate(0, 2 ** 53)
      // As QEMU does: its thread that takes back waits for the confirmation, and keeps from answering whoever asks.
      let questions = 0
      transport.onIotlb = (message) => {
        // The ring is known by then, and a request is asked for. All of that goes.
        for (const iova of ++questions === 4 ? known : []) {
          const taken = { iova, length: 4096, user: 0, permission: 0, type: IOTLB_INVALIDATE }
          connection.send(encodeRequest(messages.IOTLB_MSG, taken, true))
          expect(connection.receive(messages.IOTLB_MSG)).toBe(0)
          expect(port.has(iova, ACCESS_READ)).toBe(false)
        }
        return answer(message)
      }
      const read = await run(disk, disk.readBytes(0, 4096))
      expect(Buffer.compare(read, content.subarray(0, 4096))).toBe(0)
      expect(questions).toBeGreaterThan(6)
      await disk.close()
    }))

  it('stops a queue without loss while its device waits for a translation', () =>
    withDisk(new MemoryBlockStore(content), async ({ disk, port, transport }) => {
      const { connection } = transport
      await run(disk, disk.readBytes(0, 512))
      port.invalidate(0, 2 ** 53)
      const answer = transport.onIotlb
      const stood: number[] = []
      let questions = 0
      transport.onIotlb = (message) => {
        // The ring is known again by then, and a request is asked for.
        if (++questions === 4) stood.push(connection.ask(messages.GET_VRING_BASE, { index: 0, num: 0 }).num)
        return answer(message)
      }
      const read = disk.readBytes(0, 512).catch((error) => error.code)
      await run(
        disk,
        (async () => {
          while (stood.length === 0) await turn()
        })(),
      )
      expect(stood).toEqual([1])
      await disk.close()
      expect(await read).toBeTypeOf('string')
    }))
})

describe.skipIf(missingSystem !== '')(titled('RequestChannel', missingSystem), () => {
  const known = new Set<number>()
  const faults: string[] = []
  let answered = 0
  let theirs: UnixSocket
  let channel: RequestChannel

  function open(answers: boolean, translationMs = DEADLINE_MS): void {
    const [ours, other] = UnixSocket.pair()
    theirs = other
    known.clear()
    faults.length = answered = 0
    channel = new RequestChannel({
      name: 'disk',
      descriptor: ours.fd,
      answers,
      deadlineMs: DEADLINE_MS,
      translationMs,
      has: (iova) => known.has(iova),
      catchUp: () => {},
      onAnswer: () => answered++,
      onFault: (error) => faults.push((error as { code?: string }).code ?? ''),
    })
  }

  afterEach(() => {
    channel.close()
    theirs.close()
  })

  function update(iova: number): boolean {
    known.add(iova)
    const goOn = channel.updated(iova, 1)
    known.delete(iova)
    return goOn
  }

  /** Questions that arrived: each is a message of one size. */
  function arrived(): number {
    return waitReadable([theirs.fd], 0).length === 0 ? 0 : theirs.receive(4096, 0).bytes.length / QUESTION_BYTES
  }

  function answer(value: number): void {
    theirs.send(encodeAnswer(messages.BACKEND_IOTLB_MSG, value))
    while (serveWatched(0));
  }

  it('asks once for an address, and again once it was told and lost it', () => {
    open(false)
    expect([channel.ask(IOVA, ACCESS_READ), channel.ask(IOVA, ACCESS_READ), arrived()]).toEqual([true, true, 1])
    expect([channel.ask(IOVA, ACCESS_WRITE), channel.ask(IOVA + PAGE, ACCESS_READ), arrived()]).toEqual([true, true, 2])
    update(IOVA)
    expect([channel.ask(IOVA, ACCESS_READ), channel.ask(IOVA + PAGE, ACCESS_READ), arrived()]).toEqual([true, true, 1])
    expect([answered, faults]).toEqual([0, []])
  })

  it('the device goes on once all that one of its turns asked for is there, and not at each translation', () => {
    open(true)
    for (const page of [0, 1, 2]) channel.ask(IOVA + page * PAGE, ACCESS_READ)
    channel.turned()
    channel.ask(IOVA, ACCESS_READ)
    channel.ask(IOVA + 8 * PAGE, ACCESS_READ)
    expect([update(IOVA), update(IOVA + 2 * PAGE)]).toEqual([false, false])
    // The other turn has all of its own, whatever the first one waits for.
    expect(update(IOVA + 8 * PAGE)).toBe(true)
    expect(update(IOVA + PAGE)).toBe(true)
    // Nobody asked for these.
    expect([update(IOVA + PAGE), update(IOVA + 9 * PAGE)]).toEqual([false, false])
  })

  it('does not take an answer that comes late for that of the next question', () => {
    open(true)
    channel.ask(IOVA, ACCESS_READ)
    update(IOVA)
    channel.ask(IOVA, ACCESS_READ)
    answer(0)
    expect([answered, channel.ask(IOVA, ACCESS_READ)]).toEqual([0, true])
    answer(1)
    expect([answered, channel.ask(IOVA, ACCESS_READ)]).toEqual([1, false])
    expect([channel.ask(IOVA, ACCESS_READ), channel.ask(IOVA, ACCESS_WRITE)]).toEqual([false, true])
    // Whoever asks in another turn may have been given the address meanwhile.
    channel.turned()
    expect(channel.ask(IOVA, ACCESS_READ)).toBe(true)
    expect(faults).toEqual([])
  })

  it('gives up at the deadline, and where the front end is gone', async () => {
    open(false, 5)
    channel.ask(IOVA, ACCESS_READ)
    while (answered === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    expect([faults, channel.ask(IOVA, ACCESS_READ)]).toEqual([['VHOST_TIMEOUT'], false])
    theirs.close()
    while (serveWatched(0));
    channel.turned()
    expect([answered, channel.ask(IOVA, ACCESS_READ)]).toEqual([2, false])
  })

  it('closes where a front end translates and never answers', () => {
    open(true)
    const asked = Array.from({ length: 1025 }, (_, i) => {
      const due = channel.ask(i * PAGE, ACCESS_READ)
      if (i % 64 === 0) arrived()
      update(i * PAGE)
      return due
    })
    expect([asked.indexOf(false), faults]).toEqual([1024, ['VHOST_FLOOD']])
  })
})
