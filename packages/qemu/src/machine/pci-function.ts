import { hex, type RegisterBus, type SpanAllocator } from '@guestdma/memory'
import { assignBars, type PciAccess, type PciBar } from '@guestdma/transport'
import { QemuError } from '../protocol/errors.ts'
import type { Qtest } from '../protocol/qtest.ts'

const PAGE = 4096
const CONFIG_ADDRESS = 0xcf8
const CONFIG_DATA = 0xcfc
const CONFIG_ENABLE = 0x8000_0000
/** Alignment that {@link SpanAllocator} can give. */
const ALIGN_LIMIT = 2 ** 30
const VENDOR_NONE = 0xffff

/** Addresses for BARs. */
export interface BarWindows {
  readonly low: SpanAllocator
  readonly high: SpanAllocator
}

/** One PCI function of a machine, with its BARs assigned as firmware would have done it. */
export class QemuFunction implements PciAccess {
  readonly config: RegisterBus
  readonly bars: readonly PciBar[]
  private readonly qtest: Qtest

  /**
   * @throws QemuError `QEMU_FUNCTION` where there is no such function, or no room for its BARs; `QEMU_LOST`
   */
  constructor(qtest: Qtest, config: RegisterBus, part: string, windows: BarWindows) {
    this.qtest = qtest
    this.config = config
    if ((config.read(0, 2) & VENDOR_NONE) === VENDOR_NONE) {
      throw new QemuError('QEMU_FUNCTION', part, 'the machine has no such function')
    }
    this.bars = assignBars(this, ({ kind, size, is64 }) => {
      // No driver here uses ports: a transitional device is driven by its modern interface.
      if (kind === 'io') return 0
      // BARs on pages of their own, so that a hypervisor could map them.
      const bytes = Math.max(size, PAGE)
      try {
        return (is64 ? windows.high : windows.low).allocate(bytes, Math.min(bytes, ALIGN_LIMIT))
      } catch (cause) {
        const message = `there is no room for a BAR of ${hex(size)} bytes`
        throw new QemuError('QEMU_FUNCTION', part, message, { size, is64 }, { cause })
      }
    })
  }

  /** Assigns the same addresses again, after a reset of the machine took them away. */
  restore(): void {
    assignBars(this, ({ index }) => this.bars.find((bar) => bar.index === index)?.address ?? 0)
  }

  bar(index: number): RegisterBus | null {
    const bar = this.bars.find((bar) => bar.index === index)
    return bar?.kind === 'memory' && bar.place === 'assigned' ? this.qtest.window(bar.address) : null
  }
}

/** Configuration space of the function with this requester ID, by the two ports of a PC. */
export function configByPorts(qtest: Qtest, requester: number): RegisterBus {
  const select = (offset: number): void =>
    qtest.out(CONFIG_ADDRESS, 4, (CONFIG_ENABLE | (requester << 8) | (offset & 0xfc)) >>> 0)
  return {
    read: (offset, size) => {
      select(offset)
      return qtest.in(CONFIG_DATA + (offset & 3), size)
    },
    write: (offset, size, value) => {
      select(offset)
      qtest.out(CONFIG_DATA + (offset & 3), size, value)
    },
  }
}
