import { FaultLog, observe, type RegisterBus } from '@guestdma/memory'
import { PCI_BARS, PCI_COMMAND, PCI_COMMAND_MEMORY, PCI_CONFIG_SIZE, PCI_HEADER_SIZE } from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import { MIN_MEMORY_BAR, PciBar, type PciRange } from '../pci/bar.ts'
import { PciConfigSpace } from '../pci/configuration-space.ts'
import type { FaultOwner } from '../pci/fault.ts'
import { MSIX_BAR, NOTIFY_MULTIPLIER } from '../pci/options.ts'
import type { DescribedBar, DescribedFunction, WorkerPciOptions } from './messages.ts'
import { CONFIG_SPACE, pciLayout } from './register-layout.ts'
import type { WorkerRegisters } from './worker-registers.ts'

/** A write that a new worker is told again. */
interface Kept {
  readonly space: number
  readonly offset: number
  readonly size: 1 | 2 | 4
  readonly value: number
}

const UNUSED = { deviceId: 0, revision: 0, classCode: 0, subsystemVendorId: 0, subsystemId: 0 }

/**
 * A PCI function whose device is in a worker, as a host bridge sees it: what `PciTransport.probe` and `assignBars` are
 * given. Accesses go to the function in the worker and throw as {@link DeviceWorker.registers} says.
 *
 * Where BARs are is decided here, from what was written to them, and not by what the worker says. The same goes for a
 * restart: the new worker is told the header and MSI-X as the old one was, since a device that is reset keeps them.
 */
export class WorkerFunction {
  /** The 256 bytes of configuration space. */
  readonly config: RegisterBus
  /** See `PciFunctionOptions.onWindows`. */
  onWindows: (() => void) | null = null
  /**
   * Takes the device's MSI-X messages to the doorbell, each in a turn of the event loop. What it throws surfaces in a
   * microtask. `listen` of the worker tells of the same interrupt right after it.
   */
  onMessage: ((address: number, data: number) => void) | null = null

  private readonly registers: WorkerRegisters
  private readonly options: WorkerPciOptions
  private readonly buses: readonly RegisterBus[]
  private described: DescribedFunction | null = null
  private space: PciConfigSpace | null = null
  private bars: readonly (PciBar | null)[] = []
  // In the order of the last write; by space, offset and width.
  private readonly kept = new Map<number, Kept>()

  constructor(registers: WorkerRegisters, options: WorkerPciOptions) {
    this.registers = registers
    this.options = options
    const bus = (space: number): RegisterBus => ({
      read: (offset, size) => registers.read(space, offset, size),
      write: (offset, size, value) => this.write({ space, offset, size, value }),
    })
    this.config = bus(CONFIG_SPACE)
    this.buses = Array.from({ length: PCI_BARS }, (_, index) =>
      index === MSIX_BAR ? bus(index) : registers.space(index),
    )
  }

  /** What is behind BAR `index`, at offsets within it; `null` where there is none. */
  bar(index: number): RegisterBus | null {
    return this.described?.bars[index] == null ? null : this.buses[index]
  }

  /** Where BAR `index` is now; `null` where there is none. It asks the worker nothing. */
  range(index: number): PciRange | null {
    return this.bars[index]?.range ?? null
  }

  /** A worker's function is there. Throws DeviceError `WORKER_FAILED` where what it says of itself cannot be. */
  begin(described: unknown): void {
    const { name } = this.registers
    if (!isFunction(described)) {
      throw new DeviceError('WORKER_FAILED', name, 'the worker does not describe a PCI function', { described })
    }
    this.described = described
    const owner: FaultOwner = { name, faults: new FaultLog() }
    const space = new PciConfigSpace(owner, UNUSED, [], {
      written: () => this.moved(),
      dataRead: () => {},
      dataWritten: () => {},
    })
    this.space = space
    this.bars = described.bars.map((bar, index) =>
      bar === null ? null : new PciBar(owner, space, { ...bar, bytes: bar.size, index, inner: this.buses[index] }),
    )
    this.registers.layout = pciLayout(described.doorbells, this.options.notifyMultiplier ?? NOTIFY_MULTIPLIER)
    const kept = [...this.kept.values()]
    // The table is within reach whatever the command was last, and that comes at the end.
    this.registers.write(CONFIG_SPACE, PCI_COMMAND, 2, PCI_COMMAND_MEMORY)
    for (const write of kept) if (write.space === MSIX_BAR) this.pass(write)
    for (const write of kept) if (write.space === CONFIG_SPACE) this.pass(write)
    this.registers.write(CONFIG_SPACE, PCI_COMMAND, 2, space.command)
  }

  /** Forgets what a new worker would be told: the function was reset as a whole. */
  reset(): void {
    this.kept.clear()
    this.space?.reset()
    this.moved()
  }

  /** A message of the device. What is none of the doorbell's is nobody's. */
  message(address: unknown, data: unknown): void {
    const { base, length } = this.options.doorbell ?? { base: 0, length: 0 }
    if (!isCount(address) || !isCount(data) || address < base || address >= base + length || data >= 2 ** 32) return
    observe(() => this.onMessage?.(address, data), undefined)
  }

  private write(write: Kept): void {
    const { space, offset, size } = write
    // Before it: the command decides whether a write to the table is one.
    const isKept = this.isKept(write)
    this.pass(write)
    if (!isKept) return
    const key = (space * 2 ** 32 + offset) * 8 + size
    this.kept.delete(key)
    this.kept.set(key, write)
  }

  private pass({ space, offset, size, value }: Kept): void {
    this.registers.write(space, offset, size, value)
    if (space === CONFIG_SPACE && offset >= 0 && offset < PCI_HEADER_SIZE) this.space?.write(offset, size, value)
  }

  // The header, MSI-X's control and MSI-X's table. What else can be written has effects, or is the device's.
  private isKept({ space, offset, size }: Kept): boolean {
    const { msix = 0, table = 0 } = this.described ?? {}
    if (!(offset >= 0) || offset % size !== 0) return false
    if (space === CONFIG_SPACE) return offset < PCI_HEADER_SIZE || (msix > 0 && offset - (offset % 4) === msix)
    return size === 4 && offset < table && ((this.space?.command ?? 0) & PCI_COMMAND_MEMORY) !== 0
  }

  private moved(): void {
    let moved = false
    for (const bar of this.bars) if (bar?.update() === true) moved = true
    if (moved && this.onWindows !== null) observe(this.onWindows, undefined)
  }
}

function isFunction(said: unknown): said is DescribedFunction {
  const { bars, doorbells, msix, table } = (said ?? {}) as Partial<DescribedFunction>
  return (
    Array.isArray(bars) &&
    bars.length === PCI_BARS &&
    bars.every((bar, i) => bar === null || (isBar(bar ?? {}) && !(bar.wide && bars[i + 1] !== null))) &&
    isCount(doorbells) &&
    isCount(msix) &&
    msix < PCI_CONFIG_SIZE &&
    isCount(table)
  )
}

function isBar({ kind, size, wide, prefetchable }: DescribedBar): boolean {
  const least = kind === 'io' ? 4 : MIN_MEMORY_BAR
  return (
    (kind === 'io' || kind === 'memory') &&
    isCount(size) &&
    size >= least &&
    Number.isInteger(Math.log2(size)) &&
    typeof wide === 'boolean' &&
    typeof prefetchable === 'boolean' &&
    (wide || size < 2 ** 32)
  )
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
