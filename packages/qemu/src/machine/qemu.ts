import type { PoolFact } from '@guestdma/dma'
import { type GuestAddress, type GuestMemory, guestAddress, type RegisterBus, SpanAllocator } from '@guestdma/memory'
import type { Peer } from '@guestdma/node'
import type { PciAccess } from '@guestdma/transport'
import { QemuError } from '../protocol/errors.ts'
import type { Qmp, QmpEvent } from '../protocol/qmp.ts'
import type { Qtest } from '../protocol/qtest.ts'
import type { MachineLayout, MachineType } from './layout.ts'
import { type BarWindows, configByPorts, QemuFunction } from './pci-function.ts'

/** The versions that the tests of this package were run against. */
const TRIED = ['7.2']
const PCI_DEVICES = 32
const PCI_FUNCTIONS = 8
/** ECAM: configuration space of a function takes a page. */
const ECAM_SHIFT = 12

/** What {@link Qemu} is made of. */
export interface QemuParts {
  readonly machine: MachineType
  readonly layout: MachineLayout
  readonly peer: Peer
  readonly qtest: Qtest
  readonly qmp: Qmp
  readonly memory: GuestMemory
  readonly ram: Qemu['ram']
  readonly pool: PoolFact | undefined
  /** Unmaps what is shared. */
  release(): void
}

/**
 * A QEMU whose processor stands still and whose devices are driven from here. Accesses to registers throw QemuError
 * `QEMU_LOST` once QEMU is gone; a transport over them then says `TRANSPORT_LOST`.
 */
export class Qemu implements AsyncDisposable {
  readonly machine: MachineType
  /** The guest's memory; what lies in {@link ram} is for drivers. */
  readonly memory: GuestMemory
  /** Guest RAM for rings and buffers. QEMU does not have it where there is a {@link pool}. */
  readonly ram: { readonly base: GuestAddress; readonly length: number }
  /** All of the guest's memory that QEMU has, where the options asked for a pool. */
  readonly pool: PoolFact | undefined
  readonly qtest: Qtest
  /** As `major.minor.micro`. */
  readonly version: string
  /** What may matter and stops nothing: a version that was never tried. */
  readonly warnings: readonly string[]
  private readonly parts: QemuParts
  private readonly functions = new Map<number, QemuFunction>()
  private readonly windows: BarWindows | null
  private closing: Promise<void> | null = null

  constructor(parts: QemuParts) {
    const { machine, layout, qmp, qtest, memory, ram, pool } = parts
    this.parts = parts
    this.machine = machine
    this.memory = memory
    this.ram = ram
    this.pool = pool
    this.qtest = qtest
    this.version = qmp.version
    const tried = TRIED.some((version) => qmp.version.startsWith(`${version}.`))
    this.warnings = tried ? [] : [`QEMU ${qmp.version} was not tried; ${TRIED.join(' and ')} was`]
    const { pci } = layout
    this.windows = pci && {
      low: new SpanAllocator(guestAddress(pci.low.base), pci.low.length, 'the bus below 4 GiB'),
      high: new SpanAllocator(guestAddress(pci.high.base), pci.high.length, 'the bus above 4 GiB'),
    }
  }

  /** The number of QEMU's process. */
  get pid(): number {
    return this.parts.peer.pid
  }

  /**
   * A PCI function on the first bus, with its BARs assigned at the first call.
   *
   * @throws QemuError `QEMU_FUNCTION`, `QEMU_LOST`
   */
  pci(device: number, fn = 0): PciAccess & Pick<QemuFunction, 'bars'> {
    const part = `PCI function ${device}.${fn}`
    const { layout, machine } = this.parts
    if (layout.pci === null || this.windows === null) {
      throw new QemuError('QEMU_FUNCTION', part, `a ${machine} machine has no PCI`)
    }
    if (!isIndex(device, PCI_DEVICES) || !isIndex(fn, PCI_FUNCTIONS)) {
      throw new QemuError('QEMU_FUNCTION', part, 'device is 0 to 31 and function 0 to 7', { device, fn })
    }
    const requester = (device << 3) | fn
    let found = this.functions.get(requester)
    if (found === undefined) {
      const { config } = layout.pci
      const space =
        config === 'ports'
          ? configByPorts(this.qtest, requester)
          : this.qtest.window(config + (requester << ECAM_SHIFT))
      found = new QemuFunction(this.qtest, space, part, this.windows)
      this.functions.set(requester, found)
    }
    return found
  }

  /**
   * Puts the BARs of all functions that {@link pci} returned back where they were, after a reset of the machine.
   *
   * @throws QemuError `QEMU_LOST`
   */
  assignBars(): void {
    for (const found of this.functions.values()) found.restore()
  }

  /**
   * The registers of virtio-mmio slot `index`. QEMU gives its slots to devices from the last one down: the first device
   * is in slot `mmioSlots - 1`.
   *
   * @throws QemuError `QEMU_FUNCTION`
   */
  mmio(index: number): RegisterBus {
    const { mmio } = this.parts.layout
    if (mmio === null || !isIndex(index, mmio.slots)) {
      const most = mmio === null ? 'none' : `0 to ${mmio.slots - 1}`
      const message = `a ${this.machine} machine has slots for virtio-mmio: ${most}`
      throw new QemuError('QEMU_FUNCTION', `virtio-mmio slot ${index}`, message, { index })
    }
    return this.qtest.window(mmio.base + index * mmio.length)
  }

  /** How many slots for virtio-mmio the machine has. */
  get mmioSlots(): number {
    return this.parts.layout.mmio?.slots ?? 0
  }

  /** Executes a command of QMP. Throws QemuError `QEMU_COMMAND`, `QEMU_LOST`. */
  qmp(command: string, args: Readonly<Record<string, unknown>> = {}): unknown {
    return this.parts.qmp.execute(command, args)
  }

  /** The events of QMP since the last call, without waiting. Throws QemuError `QEMU_LOST`. */
  takeEvents(): readonly QmpEvent[] {
    return this.parts.qmp.takeEvents()
  }

  /** What QEMU printed last. */
  output(): string {
    return this.parts.peer.output()
  }

  /** Ends QEMU and unmaps what was shared with it: close drivers first. May be called again. */
  close(): Promise<void> {
    this.closing ??= this.end()
    return this.closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private async end(): Promise<void> {
    const { peer, qtest, qmp, release } = this.parts
    qtest.close()
    qmp.close()
    await peer.close()
    release()
  }
}

function isIndex(value: number, limit: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < limit
}
