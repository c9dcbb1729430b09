import {
  type AccessFault,
  type BusWindow,
  type BusWindows,
  type DeviceFault,
  LoopbackLink,
  MemoryBlockStore,
  type NetDeviceOptions,
  VirtioDevice,
} from '@guestdma/devices'
import type { DmaScheme, IommuFault } from '@guestdma/dma'
import { ACCESS_READ, type BusPort, type GuestAddress, GuestMemory } from '@guestdma/memory'
import {
  createMachine,
  type DeviceConfig,
  type Machine,
  type MachineConfig,
  MachineEvents,
  type SchemeChosen,
} from 'guestdma'
import { expect, vi } from 'vitest'
import { MAC, pattern, ranges } from './machines.ts'

export const DEVICES = ['net0', 'disk0'] as const
const SECTORS = 128

/** A machine with a network device in loopback and a disk, and what it told. */
export interface Site {
  readonly made: Machine
  /** Frames that came back. */
  readonly frames: Uint8Array[]
  /** The disk's bytes. */
  readonly disk: Uint8Array
  readonly chosen: SchemeChosen[]
  readonly faults: { readonly device: string; readonly fault: AccessFault | DeviceFault }[]
  readonly reported: IommuFault[]
  readonly broken: string[]
}

export interface SiteOptions extends Partial<Omit<MachineConfig, 'devices' | 'events'>> {
  /** For both devices. */
  readonly each?: Partial<Pick<DeviceConfig, 'dma' | 'mode' | 'queueSize' | 'platform'>>
  /** Bits and requirements of both models. */
  readonly device?: Pick<NetDeviceOptions, 'offer' | 'withhold' | 'requires' | 'accessPlatform'>
  readonly disk?: DeviceConfig & { readonly type: 'blk' }
}

/** One position of the debate as a machine: the first scheme is the platform of both devices. */
export async function site(schemes: readonly DmaScheme[], options: SiteOptions = {}): Promise<Site> {
  const { each = {}, device = {}, disk: own, ...config } = options
  const disk = new Uint8Array(SECTORS * 512)
  const frames: Uint8Array[] = []
  const events = new MachineEvents()
  const told = { chosen: [] as SchemeChosen[], faults: [] as Site['faults'], reported: [] as IommuFault[] }
  const broken: string[] = []
  events.on('scheme', (event) => told.chosen.push(event))
  events.on('fault', (event) => told.faults.push(event))
  events.on('iommuFault', (event) => told.reported.push(event))
  events.on('needsReset', (event) => broken.push(event.device))
  const made = await createMachine({
    memory: new GuestMemory(ranges(16 << 20)),
    schemes,
    events,
    devices: [
      {
        type: 'net',
        name: 'net0',
        ...each,
        device: { mac: MAC, link: new LoopbackLink(), ...device },
        observer: {
          frames: (batch) => {
            for (let i = 0; i < batch.count; i++) frames.push(batch.copy(i))
          },
        },
      },
      own ?? { type: 'blk', name: 'disk0', ...each, device: { store: new MemoryBlockStore(disk), ...device } },
    ],
    ...config,
  })
  return { made, frames, disk, broken, ...told }
}

/** How a machine was refused, for `expect(…).rejects`: one that came up after all is too large to be printed. */
export const refusal = (coming: Promise<Site>): Promise<never> =>
  coming.then(({ made }) => {
    throw new Error(`it came up: ${JSON.stringify(made.counters())}`)
  })

/** Frames of every size through the loopback, and sectors to the disk and back; all of it has to arrive unchanged. */
export async function traffic({ made, frames, disk }: Site, seed = 1): Promise<void> {
  const sent = [60, 61, 64, 127, 128, 511, 1024, 1513, 1514, 60].map((bytes, i) => pattern(bytes, seed + i))
  frames.length = 0
  made.pump()
  for (const frame of sent) expect(made.net('net0').sendCopy(frame)).toBe(true)
  made.pump()
  expect(frames).toEqual(sent)
  const bytes = pattern(9 * 512, seed)
  await made.run(made.blk('disk0').writeBytes(seed, bytes))
  expect(disk.subarray(seed * 512, seed * 512 + bytes.length)).toEqual(bytes)
  expect(await made.run(made.blk('disk0').readBytes(seed, bytes.length))).toEqual(bytes)
}

/** What a device gets that reads (or writes) `length` bytes at a device address; null where its port refuses. */
export function reach(port: BusPort, address: number, length = 1, access: 1 | 2 = ACCESS_READ): Uint8Array | null {
  port.refresh()
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; ) {
    port.request[0] = address + at
    const granted = port.resolve(length - at, access)
    if (granted === 0) return null
    bytes.set(port.region.u8.subarray(port.offset, port.offset + granted), at)
    at += granted
  }
  return bytes
}

