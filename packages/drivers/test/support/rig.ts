import {
  DirectBackend,
  DMA_EXHAUSTED,
  DMA_OK,
  type DmaBackend,
  DmaError,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
  platformOffer,
} from '@guestdma/dma'
import {
  BLK_FEATURES,
  BlkDriver,
  type BlkDriverOptions,
  DeviceSession,
  type DriverWarning,
  NET_FEATURES,
  NetDriver,
  type NetDriverOptions,
  type WaitingOptions,
} from '@guestdma/drivers'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import {
  BLK_S_OK,
  BLK_T_FLUSH,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  NET_FEATURE_DEPENDENCIES,
  SECTOR_SIZE,
  VIRTIO_NET_F_MAC,
} from '@guestdma/spec'
import { MmioTransport, negotiate, PciTransport } from '@guestdma/transport'
import { vi } from 'vitest'
import { type Chain, type DeviceOptions, HandDevice } from './device.ts'
import { HandFunction } from './pci.ts'

export const BASE = 0x8000_0000
export const RAM_BYTES = 8 << 20

/** What the drivers are tested over. */
export const TRANSPORTS = ['mmio', 'pci'] as const
export type TransportName = (typeof TRANSPORTS)[number]

/** The direct backend, with as many mappings at a time as `room` says: a pool that is full, without a pool. */
class NarrowBackend extends DirectBackend {
  room = Infinity
  /** What the next commit of maps answers. */
  commitStatus: DmaStatus = DMA_OK
  /** What each unmap answers. */
  unmapStatus: DmaStatus = DMA_OK
  /** What each commit of unmaps answers. */
  commitUnmapsStatus: DmaStatus = DMA_OK
  /** Whether a region that is freed is known to be out of reach. */
  frees: DmaStatus = DMA_OK
  /** How often `dispose` cannot revoke what the device was given. */
  refusals = 0
  /** After a `dispose` that was refused: the device reaches nothing any more. */
  gone: (() => void) | null = null
  live = 0

  override map(m: DmaMappings, row: number): DmaStatus {
    if (this.live >= this.room) return DMA_EXHAUSTED
    const status = super.map(m, row)
    if (status === DMA_OK) this.live++
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    this.live--
    super.unmap(m, row, written)
    return this.unmapStatus
  }

  override commitMaps(): DmaStatus {
    super.commitMaps()
    return this.commitStatus
  }

  override commitUnmaps(): DmaStatus {
    super.commitUnmaps()
    return this.commitUnmapsStatus
  }

  override free(region: DmaRegion): void {
    if (this.frees !== DMA_OK) throw new DmaError('DMA_STILL_REACHABLE', this.name, 'told not to confirm')
    super.free(region)
  }

  override dispose(): void {
    if (this.refusals > 0) {
      this.refusals--
      throw new DmaError('DMA_STILL_REACHABLE', this.name, 'told not to revoke', { status: 3 })
    }
    this.frees = DMA_OK
    super.dispose()
  }

  whenGone(release: () => void): void {
    this.gone = () => {
      super.dispose()
      release()
    }
  }
}

export interface Rig {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly device: HandDevice
  readonly backend: NarrowBackend
  readonly session: DeviceSession
}

interface RigOptions extends Partial<DeviceOptions> {
  /** Default: mmio. */
  readonly transport?: TransportName
  /** Guest RAM that can be handed out. Default: all. */
  readonly ramBytes?: number
  readonly detach?: () => boolean
  readonly warning?: (warning: DriverWarning) => void
}

/** Guest memory, a device made by hand, and a session up to FEATURES_OK. */
async function makeRig(deviceId: number, options: RigOptions = {}): Promise<Rig> {
  const memory = new GuestMemory([{ base: BASE, length: RAM_BYTES, memory: new ArrayBuffer(RAM_BYTES) }])
  const ram = new SpanAllocator(guestAddress(BASE), options.ramBytes ?? RAM_BYTES)
  const device = new HandDevice(memory, { deviceId, ...options })
  const transport =
    options.transport === 'pci'
      ? PciTransport.probe(new HandFunction(device), 'dev0')
      : MmioTransport.probe(device, 'dev0')
  if (transport === null) throw new Error('no device')
  let time = 0
  const wait = { pump: (): void => {}, now: (): number => (time += 10), deadlineMs: 50 }
  const backend = new NarrowBackend({ memory, ram })
  const { features } = await negotiate({
    transport,
    understood: deviceId === DEVICE_ID_NET ? NET_FEATURES : BLK_FEATURES,
    dependencies: NET_FEATURE_DEPENDENCIES,
    providers: [
      {
        id: 'narrow',
        reach: 'all',
        assess: ({ offered }) => ({ fit: 'usable', accept: offered.without(offered), why: 'there is no other' }),
        create: (): DmaBackend => backend,
      },
    ],
    dma: 'auto',
    offer: (offered) =>
      platformOffer({
        device: 'dev0',
        offered,
        transport: { kind: transport.kind, transitional: transport.transitional },
        memory,
        ram,
      }),
    wait,
  })
  const { detach, warning } = options
  const session = new DeviceSession({
    transport,
    features,
    backend,
    memory,
    ram,
    wait,
    ...(detach === undefined ? {} : { detach }),
    ...(warning === undefined ? {} : { warning }),
  })
  return { memory, ram, device, backend, session }
}

