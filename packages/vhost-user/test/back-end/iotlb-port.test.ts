import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BlkDevice, MemoryBlockStore } from '@guestdma/devices'
import { BlkDriver } from '@guestdma/drivers'
import { ACCESS_READ, ACCESS_WRITE, Region } from '@guestdma/memory'
import { SharedMemory, serveWatched, type Watch, watchReadable } from '@guestdma/node'
import { DEVICE_ID_BLOCK } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { IotlbPort, iotlbProvider, VhostUserServer, VhostUserTransport } from '../../src/index.ts'
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
  it('reads and writes by translations that it asks for, and none is left when the driver took it back', async () => {
    using ram = SharedMemory.create('ram', RAM_BYTES)
    const guest = newGuest(ram)
    const content = new Uint8Array(randomBytes(1 << 20))
    const port = new IotlbPort('disk')
    const device = new BlkDevice({
      name: 'disk',
      port,
      store: new MemoryBlockStore(content),
      accessPlatform: 'offered',
    })
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
    const given: number[] = []
    const update = port.update.bind(port)
    port.update = (iova, ...rest) => {
      given.push(iova)
      return update(iova, ...rest)
    }
    const { requests } = transport.connection
    if (requests === null) throw new Error('there is no channel')
    using _watch: Watch = watchReadable(requests.descriptor, () => requests.serve())
    const disk = new BlkDriver(await openSession({ transport, guest, provider: iotlbProvider(transport) }))
    for (const at of [0, 64 << 10]) {
      const read = await run(disk, disk.readBytes(at / 512, 20_480))
      expect(Buffer.compare(read, content.subarray(at, at + 20_480))).toBe(0)
    }
    const written = randomBytes(9216)
    await run(disk, disk.writeBytes(100, written))
    expect(Buffer.compare(content.subarray(51_200, 60_416), written)).toBe(0)
    await disk.close()
    expect(given.length).toBeGreaterThan(3)
    for (const iova of given) expect(port.has(iova, ACCESS_READ)).toBe(false)
    expect([device.faults.last(), server.faults.last()]).toEqual([[], []])
    guest.close()
  })
})
