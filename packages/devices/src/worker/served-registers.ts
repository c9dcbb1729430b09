import type { RegisterBus } from '@guestdma/memory'
import {
  MMIO_INTERRUPT_ACK,
  MSIX_CONTROL,
  MSIX_CONTROL_SIZE_MASK,
  MSIX_ENTRY_BYTES,
  PCI_BAR_PREFETCHABLE,
  PCI_BAR_TYPE_64,
  PCI_BAR0,
  PCI_BARS,
} from '@guestdma/spec'
import type { VirtioDevice } from '../device/virtio-device.ts'
import { MmioRegisters } from '../mmio/mmio-registers.ts'
import { NOTIFY_MULTIPLIER, SWIOTLB_BAR } from '../pci/options.ts'
import { PciFunction } from '../pci/pci-function.ts'
import { doorbellOffset } from '../pci/registers.ts'
import type { BusWindows } from '../ports/bus-windows.ts'
import { INTERRUPTS, LINE } from './mailbox.ts'
import type { DescribedBar, DescribedFunction, WorkerPciOptions } from './messages.ts'
import { type DoorbellLayout, MMIO_LAYOUT, pciLayout } from './register-layout.ts'

/** What a worker answers accesses with. */
export interface ServedRegisters {
  /** By number: the one of mmio, or BARs and configuration space. */
  readonly spaces: readonly (RegisterBus | null)[]
  readonly doorbells: DoorbellLayout
  /** Of a PCI function: what its owner decodes accesses by. */
  readonly described?: DescribedFunction
  /** As a reset of the machine does. */
  reset(): void
}

/** The interrupt line of a device in a worker. A line that rises is told of. */
export class WorkerLine {
  asserted = false
  private readonly words: Int32Array
  private readonly post: (() => void) | null

  /** `post` is called where nobody waits for the word. */
  constructor(words: Int32Array, post: (() => void) | null) {
    this.words = words
    this.post = post
  }

  level(asserted: boolean): void {
    this.asserted = asserted
    Atomics.store(this.words, LINE, asserted ? 1 : 0)
    if (asserted) this.tell()
  }

  tell(): void {
    Atomics.add(this.words, INTERRUPTS, 1)
    if (this.post === null) Atomics.notify(this.words, INTERRUPTS)
    else this.post()
  }
}

export function serveMmio(device: VirtioDevice, line: WorkerLine): ServedRegisters {
  const registers = new MmioRegisters(device, { interrupts: line })
  const bus: RegisterBus = {
    read: (offset, size) => registers.read(offset, size),
    write(offset, size, value) {
      registers.write(offset, size, value)
      // A line that an acknowledgement leaves up stands for an event that came in between.
      if (offset === MMIO_INTERRUPT_ACK && line.asserted) line.tell()
    },
  }
  return { spaces: [bus], doorbells: MMIO_LAYOUT.doorbells, reset: () => registers.reset() }
}

/** `windows`: what the device was given. With `swiotlb` it follows BAR 2, behind which it is. */
export function servePci(
  device: VirtioDevice,
  line: WorkerLine,
  { doorbell: _, swiotlb = false, ...options }: WorkerPciOptions,
  windows: BusWindows,
): ServedRegisters {
  const [window] = windows.windows
  const follow = (): void => {
    const range = pci.range(SWIOTLB_BAR)
    windows.setWindows(range?.enabled === true ? [{ ...window, base: range.address }] : [])
  }
  const pci: PciFunction = new PciFunction(device, {
    ...options,
    interrupts: line,
    ...(swiotlb ? { swiotlb: { window }, onWindows: follow } : {}),
  })
  if (swiotlb) follow()
  const indices = Array.from({ length: PCI_BARS }, (_, i) => i)
  const { msixAt } = pci
  const vectors = msixAt === 0 ? 0 : 1 + (pci.config.read(msixAt + MSIX_CONTROL, 2) & MSIX_CONTROL_SIZE_MASK)
  const at = doorbellOffset(device.config.bytes.length)
  return {
    spaces: [...indices.map((i) => pci.bar(i)), pci.config],
    doorbells: pciLayout(at, options.notifyMultiplier ?? NOTIFY_MULTIPLIER).doorbells,
    described: {
      bars: indices.map((i) => describe(pci, i)),
      doorbells: at,
      msix: msixAt,
      table: vectors * MSIX_ENTRY_BYTES,
    },
    reset: () => pci.reset(),
  }
}

function describe(pci: PciFunction, index: number): DescribedBar | null {
  const range = pci.range(index)
  if (range === null) return null
  const register = pci.config.read(PCI_BAR0 + 4 * index, 4)
  const wide = range.kind === 'memory' && (register & PCI_BAR_TYPE_64) !== 0
  const prefetchable = range.kind === 'memory' && (register & PCI_BAR_PREFETCHABLE) !== 0
  return { kind: range.kind, size: range.size, wide, prefetchable }
}
