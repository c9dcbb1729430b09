import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BounceBackend, sharedPoolScheme } from '@guestdma/bounce'
import type { DmaMappings, DmaStatus } from '@guestdma/dma'
import { BlkDriver, type BlkDriverOptions } from '@guestdma/drivers'
import { guestAddress } from '@guestdma/memory'
import { type Peer, spawnPeer } from '@guestdma/node'
import { DEVICE_ID_BLOCK, SECTOR_SIZE } from '@guestdma/spec'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { VhostUserTransport } from '../src/index.ts'
import { type Guest, newGuest, openSession, POOL_DEVICE, RAM_BASE, RAM_BYTES, run, WAIT } from './support/compose.ts'
import { missingPeer, titled } from './support/peers.ts'

const COMMAND = 'qemu-storage-daemon'
const missing = missingPeer(COMMAND, 'apt-get install qemu-system-common')

const DISK_BYTES = 1 << 20
const { provider } = sharedPoolScheme()

const content = randomBytes(DISK_BYTES)

/** Starts a daemon whose disk and socket lie in `dir`. */
function startDaemon(): Peer {
  return spawnPeer({
    command: COMMAND,
    args: [
      ...['--blockdev', `driver=file,node-name=file,filename=${dir}/disk.raw`],
      ...['--blockdev', 'driver=raw,node-name=disk,file=file'],
      ...['--export', `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${path()},writable=on`],
    ],
  })
}

const path = (): string => join(dir, 'socket')
const diskBytes = (): Buffer => readFileSync(join(dir, 'disk.raw'))

let guest: Guest
let daemon: Peer
let dir: string
const transports: VhostUserTransport[] = []

beforeEach(() => {
  if (missing !== '') return
  guest = newGuest()
  dir = mkdtempSync(join(tmpdir(), 'guestdma-storage-'))
  writeFileSync(join(dir, 'disk.raw'), content)
  daemon = startDaemon()
})
afterEach(async () => {
  for (const transport of transports.splice(0)) transport.close()
  await daemon?.close()
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true })
  guest?.close()
})

function connect(wait = WAIT): VhostUserTransport {
  const transport = VhostUserTransport.connect(path(), {
    name: 'disk0',
    deviceId: DEVICE_ID_BLOCK,
    queues: 1,
    memory: [{ memory: guest.pool, device: POOL_DEVICE }],
    wait,
  })
  transports.push(transport)
  return transport
}

async function drive(options?: BlkDriverOptions, transport = connect()): Promise<BlkDriver> {
  const session = await openSession({ transport, guest, provider, ended: () => daemon.ended })
  return new BlkDriver(session, options)
}

/** Bytes of the pool that a driver's backend has handed out. */
function backendBytes({ session }: BlkDriver): number {
  return (session.backend as BounceBackend).counters.slotsInUse
}