function waiting({ interrupts, onWork, requestDeadlineMs }: WaitingOptions): WaitingOptions {
  return {
    ...(interrupts === undefined ? {} : { interrupts }),
    ...(onWork === undefined ? {} : { onWork }),
    ...(requestDeadlineMs === undefined ? {} : { requestDeadlineMs }),
  }
}

export const MAC = [0x52, 0x54, 0, 1, 2, 3]

export interface NetRig extends Rig {
  readonly net: NetDriver
  /** Every frame that arrived, copied; every token that was sent. */
  readonly frames: Uint8Array[]
  readonly sent: number[]
  readonly events: string[]
  readonly warnings: DriverWarning[]
}

type NetRigOptions = RigOptions & NetDriverOptions & { mtu?: number; linkStatus?: number; mac?: number[] }

/** A net driver over a device made by hand. `link` and `mtu` fill in its configuration space. */
async function makeNet(options: NetRigOptions = {}): Promise<NetRig> {
  const config = new Uint8Array(16)
  config.set(options.mac ?? MAC)
  const fields = new DataView(config.buffer)
  fields.setUint16(6, options.linkStatus ?? 1, true)
  fields.setUint16(10, options.mtu ?? 1500, true)
  const rig = await makeRig(DEVICE_ID_NET, { features: [VIRTIO_NET_F_MAC], config, ...options })
  const frames: Uint8Array[] = []
  const sent: number[] = []
  const events: string[] = []
  const warnings: DriverWarning[] = []
  const { mode, queueSize, observer } = options
  const net = new NetDriver(rig.session, {
    ...(mode === undefined ? {} : { mode }),
    ...(queueSize === undefined ? {} : { queueSize }),
    ...waiting(options),
    observer: {
      frames: (batch) => {
        for (let i = 0; i < batch.count; i++) frames.push(batch.copy(i))
        observer?.frames?.(batch)
      },
      sent: (tokens, count) => {
        sent.push(...tokens.subarray(0, count))
        observer?.sent?.(tokens, count)
      },
      drain: () => {
        events.push('drain')
        observer?.drain?.()
      },
      link: (up) => {
        events.push(up ? 'up' : 'down')
        observer?.link?.(up)
      },
      broken: (error) => {
        events.push('broken')
        observer?.broken?.(error)
      },
      warning: (warning) => warnings.push(warning),
    },
  })
  // Receive buffers are posted from the first poll on.
  net.poll(1)
  return { ...rig, net, frames, sent, events, warnings }
}

/**
 * The device puts a frame into the next receive buffer. `used` is the length that it claims, `header` what it writes
 * before the frame.
 */
export function deliver(
  device: HandDevice,
  frame: Uint8Array,
  { header = new Uint8Array(12), used }: { header?: Uint8Array; used?: number } = {},
): Chain {
  const [chain] = device.take(0, 1)
  if (chain === undefined) throw new Error('no receive buffer is posted')
  const data = new Uint8Array(12 + frame.length)
  data.set(header)
  data.set(frame, 12)
  device.scatter(chain, data)
  device.use(0, chain.head, used ?? data.length)
  return chain
}

export function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = i * 31 + seed * 17 + 7
  return bytes
}

export interface BlkRig extends Rig {
  readonly disk: BlkDriver
  readonly errors: string[]
  readonly warnings: DriverWarning[]
}

type BlkRigOptions = RigOptions & BlkDriverOptions & { sectors?: number; sizeMax?: number; blockSize?: number }

