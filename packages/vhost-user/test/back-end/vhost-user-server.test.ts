import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sharedPoolScheme } from '@guestdma/bounce'
import { BlkDevice, type BlockStore, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { BlkDriver } from '@guestdma/drivers'
import { serveWatched } from '@guestdma/node'
import { DEVICE_ID_BLOCK, SECTOR_SIZE } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { VhostUserServer, VhostUserTransport } from '../../src/index.ts'
import { DEADLINE_MS, type Guest, newGuest, openSession, POOL_DEVICE, run } from '../support/compose.ts'
import { missingSystem, titled } from '../support/peers.ts'

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

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20))

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
      while (server?.connected) await settled()
      expect((device.port as BusWindows).windows).toEqual([])
      expect(device.status).toBe(0)
    }
    expect(server?.faults.last()).toEqual([])
  })
})
