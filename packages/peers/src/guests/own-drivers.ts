import { setImmediate as turn } from 'node:timers/promises'
import { BlkDevice, LoopbackLink, NetDevice, type VirtioDevice } from '@guestdma/devices'
import type { DmaScheme } from '@guestdma/dma'
import { type DeviceAddress, type GuestAddress, Region } from '@guestdma/memory'
import { SharedMemory, serveWatched } from '@guestdma/node'
import { FeatureSet, VIRTIO_NET_F_MAC } from '@guestdma/spec'
import { iotlbScheme, type VhostUserOptions, VhostUserServer, VhostUserTransport } from '@guestdma/vhost-user'
import { createMachine, directScheme, type Machine, sharedPoolScheme } from 'guestdma'
import type { OwnFigures } from '../matrix/guests-page.ts'
import { pattern, socketPath, until } from '../work/workloads.ts'
import { CountingStore } from './counting-store.ts'
import { type Figures, figuresOf } from './guest-figures.ts'
import { SpanPort, TranslatedPort, type WatchedPort } from './watched-port.ts'

interface OwnScheme {
  readonly backend: string
  readonly reach: string
  /** All buffers are bounced through a pool at the end of RAM. */
  readonly pool: boolean
  /** The device reaches that pool alone. */
  readonly confined: boolean
  readonly translated: boolean
}

const direct: OwnScheme = { backend: 'direct', reach: 'all of RAM', pool: false, confined: false, translated: false }
const schemes: readonly OwnScheme[] = [
  direct,
  { ...direct, backend: 'swiotlb', pool: true },
  { ...direct, backend: 'restricted-dma-pool', reach: 'its pool', pool: true, confined: true },
  { ...direct, backend: 'virtio-iommu', reach: 'what is mapped', translated: true },
]

const MIB = 1 << 20
const BASE = 0x8000_0000
const RAM = 128 * MIB
/** As large as the pool of a guest's device. */
const POOL = 8 * MIB
const SECRET = 'TOP-SECRET-OF-THE-GUEST-KERNEL'
/** What was freed with the secret in it, before the work. */
const FREED = 50_000_000
/** As much as the guest reads and writes; it reads ahead by as much as a request has here. */
const READ = 61_120_512
const WRITTEN = 17_965_056
const REQUEST = 128 << 10
const IN_FLIGHT = 4
const DISK = 24 * MIB
/** Buffers that stay in use, as those of a guest's files do: each request has other memory. */
const KEPT = 256
/** Batches of requests between two looks at what is in reach. */
const LOOK_EVERY = 32
/** As many bytes in either direction as the guest's files and pings. */
const FRAMES = 3030
const FRAME = 1514
const DEADLINE_MS = 20_000
const WAIT = { pump: () => void serveWatched(0), deadlineMs: DEADLINE_MS }
const MAC = [2, 0, 0, 0, 5, 1]

const disk = { name: 'disk0', deviceId: 2, queues: 1 }
const card = {
  name: 'net0',
  deviceId: 1,
  queues: 2,
  config: Uint8Array.from([...MAC, 0, 0, 0, 0, 0, 0]),
  ownFeatures: FeatureSet.of(VIRTIO_NET_F_MAC),
}

/**
 * Our drivers by the schemes of a guest, all four or those that are named, over devices that are served in this process:
 * what they reach is watched in the same way as under the driver of a guest.
 */
export async function ownDrivers(backends?: readonly string[]): Promise<OwnFigures[]> {
  const found: OwnFigures[] = []
  for (const scheme of schemes.filter(({ backend }) => backends?.includes(backend) ?? true)) {
    const { backend } = scheme
    found.push({ driver: 'blk', backend, figures: await measure(scheme, disk, blkDevice, blkWork) })
    found.push({ driver: 'net', backend, figures: await measure(scheme, card, netDevice, netWork) })
  }
  return found
}

type Work = (machine: Machine, look: () => void) => Promise<void>