async function makeBlk(options: BlkRigOptions = {}): Promise<BlkRig> {
  const config = new Uint8Array(64)
  const fields = new DataView(config.buffer)
  const sectors = options.sectors ?? 4096
  fields.setUint32(0, sectors % 2 ** 32, true)
  fields.setUint32(4, Math.floor(sectors / 2 ** 32), true)
  fields.setUint32(8, options.sizeMax ?? 0, true)
  fields.setUint32(20, options.blockSize ?? 0, true)
  const rig = await makeRig(DEVICE_ID_BLOCK, { config, ...options })
  const errors: string[] = []
  const warnings: DriverWarning[] = []
  const { mode, queueSize } = options
  const disk = new BlkDriver(rig.session, {
    ...(mode === undefined ? {} : { mode }),
    ...(queueSize === undefined ? {} : { queueSize }),
    ...waiting(options),
    observer: {
      broken: (error) => {
        errors.push(error.code)
        options.observer?.broken?.(error)
      },
      warning: (warning) => warnings.push(warning),
    },
  })
  return { ...rig, disk, errors, warnings }
}

export interface Makers {
  makeRig(deviceId: number, options?: RigOptions): Promise<Rig>
  makeNet(options?: NetRigOptions): Promise<NetRig>
  makeBlk(options?: BlkRigOptions): Promise<BlkRig>
}

/** The same rigs over one transport or another. */
export function rigsOver(transport: TransportName): Makers {
  return {
    makeRig: (deviceId, options) => makeRig(deviceId, { transport, ...options }),
    makeNet: (options) => makeNet({ transport, ...options }),
    makeBlk: (options) => makeBlk({ transport, ...options }),
  }
}

/** A block request as the device finds it. */
export interface Request {
  readonly chain: Chain
  readonly type: number
  readonly sector: number
  readonly data: Uint8Array
  /** Bytes that it wants of the device, status included. */
  readonly room: number
}

export function requests(device: HandDevice, most = Infinity): Request[] {
  return device.take(0, most).map((chain) => {
    const readable = device.gather(chain)
    const header = new DataView(readable.buffer)
    return {
      chain,
      type: header.getUint32(0, true),
      sector: header.getUint32(8, true) + 2 ** 32 * header.getUint32(12, true),
      data: readable.slice(16),
      room: chain.segments.reduce((sum, { length, writable }) => sum + (writable ? length : 0), 0),
    }
  })
}

/** Answers a request with data (for what is read) and a status; `used` is the length that the device claims. */
export function answer(
  device: HandDevice,
  request: Request,
  { status = BLK_S_OK, data, used }: { status?: number | null; data?: Uint8Array; used?: number } = {},
): void {
  const { chain, room } = request
  const bytes = new Uint8Array(room)
  if (data !== undefined) bytes.set(data.subarray(0, room - 1))
  if (status !== null) {
    bytes[room - 1] = status
    device.scatter(chain, bytes)
  }
  device.use(0, chain.head, used ?? room)
}

/** Serves everything that is there from `bytes`, as an honest device does. Returns how many requests there were. */
export function serve(device: HandDevice, bytes: Uint8Array, most = Infinity): number {
  const found = requests(device, most)
  for (const request of found) {
    const at = request.sector * SECTOR_SIZE
    if (request.type === BLK_T_IN) answer(device, request, { data: bytes.slice(at, at + request.room - 1) })
    else if (request.type === BLK_T_OUT) {
      bytes.set(request.data, at)
      answer(device, request)
    } else if (request.type === BLK_T_FLUSH) answer(device, request)
    else if (request.type === BLK_T_GET_ID)
      answer(device, request, { data: new TextEncoder().encode('by hand'.padEnd(20, '\0')) })
    else answer(device, request, { status: 2 })
  }
  return found.length
}

/** The device's other end is gone: every access to its registers throws. */
export const loseTransport = (device: HandDevice): void => {
  device.read = device.write = () => {
    throw new Error('the connection is gone')
  }
}

/** Lets microtasks run. */
export { setImmediate as settled } from 'node:timers/promises'

/** How a promise ended so far: `pending`, `ok`, or the code of its error. */
export function outcome(promise: Promise<unknown>): () => string {
  let state = 'pending'
  promise.then(
    () => {
      state = 'ok'
    },
    (error: { code?: string }) => {
      state = error.code ?? String(error)
    },
  )
  return () => state
}

/** Collects what is thrown in microtasks instead of letting it end the process. Call the result to stop. */
export function catchMicrotasks(): { readonly errors: unknown[]; stop(): void } {
  const errors: unknown[] = []
  const real = globalThis.queueMicrotask
  const spy = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation((task) =>
    real(() => {
      try {
        task()
      } catch (error) {
        errors.push(error)
      }
    }),
  )
  return { errors, stop: () => spy.mockRestore() }
}
