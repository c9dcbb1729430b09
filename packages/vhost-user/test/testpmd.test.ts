import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { sharedPoolScheme } from '@guestdma/bounce'
import { DMA_OK, type DmaProvider } from '@guestdma/dma'
import { FrameBatch, NetDriver, type NetDriverOptions, type ReceivedFrames } from '@guestdma/drivers'
import { DOMAIN_WRITE } from '@guestdma/iommu'
import { guestAddress } from '@guestdma/memory'
import { type Peer, SharedMemory, spawnPeer } from '@guestdma/node'
import { DEVICE_ID_NET, FeatureSet, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import { afterEach, describe, expect, it } from 'vitest'
import { DPDK_IOTLB, type IotlbDomain, iotlbProvider, VhostUserTransport } from '../src/index.ts'
import { type Guest, newGuest, openSession, POOL_DEVICE, RAM_BASE, RAM_BYTES, until, WAIT } from './support/compose.ts'
import { missingPeer, titled } from './support/peers.ts'

const COMMAND = 'dpdk-testpmd'
const missing = missingPeer(COMMAND, 'apt-get install dpdk-dev')

const MAC = [0x52, 0x54, 0, 0, 0, 1]
/** 1500. */
const MTU = [0xdc, 0x05]

let peer: Peer | undefined
let guest: Guest
let ram: SharedMemory | undefined
let transport: VhostUserTransport | undefined
let domain: IotlbDomain
const mapped: Mapping[] = []
const received: Uint8Array[] = []

afterEach(async () => {
  transport?.close()
  await peer?.close()
  guest?.close()
  ram?.close()
})

/** Starts a testpmd that sends every frame back with its two addresses exchanged. */
function startTestpmd(iotlb: boolean): string {
  const prefix = `guestdma-${randomBytes(4).toString('hex')}`
  peer = spawnPeer({
    command: COMMAND,
    args: (dir) => [
      ...['-l', '0-1', '--no-huge', '-m', '256', '--no-pci', '--iova-mode=va', '--no-telemetry'],
      ...['--file-prefix', prefix, '--vdev', `net_vhost0,iface=${dir}/s,queues=1,iommu-support=${iotlb ? 1 : 0}`],
      ...['--', '--forward-mode=macswap', '--no-mlockall', '-a', '-i', '--total-num-mbufs=8192'],
    ],
    files: [`/var/run/dpdk/${prefix}`],
  })
  return join(peer.dir, 's')
}

interface Mapping {
  readonly iova: number
  readonly guest: number
  readonly length: number
  readonly access: number
}

/** Keeps the domain, and what it maps. */
function watch(made: IotlbDomain): void {
  domain = made
  mapped.length = 0
  const map = made.map.bind(made)
  made.map = (access) => {
    const [iova, guest, length] = made.request
    mapped.push({ iova, guest, length, access })
    map(access)
  }
}

function connect(path: string, iotlb: boolean): VhostUserTransport {
  transport = VhostUserTransport.connect(path, {
    name: 'net0',
    deviceId: DEVICE_ID_NET,
    queues: 2,
    memory: [ram === undefined ? { memory: guest.pool, device: POOL_DEVICE } : { memory: ram, device: RAM_BASE }],
    config: Uint8Array.from([...MAC, 1, 0, 1, 0, ...MTU]),
    ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC),
    iotlb,
    wait: WAIT,
  })
  return transport
}

async function drive(
  iotlb: boolean,
  options: NetDriverOptions = {},
  revocation: 'strict' | 'lazy' = 'strict',
): Promise<NetDriver> {
  const path = startTestpmd(iotlb)
  ram = iotlb ? SharedMemory.create('ram', RAM_BYTES) : undefined
  guest = newGuest(ram)
  return start(connect(path, iotlb), iotlb, options, revocation)
}

async function start(
  over: VhostUserTransport,
  iotlb: boolean,
  options: NetDriverOptions = {},
  mode: 'strict' | 'lazy' = 'strict',
): Promise<NetDriver> {
  const provider: DmaProvider = iotlb
    ? iotlbProvider(over, { domain: DPDK_IOTLB, mode, onDomain: watch })
    : sharedPoolScheme().provider
  received.length = 0
  const frames = (batch: ReceivedFrames): void => {
    for (let i = 0; i < batch.count; i++) received.push(batch.copy(i))
  }
  const session = await openSession({ transport: over, guest, provider, ended: () => peer?.ended === true })
  const net = new NetDriver(session, { ...options, observer: { frames } })
  net.poll(256)
  await firstEcho(net)
  return net
}

/** A frame to a neighbour, with bytes that show which one it is. */
function frame(index: number, length: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => (index * 31 + i) & 0xff)
  bytes.set([2, 0, 0, 0, 0, 9, ...MAC, 0x88, 0xb5])
  return bytes
}