describe.skipIf(missing !== '')(titled('storage-daemon: blk over a pool that is all it is given', missing), () => {
  it.each([4, 8, 32, 128, 256])('a whole disk is read and written over a queue of %i', async (queueSize) => {
    const disk = await drive({ queueSize })
    expect(disk.session.queues[0].size).toBe(queueSize)
    expect(disk.capacity).toBe(DISK_BYTES / SECTOR_SIZE)
    expect(Buffer.compare(await run(disk, disk.readBytes(0, DISK_BYTES)), content)).toBe(0)

    const written = randomBytes(DISK_BYTES)
    const part = DISK_BYTES / 8
    const writes = Array.from({ length: 8 }, (_, i) =>
      disk.writeBytes((i * part) / SECTOR_SIZE, written.subarray(i * part, (i + 1) * part)),
    )
    await run(disk, Promise.all(writes))
    await run(disk, disk.flush())
    expect(Buffer.compare(diskBytes(), written)).toBe(0)
    await disk.close()
  })

  it('an address outside of that memory ends the connection: the driver says so, and another one goes on', async () => {
    const disk = await drive()
    const { backend } = disk.session
    const map = backend.map.bind(backend)
    const wild = (mappings: DmaMappings, row: number): DmaStatus => {
      const status = map(mappings, row)
      mappings.device[row] = RAM_BASE
      return status
    }
    Object.assign(backend, { map: wild })
    const before = guest.memory.read(guestAddress(RAM_BASE), RAM_BYTES)
    await expect(run(disk, disk.readBytes(0, 4096))).rejects.toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
    expect(Buffer.compare(before, guest.memory.read(guestAddress(RAM_BASE), RAM_BYTES))).toBe(0)
    // The daemon takes its queue down and closes the connection. Its process goes on, and so does the next driver.
    expect(disk.broken?.cause).toMatchObject({ code: 'TRANSPORT_LOST', cause: { code: 'VHOST_CLOSED' } })
    expect(daemon.output()).toContain('invalid address')
    const next = await drive()
    expect(Buffer.compare(await run(next, next.readBytes(0, 4096)), content.subarray(0, 4096))).toBe(0)
    await next.close()
  })

  it('a daemon that is killed while it has requests: each ends with a typed error, and all memory goes back', async () => {
    const disk = await drive({ queueSize: 32 })
    process.kill(daemon.pid, 'SIGSTOP')
    const requests = [
      ...Array.from({ length: 20 }, (_, i) => disk.readBytes(i * 8, 4096)),
      disk.writeBytes(0, new Uint8Array(4096)),
      disk.flush(),
    ]
    const outcomes = Promise.allSettled(requests)
    disk.poll(256)
    process.kill(daemon.pid, 'SIGKILL')
    await daemon.exited
    for (const outcome of await run(disk, outcomes)) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'DRIVER_DEVICE_BROKEN' } })
    }
    expect(disk.broken?.cause).toMatchObject({ code: 'TRANSPORT_LOST', cause: { code: 'VHOST_CLOSED' } })
    // The daemon is known to have ended: nobody reaches the memory any more, although no reset was confirmed.
    await expect(disk.close()).rejects.toMatchObject({
      code: 'TRANSPORT_DEVICE_STUCK',
      details: { quarantined: false },
    })
    expect(disk.session.quarantined).toBe(false)
    expect([guest.ram.live, backendBytes(disk)]).toEqual([0, 0])
  })

  it('after a reconnection the caller submits again what was in flight, and the disk is as it should be', async () => {
    const first = await drive()
    const written = randomBytes(DISK_BYTES)
    const part = 32 << 10
    const write = (disk: BlkDriver, i: number): Promise<void> =>
      disk.writeBytes((i * part) / SECTOR_SIZE, written.subarray(i * part, (i + 1) * part))
    process.kill(daemon.pid, 'SIGSTOP')
    const parts = Array.from({ length: DISK_BYTES / part }, (_, i) => i)
    const outcomes = Promise.allSettled(parts.map((i) => write(first, i)))
    first.poll(256)
    process.kill(daemon.pid, 'SIGKILL')
    await daemon.exited
    const failed = (await run(first, outcomes)).flatMap(({ status }, i) => (status === 'rejected' ? [i] : []))
    expect(failed).toEqual(parts)
    await first.close().catch(() => {})

    daemon = startDaemon()
    const second = await drive()
    await run(second, Promise.all(failed.map((i) => write(second, i))))
    await run(second, second.flush())
    expect(Buffer.compare(diskBytes(), written)).toBe(0)
    await second.close()
  })

  it('a daemon takes one front end after another, and a device starts again after a reset', async () => {
    for (let round = 0; round < 3; round++) {
      const transport = connect()
      for (let reset = 0; reset < 2; reset++) {
        const disk = await drive({}, transport)
        expect(Buffer.compare(await run(disk, disk.readBytes(8, 4096)), content.subarray(4096, 8192))).toBe(0)
        await disk.close()
      }
      transport.close()
    }
    expect(guest.ram.live).toBe(0)
  })

  it('a daemon that hangs is a stuck device: close says so in time, and its memory stays out of use', async () => {
    const disk = await drive({}, connect({ pump: () => {}, deadlineMs: 100 }))
    process.kill(daemon.pid, 'SIGSTOP')
    const request = expect(disk.readBytes(0, 512)).rejects.toMatchObject({ code: 'DRIVER_CLOSED' })
    await expect(disk.close()).rejects.toMatchObject({
      code: 'TRANSPORT_DEVICE_STUCK',
      details: { quarantined: true },
      cause: { code: 'TRANSPORT_LOST', cause: { code: 'VHOST_TIMEOUT' } },
    })
    await request
    expect(disk.session.quarantined).toBe(true)
    process.kill(daemon.pid, 'SIGCONT')
  })
})
