import { accessCounter, type Variant, WIDTHS } from '@guestdma/bench'
import { BusWindows } from '@guestdma/devices'
import type { BufferMode } from '@guestdma/drivers'
import { Meter, type Region } from '@guestdma/memory'
import { createMachine, type DeviceConfig, type Machine, SCHEMES, sharedPoolScheme } from 'guestdma'
import { loadCrowd } from './crowd.ts'

/** The harness's own loop, with neither driver nor device: what is in every other figure as well. */
export const NONE = 'none'

/** What is measured beside the schemes as they come: what it costs to clear whatever is lent for writing. */
export const BACKENDS: typeof SCHEMES = {
  ...SCHEMES,
  'shared-pool-on-lend': () => sharedPoolScheme({ size: POOL, clear: 'on-lend' }),
}

const RAM = 64 << 20
const POOL = 8 << 20

/**
 * A machine with one device over the scheme that a variant names; for cold buffers, with RAM for four times the
 * last-level cache.
 */
export async function machineFor(
  { backend, base, buffers, lastLevelCacheBytes, crowded }: Variant,
  device: DeviceConfig,
): Promise<Machine> {
  if (crowded) await loadCrowd(base)
  const length = RAM + (buffers === 'cold' ? 4 * lastLevelCacheBytes : 0)
  const scheme = BACKENDS[backend]({ poolBytes: POOL })
  return createMachine({
    memory: [{ base, length, memory: new ArrayBuffer(length) }],
    // Memory on a device lies behind a BAR.
    transport: backend === 'on-device' ? 'pci' : 'mmio',
    schemes: [scheme],
    devices: [{ ...device, dma: scheme.id }],
  })
}

/** Backend and queue counters of a device, and the accesses to its memory, flat, for the report. */
export function countersOf(machine: Machine, name: string, sides: Sides): Record<string, number> {
  const { backend, queues } = machine.counters().devices[name]
  const { slots: _slots, slotsInUse: _inUse, slotsHighWater: _high, allocatedBytes: _allocated, ...totals } = backend
  const notified = Object.values(queues).reduce((sum, queue) => sum + queue.notified, 0)
  return { ...totals, notified, ...sides.counters() }
}

/**
 * Counts accesses to the memory of a device by the side that makes them: a scenario says whose turn it is. For every
 * other scheme it does nothing.
 */
export class Sides {
  private readonly region: Region | null
  private readonly meters = { driver: new Meter(), device: new Meter() }

  constructor(machine: Machine, name: string) {
    const { port } = machine.device(name)
    const region = port instanceof BusWindows ? port.windows[0].region : null
    this.region = region?.meter == null ? null : region
    this.driver()
  }

  driver(): void {
    if (this.region !== null) this.region.meter = this.meters.driver
  }

  device(): void {
    if (this.region !== null) this.region.meter = this.meters.device
  }

  /** Accesses by side, kind and width in bytes, such as `driverLoads8`. */
  counters(): Record<string, number> {
    const counters: Record<string, number> = {}
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
  if (mode !== 'map' && mode !== 'pool') throw new Error(`the drivers have no mode '${mode}'`)
  return mode
}