/** What comes back of it. */
function echoOf(sent: Uint8Array): Uint8Array {
  const bytes = sent.slice()
  bytes.set(sent.subarray(6, 12), 0)
  bytes.set(sent.subarray(0, 6), 6)
  return bytes
}

const COUNT = 32
/** The length of frames by which the beginning is found. */
const FIRST_LENGTH = 60

/** Sends frames of a length. */
function sendFrames(net: NetDriver, length: number, count = COUNT): void {
  const batch = new FrameBatch(count)
  batch.count = count
  batch.length.fill(length)
  for (let i = 0; i < count; i++) {
    const buffer = net.acquire()
    batch.buffer[i] = buffer
    net.bufferRegion.u8.set(frame(i, length), net.bufferOffset(buffer))
  }
  expect(net.send(batch)).toBe(count)
}

/** Waits until testpmd forwards: it drops what it receives before its other queue is there. */
async function firstEcho(net: NetDriver): Promise<void> {
  await until(net, () => {
    if (received.length === 0 && net.session.queues[1].outstanding === 0) sendFrames(net, FIRST_LENGTH, 1)
    return received.length > 0
  })
}

/** What came back of frames of a length. */
function echoes(length: number): Uint8Array[] {
  return received.filter((bytes) => bytes.length === length)
}

/** Sends frames of a length, and checks what comes back. */
async function exchange(net: NetDriver, length: number): Promise<void> {
  received.length = 0
  sendFrames(net, length)
  await until(net, () => echoes(length).length >= COUNT)
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
  expect(echoes(length).map(hex)).toEqual(Array.from({ length: COUNT }, (_, i) => hex(echoOf(frame(i, length)))))
}

describe.skipIf(missing !== '')(titled('testpmd: net that comes back with its addresses exchanged', missing), () => {
  it.each([
    ['over a pool that is all it is given', false, 'pool', 'strict'],
    ['over a pool that is all it is given, each frame copied', false, 'map', 'strict'],
    ['through an IOTLB, in buffers that stay mapped', true, 'pool', 'strict'],
    ['through an IOTLB, each frame mapped and taken back', true, 'map', 'strict'],
    ['through an IOTLB, each frame mapped and taken back later', true, 'map', 'lazy'],
  ] as const)('frames %s', async (_, iotlb, mode, revocation) => {
    const net = await drive(iotlb, { mode }, revocation)
    for (const length of [64, 700, 1514]) for (let round = 0; round < 10; round++) await exchange(net, length)
    await net.close()
    expect(guest.ram.live).toBe(0)
  })

  it.each([
    ['over a pool', false],
    ['through an IOTLB', true],
  ])('a device starts again after a reset, and after another connection, %s', async (_, iotlb) => {
    const first = await drive(iotlb)
    await exchange(first, 64)
    await first.close()
    const again = await start(first.session.transport as VhostUserTransport, iotlb)
    await exchange(again, 64)
    await again.close()
    transport?.close()
    const other = await start(connect(join((peer as Peer).dir, 's'), iotlb), iotlb)
    await exchange(other, 64)
    await other.close()
    expect(guest.ram.live).toBe(0)
  })

  it('pages that were taken back are not written: the next miss is refused, and nobody else suffers', async () => {
    const net = await drive(true, { mode: 'pool' })
    await exchange(net, 64)
    // The one mapping for receive buffers; rings are mapped for both directions.
    const [receive, ...others] = mapped.filter(({ access }) => access === DOMAIN_WRITE)
    expect(others).toEqual([])
    const address = guestAddress(receive.guest)
    const pattern = new Uint8Array(receive.length).fill(0xa5)
    guest.memory.write(address, pattern)
    domain.request.set([receive.iova, 0, receive.length])
    domain.unmap()
    expect(domain.commit()).toBe(DMA_OK)

    const { missesRefused } = domain.counters
    const sent = net.counters.framesSent
    received.length = 0
    sendFrames(net, 64)
    await until(net, () => domain.counters.missesRefused > missesRefused)
    sendFrames(net, 64)
    await until(net, () => net.session.queues[1].outstanding === 0)
    expect([received.length, net.counters.framesSent]).toEqual([0, sent + 2 * COUNT])
    expect(Buffer.compare(guest.memory.read(address, receive.length), pattern)).toBe(0)

    // Lent again, they are written again.
    domain.request.set([receive.iova, receive.guest, receive.length])
    domain.map(DOMAIN_WRITE)
    expect(domain.commit()).toBe(DMA_OK)
    await exchange(net, 64)
    await net.close()
  })

  it('a testpmd that is killed: the driver says so, and all memory goes back', async () => {
    const net = await drive(true, { mode: 'map' })
    await exchange(net, 64)
    process.kill((peer as Peer).pid, 'SIGKILL')
    await (peer as Peer).exited
    await until(net, () => net.broken !== null)
    expect(net.broken?.cause).toMatchObject({ code: 'TRANSPORT_LOST' })
    await expect(net.close()).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK', details: { quarantined: false } })
    expect(guest.ram.live).toBe(0)
  })
})
