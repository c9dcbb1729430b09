import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sharedPoolScheme } from '@guestdma/bounce'
import { BlkDriver, type BlkDriverOptions } from '@guestdma/drivers'
import { type PeerProcess, spawnPeer } from '@guestdma/node'
import { DEVICE_ID_BLOCK, SECTOR_SIZE } from '@guestdma/spec'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { VhostUserTransport } from '../src/index.ts'
import { type Guest, newGuest, openSession, POOL_DEVICE, run, WAIT } from './support/compose.ts'
import { missingPeer, titled } from './support/peers.ts'

const COMMAND = 'qemu-storage-daemon'
const missing = missingPeer(COMMAND, 'apt-get install qemu-system-common')

const DISK_BYTES = 1 << 20
const { provider } = sharedPoolScheme({ enforcedBy: 'construction' })

interface Daemon {
  readonly peer: PeerProcess
  readonly path: string
  disk(): Buffer
}

const content = randomBytes(DISK_BYTES)

function startDaemon(): Daemon {
  const peer = spawnPeer({
    command: COMMAND,
    args: (dir) => {
      writeFileSync(join(dir, 'disk.raw'), content)
      return [
        ...['--blockdev', `driver=file,node-name=file,filename=${dir}/disk.raw`],
        ...['--blockdev', 'driver=raw,node-name=disk,file=file'],
        ...['--export', `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${dir}/s,writable=on`],
      ]
    },
  })
  return { peer, path: join(peer.dir, 's'), disk: () => readFileSync(join(peer.dir, 'disk.raw')) }
}

let guest: Guest
let daemon: Daemon
const transports: VhostUserTransport[] = []

beforeEach(() => {
  if (missing !== '') return
  guest = newGuest()
  daemon = startDaemon()
})
afterEach(async () => {
  for (const transport of transports.splice(0)) transport.close()
  await daemon?.peer.close()
  guest?.close()
})

function connect(path = daemon.path): VhostUserTransport {
  const transport = VhostUserTransport.connect(path, {
    name: 'disk0',
    deviceId: DEVICE_ID_BLOCK,
    queues: 1,
    memory: [{ memory: guest.pool, device: POOL_DEVICE }],
    wait: WAIT,
  })
  transports.push(transport)
  return transport
}

async function drive(options?: BlkDriverOptions, transport = connect()): Promise<BlkDriver> {
  const session = await openSession({ transport, guest, provider, ended: () => daemon.peer.ended })
  return new BlkDriver(session, options)
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
    expect(Buffer.compare(daemon.disk(), written)).toBe(0)
    await disk.close()
  })
})
