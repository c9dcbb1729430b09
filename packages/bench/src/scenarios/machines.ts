import { BusWindows, IommuPort } from '@guestdma/devices'
import type { DmaScheme } from '@guestdma/dma'
import type { BufferMode } from '@guestdma/drivers'
import { Meter, type Region } from '@guestdma/memory'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { type BlkConfig, createMachine, type Machine, type NetConfig, type SchemeSizes } from 'guestdma'
import type { Variant } from '../contract/scenario.ts'
import { accessCounter, WIDTHS } from '../model/causes.ts'

/** The harness's own loop, with neither driver nor device: what is in every other figure as well. */
export const NONE = 'none'

/** Makes a scheme anew, for one machine. */
export type SchemeFactory = (sizes?: SchemeSizes) => DmaScheme

/** Schemes by the names that results have for them. */
export type Schemes = Readonly<Record<string, SchemeFactory>>

const RAM = 64 << 20
const POOL = 8 << 20

/**
 * A machine with one device over the scheme that a variant names; for cold buffers, with RAM for four times the
 * last-level cache.
 */
export async function machineFor(
  schemes: Schemes,
  { backend, base, buffers, lastLevelCacheBytes, ring }: Variant,
  device: NetConfig | BlkConfig,
): Promise<Machine> {
  const length = RAM + (buffers === 'cold' ? 4 * lastLevelCacheBytes : 0)
  const scheme = schemes[backend]({ poolBytes: POOL })
  const offer = ring === 'packed' ? [VIRTIO_F_RING_PACKED] : []
  const config = { ...device, dma: scheme.id, device: { ...device.device, offer } } as NetConfig | BlkConfig
  return createMachine({
    memory: [{ base, length, memory: new ArrayBuffer(length) }],
    // Memory on a device lies behind a BAR.
    transport: backend === 'on-device' ? 'pci' : 'mmio',
    schemes: [scheme],
    devices: [config],
  })
}

/** Counters of a device's backend, queues, IOTLB and interrupts, and the accesses to its memory, flat, for the report. */
export function countersOf(machine: Machine, name: string, sides?: Sides): Record<string, number> {
  const { backend, queues, interrupts } = machine.counters().devices[name]
  const { slots: _slots, slotsInUse: _inUse, slotsHighWater: _high, allocatedBytes: _allocated, ...totals } = backend
  const notified = Object.values(queues).reduce((sum, queue) => sum + queue.notified, 0)
  const { port } = machine.device(name)
  return { ...totals, notified, interrupts, ...iotlbCounters(port), ...sides?.counters() }
}

function iotlbCounters(port: unknown): Record<string, number> {
  if (!(port instanceof IommuPort)) return {}
  const { tlbHits, tlbMisses } = port.counters
  return { iotlbLookups: tlbHits + tlbMisses, iotlbMisses: tlbMisses }
}

const DRIVER = 0
const DEVICE = 1

/**
 * Tells the two sides apart: a scenario says whose turn it is. Accesses to shared memory are counted by the side that makes
 * them: those to the memory of a device always, as that memory does it anyway; those of a device to guest RAM only where
 * nothing is timed.
 */
export class Sides {
  // Milliseconds of each side's turns; no clock is read but within `driverShare`.
  private readonly spent = new Float64Array(2)
  private clocked = false
  private turn = DRIVER
  private since = 0
  private readonly region: Region | null
  private readonly ram: Region | null
  private readonly meters = { driver: new Meter(), device: new Meter(), dma: new Meter() }

  constructor(machine: Machine, name: string, { counting }: Variant) {
    const { port } = machine.device(name)
    const region = port instanceof BusWindows ? port.windows[0].region : null
    this.region = region?.meter == null ? null : region
    this.ram = counting ? machine.memory.ranges[0].region : null
    this.driver()
  }

  driver(): void {
    if (this.clocked) this.clock(DRIVER)
    if (this.region !== null) this.region.meter = this.meters.driver
    if (this.ram !== null) this.ram.meter = null
  }

  device(): void {
    if (this.clocked) this.clock(DEVICE)
    if (this.region !== null) this.region.meter = this.meters.device
    if (this.ram !== null) this.ram.meter = this.meters.dma
  }

  /** See `Prepared.driverShare`. */
  driverShare(run: () => void): number {
    const { spent } = this
    spent.fill(0)
    this.since = performance.now()
    this.turn = DRIVER
    this.clocked = true
    run()
    this.clock(DRIVER)
    this.clocked = false
    return spent[DRIVER] / (spent[DRIVER] + spent[DEVICE])
  }

  private clock(next: number): void {
    const now = performance.now()
    this.spent[this.turn] += now - this.since
    this.since = now
    this.turn = next
  }

  /** Accesses by side, kind and width in bytes, such as `driverLoads8`, and what went over the bus to guest RAM. */
  counters(): Record<string, number> {
    const counters: Record<string, number> = {}
    if (this.ram !== null) {
      const { bytesLoaded, bytesStored } = this.meters.dma.snapshot()
      counters.bytesReadByDma = bytesLoaded
      counters.bytesWrittenByDma = bytesStored
    }
    if (this.region === null) return counters
    for (const side of ['driver', 'device'] as const) {
      const { loads, stores } = this.meters[side].snapshot()
      for (const width of WIDTHS) {
        counters[accessCounter(side, 'Loads', width)] = loads[width]
        counters[accessCounter(side, 'Stores', width)] = stores[width]
      }
    }
    return counters
  }
}

/**
 * Guest addresses for buffers of `stride` bytes: a few that are used again and again, or four times the last-level
 * cache.
 */
export function bufferRing(
  machine: Machine,
  { buffers, batch, lastLevelCacheBytes }: Variant,
  stride: number,
): { base: number; count: number } {
  const count = buffers === 'cold' ? Math.floor((4 * lastLevelCacheBytes) / stride) : batch
  return { base: machine.ram.allocate(count * stride, 64), count }
}

/** How the drivers lend buffers in a variant. Throws for a mode that they do not have. */
export function bufferModeOf({ mode }: Variant): BufferMode {
  if (mode === 'pool-header') return 'pool'
  if (mode !== 'map' && mode !== 'pool') throw new Error(`the drivers have no mode '${mode}'`)
  return mode
}