/** The one window that a confined device has. */
export function onlyWindow(made: Machine, device: string): Required<BusWindow> {
  const { windows } = made.device(device).port as BusWindows
  expect(windows.length).toBe(1)
  return windows[0]
}

/** Every page of guest RAM that a device reaches, by the guest address. */
export function reachablePages(made: Machine, device: string): number[] {
  const { port } = made.device(device)
  const found: number[] = []
  for (const { base, end } of made.memory.ranges)
    for (let at = base; at < end; at += 4096) if (reach(port, at) !== null) found.push(at)
  return found
}

/** A secret in guest RAM, in a page of its own. */
export function secret(made: Machine, bytes = pattern(64, 99)): { readonly address: GuestAddress; bytes: Uint8Array } {
  const address = made.ram.allocate(4096, 4096)
  made.memory.write(address, bytes)
  return { address, bytes }
}

/** Bytes that a driver named to its device. */
export interface NamedSpan {
  /** `rings`: what it wrote into queue registers. `table`, `buffer`: what it wrote into descriptors. */
  readonly what: 'rings' | 'table' | 'buffer'
  readonly address: number
  readonly length: number
}

const INDIRECT = 4

/** The three areas of each queue, and every descriptor in its table and in the indirect tables that those name. */
export function namedSpans(device: VirtioDevice): NamedSpan[] {
  const spans: NamedSpan[] = []
  for (const { areas, size, ready } of device.queues) {
    if (!ready) continue
    const [table, driver, used] = [0, 2, 4].map((i) => areas[i] + areas[i + 1] * 2 ** 32)
    spans.push({ what: 'rings', address: table, length: 16 * size })
    spans.push({ what: 'rings', address: driver, length: 6 + 2 * size })
    spans.push({ what: 'rings', address: used, length: 6 + 8 * size })
    readTable(device.port, table, 16 * size, spans)
  }
  return spans
}

function readTable(port: BusPort, address: number, length: number, spans: NamedSpan[]): void {
  const bytes = reach(port, address, length)
  if (bytes === null) return
  const view = new DataView(bytes.buffer)
  for (let at = 0; at + 16 <= length; at += 16) {
    const named = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32
    const bytesNamed = view.getUint32(at + 8, true)
    if (bytesNamed === 0) continue
    const table = (view.getUint16(at + 12, true) & INDIRECT) !== 0
    spans.push({ what: table ? 'table' : 'buffer', address: named, length: bytesNamed })
    if (table) readTable(port, named, bytesNamed, spans)
  }
}

/** Collects, before each turn of a device, every address that its driver wrote into queue registers and rings. */
export function watchAddresses(device: VirtioDevice): ReadonlyMap<string, NamedSpan> {
  const seen = new Map<string, NamedSpan>()
  const poll = device.poll.bind(device)
  device.poll = (budget) => {
    for (const span of namedSpans(device)) seen.set(`${span.what} ${span.address} ${span.length}`, span)
    return poll(budget)
  }
  return seen
}

/** Those that do not lie wholly in [base, base + length). */
export function outside(spans: Iterable<NamedSpan>, base: number, length: number): NamedSpan[] {
  return [...spans].filter((span) => span.address < base || span.length > base + length - span.address)
}

/** The values that drivers write to the status of any device from now on. `vi.restoreAllMocks` ends it. */
export function statuses(): readonly number[] {
  const written: number[] = []
  const real = VirtioDevice.prototype.writeStatus
  vi.spyOn(VirtioDevice.prototype, 'writeStatus').mockImplementation(function (this: VirtioDevice, value) {
    written.push(value)
    return real.call(this, value)
  })
  return written
}

/** How much of what drivers name while there is traffic lies outside of the devices' regions, or of a part of them. */
export async function strays(here: Site, part?: { readonly offset: number; readonly length: number }): Promise<number> {
  const seen = DEVICES.map((name) => watchAddresses(here.made.device(name).model))
  for (const seed of [1, 2]) await traffic(here, seed)
  return DEVICES.reduce((sum, name, i) => {
    const window = onlyWindow(here.made, name)
    const { offset, length } = part ?? { offset: 0, length: window.length }
    expect([...seen[i].values()].filter(({ what }) => what === 'rings').length).toBe(name === 'net0' ? 6 : 3)
    expect([...seen[i].values()].some(({ what }) => what === 'buffer')).toBe(true)
    return sum + outside(seen[i].values(), window.base + offset, length).length
  }, 0)
}

/** Whether each device's driver accepted a feature bit. */
export const accepted = ({ made }: Site, bit: number): boolean[] =>
  DEVICES.map((name) => made.device(name).negotiated.features.has(bit))

/** The schemes that were chosen, in the order of the devices. */
export const chosenSchemes = ({ chosen }: Site): string[] => chosen.map(({ scheme }) => scheme)