async function measure(
  { confined, pool, reach, translated }: OwnScheme,
  options: Omit<VhostUserOptions, 'memory'> & { readonly name: string },
  make: (port: WatchedPort, translated: boolean) => VirtioDevice,
  work: Work,
): Promise<Figures> {
  using shared = SharedMemory.create('guest RAM', RAM)
  const end = { base: BASE + RAM - POOL, length: POOL }
  const span = confined ? end : { base: BASE, length: RAM }
  const { name } = options
  const port = translated ? new TranslatedPort(name, SECRET) : new SpanPort(name, span, SECRET)
  const device = make(port, translated)
  const path = socketPath()
  using server = VhostUserServer.listen({ path, device })
  using transport = VhostUserTransport.connect(path, {
    ...options,
    memory: [{ memory: shared, device: BASE }],
    iotlb: translated,
    wait: WAIT,
  })
  const window = { region: new Region(shared.buffer, 'pool'), offset: RAM - POOL, length: POOL }
  const scheme: DmaScheme = translated
    ? iotlbScheme(transport)
    : pool
      ? sharedPoolScheme({ memory: () => ({ window, device: end.base as DeviceAddress, home: 'guest-ram' }) })
      : directScheme()
  const machine = await createMachine({
    memory: [{ base: BASE, length: pool ? RAM - POOL : RAM, memory: shared.buffer }],
    schemes: [scheme],
    deadlineMs: DEADLINE_MS,
    devices: [
      {
        type: options.deviceId === 1 ? 'net' : 'blk',
        name,
        transport,
        dma: scheme.id,
        mode: 'map',
        enforcedBy: translated ? 'peer' : 'construction',
      },
    ],
  })
  const freed = machine.ram.allocate(FREED, 4096)
  machine.memory.write(freed, new Uint8Array(Buffer.alloc(FREED, SECRET)))
  machine.ram.release(freed)
  let secretInReach = 0
  const look = (): void => {
    secretInReach = Math.max(secretInReach, port.secretInReach())
  }
  look()
  await work(machine, look)
  const negotiated = String(device.negotiated)
  const { bytesCleared, bytesCopiedFromDevice, bytesCopiedToDevice } = machine.counters().devices[name].backend
  const bytesCopied = bytesCopiedToDevice + bytesCopiedFromDevice
  const figures = figuresOf([{ device, port, server }], { negotiated, reach, bytesCopied, secretInReach })
  await machine.close()
  return { ...figures, bytesCleared }
}

function blkDevice(port: WatchedPort, translated: boolean): VirtioDevice {
  const store = new CountingStore(pattern(DISK, 11))
  return new BlkDevice({ ...offers(translated), name: 'disk0', port, store })
}

function netDevice(port: WatchedPort, translated: boolean): VirtioDevice {
  return new NetDevice({ ...offers(translated), name: 'net0', port, mac: MAC, link: new LoopbackLink() })
}

function offers(translated: boolean): { accessPlatform?: 'offered' } {
  return translated ? { accessPlatform: 'offered' } : {}
}

/** Several requests at once, in recycled memory, as that of a guest is. */
async function blkWork(machine: Machine, look: () => void): Promise<void> {
  const blk = machine.blk('disk0')
  const kept: GuestAddress[] = []
  const pass = async (
    bytes: number,
    request: (sector: number, buffer: GuestAddress, length: number) => Promise<unknown>,
  ): Promise<void> => {
    for (let at = 0, batch = 0; at < bytes; batch++) {
      const requests: Promise<unknown>[] = []
      for (; requests.length < IN_FLIGHT && at < bytes; at += REQUEST) {
        const buffer = machine.ram.allocate(REQUEST, 4096)
        kept.push(buffer)
        requests.push(request((at % DISK) / 512, buffer, Math.min(REQUEST, bytes - at)))
      }
      if (batch % LOOK_EVERY === 0) {
        machine.pump()
        look()
      }
      await machine.run(Promise.all(requests))
      for (const buffer of kept.splice(0, Math.max(0, kept.length - KEPT))) machine.ram.release(buffer)
    }
  }
  await pass(READ, (sector, buffer, length) => blk.read(sector, buffer, length))
  await pass(WRITTEN, (sector, buffer, length) => blk.write(sector, buffer, length))
}

/** Frames that come back, each once. */
async function netWork(machine: Machine, look: () => void): Promise<void> {
  const net = machine.net('net0')
  const frame = pattern(FRAME, 3)
  frame.set([2, 0, 0, 0, 0, 9, ...MAC, 0x88, 0xb5])
  machine.pump()
  look()
  for (let sent = 0; sent < FRAMES; ) {
    if (net.sendCopy(frame)) sent++
    machine.pump()
    if (sent % 64 === 0) await turn()
    if (sent % 1024 === 0) look()
  }
  const back = (): boolean => {
    machine.pump()
    return net.counters.framesReceived >= FRAMES
  }
  await until(() => `frames: ${net.counters.framesReceived} of ${FRAMES} came back`, back, undefined, DEADLINE_MS)
}
