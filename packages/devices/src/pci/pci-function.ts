import { type InterruptSink, observe, type RegisterBus } from '@guestdma/memory'
import {
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  MSIX_CONTROL,
  MSIX_CONTROL_ENABLE,
  MSIX_CONTROL_MASK_ALL,
  PCI_CAP_BAR,
  PCI_CAP_ID,
  PCI_CAP_ID_MSIX,
  PCI_CAP_OFFSET,
  PCI_CAP_SIZE,
  PCI_CFG_CAP_DATA,
  PCI_COMMAND_BUS_MASTER,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMON_BYTES,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SWIOTLB,
} from '@guestdma/spec'
import type { VirtioDevice } from '../device/virtio-device.ts'
import { tellLevel } from '../ports/interrupt-sink.ts'
import { type BarLayout, PciBar, PciMemory, type PciRange } from './bar.ts'
import {
  type BarSpan,
  msixCapability,
  type PciCapability,
  structureSpans,
  virtioCapability,
  virtioCapability64,
  word,
} from './capabilities.ts'
import { PciCommon } from './common-config.ts'
import { PciConfigSpace } from './configuration-space.ts'
import { PciDeviceConfig } from './device-config.ts'
import { pciFault } from './fault.ts'
import { PciMsix } from './msix.ts'
import {
  MSIX_BAR,
  type PciFunctionOptions,
  PORT_BAR,
  pciSettings,
  REGISTERS_BAR,
  SHARED_BAR,
  SWIOTLB_BAR,
} from './options.ts'
import { CONFIG_OFFSET, doorbellOffset, ISR_BYTES, ISR_OFFSET, PciDoorbells, PciRegisters } from './registers.ts'
import { type PciParts, type PciState, restorePci, restorePciConfig, savePci } from './state.ts'

/**
 * A virtio-pci function, not transitional: virtio 1.4 §4.1. It stands before a device as `MmioRegisters` does.
 *
 * A host bridge reads and writes {@link config}, asks {@link range} where a BAR was put (and is told when that changes,
 * by `onWindows`), and sends accesses there to {@link bar}. What a driver must not do is recorded in `device.faults`
 * (with the space that it happened in) and never throws; what PCI lets software write without effect, such as a
 * read-only byte of the header, is not recorded.
 *
 * Interrupts are raised at the end of a `device.poll` only: INTx goes up, and MSI-X messages are sent, also those that
 * a mask or a cleared Bus Master Enable held back. INTx falls when ISR status is read, with Interrupt Disable, with
 * MSI-X enabled, and on reset. Without Bus Master Enable polls do nothing and messages stay pending. A register write
 * that lets an interrupt out, or the device access memory again, calls `onWork` of the device.
 *
 * @example
 * const disk = new BlkDevice({ name: 'disk', port, store })
 * const pci = new PciFunction(disk, { interrupts: plic.line(1) })
 * // ECAM: pci.config.read(offset, size); memory space: pci.range(i), pci.bar(i)?.write(offset, size, value)
 *
 * @throws DeviceError `DEVICE_OPTION` for an option that cannot be, capabilities that do not fit into 192 bytes, and a
 *   device that already has a transport
 */
export class PciFunction {
  declare readonly device: VirtioDevice
  /** The 256 bytes of configuration space, in aligned accesses of 1, 2 and 4 bytes. */
  declare readonly config: RegisterBus

  declare private readonly interrupts: InterruptSink | null
  declare private readonly space: PciConfigSpace
  declare private readonly bars: (PciBar | null)[]
  declare private readonly spans: readonly BarSpan[]
  declare private readonly common: PciCommon
  declare private readonly deviceConfig: PciDeviceConfig
  declare private readonly msix: PciMsix
  /** Where the MSI-X capability is in configuration space; 0 where there is none. */
  declare readonly msixAt: number
  declare private readonly onWindows: (() => void) | null
  private isr = 0
  // After `restore` nobody here knows how the platform restored the line: then both levels are told.
  private line: 'up' | 'down' | 'unknown' = 'down'
  private busMaster = false

  constructor(device: VirtioDevice, options: PciFunctionOptions = {}) {
    const settings = pciSettings(device, options)
    const { multiplier, notifConfigData, vectors, shared } = settings
    const inline = options.notify === 'inline'
    const notifyAt = doorbellOffset(device.config.bytes.length)
    const msix = new PciMsix(device, vectors, MSIX_BAR, () => this.wakeIfDue())
    const deviceConfig = new PciDeviceConfig(device, REGISTERS_BAR, CONFIG_OFFSET)
    const common = new PciCommon(device, REGISTERS_BAR, msix, deviceConfig, notifConfigData)
    const doorbells = new PciDoorbells(device, REGISTERS_BAR, notifyAt, multiplier, notifConfigData, inline)
    const registers = new PciRegisters(device, REGISTERS_BAR, common, deviceConfig, doorbells, () => this.readIsr())
    const layouts: BarLayout[] = [bar(REGISTERS_BAR, notifyAt + doorbells.bytes, registers)]
    const notify = (index: number, offset: number): PciCapability =>
      virtioCapability({
        type: VIRTIO_PCI_CAP_NOTIFY_CFG,
        bar: index,
        offset,
        length: doorbells.bytes,
        extra: word(multiplier),
      })
    const list: PciCapability[] = []
    if (vectors > 0) {
      layouts.push(bar(MSIX_BAR, msix.bytes, msix))
      list.push(msixCapability(vectors, MSIX_BAR, 0, msix.pendingOffset))
    }
    list.push(virtioCapability({ type: VIRTIO_PCI_CAP_COMMON_CFG, length: PCI_COMMON_BYTES }))
    if (options.notifyPort === true) {
      const port = new PciDoorbells(device, PORT_BAR, 0, multiplier, notifConfigData, inline)
      layouts.push({ ...bar(PORT_BAR, port.bytes, port), kind: 'io' })
      list.push(notify(PORT_BAR, 0))
    }
    list.push(
      notify(REGISTERS_BAR, notifyAt),
      virtioCapability({ type: VIRTIO_PCI_CAP_ISR_CFG, offset: ISR_OFFSET, length: ISR_BYTES }),
    )
    const { length } = device.config.bytes
    if (length > 0) list.push(virtioCapability({ type: VIRTIO_PCI_CAP_DEVICE_CFG, offset: CONFIG_OFFSET, length }))
    list.push(virtioCapability({ type: VIRTIO_PCI_CAP_PCI_CFG, extra: [0, 0, 0, 0] }))
    options.sharedMemory?.forEach(({ id, window }, i) => {
      list.push(
        virtioCapability64({
          type: VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
          bar: SHARED_BAR,
          id,
          offset: shared[i].at,
          length: window.length,
        }),
      )
    })
    if (shared.length > 0) {
      const last = shared[shared.length - 1]
      layouts.push(memoryBar(SHARED_BAR, last.at + last.window.length, new PciMemory(device, SHARED_BAR, shared)))
    }
    if (options.swiotlb !== undefined) {
      const { window, capability = true, offset = 0, length: said = window.length } = options.swiotlb
      const memory = new PciMemory(device, SWIOTLB_BAR, [{ at: 0, window }])
      layouts.push(memoryBar(SWIOTLB_BAR, window.length, memory))
      if (capability) {
        list.push(virtioCapability({ type: VIRTIO_PCI_CAP_SWIOTLB, bar: SWIOTLB_BAR, offset, length: said }))
      }
    }
    const capabilities = options.capabilities?.(list) ?? list
    const space = new PciConfigSpace(device, settings.identity, capabilities, {
      written: () => this.written(),
      dataRead: (at) => this.windowRead(at),
      dataWritten: (at) => this.windowWrite(at),
    })
    const msixIndex = capabilities.findIndex(({ bytes }) => bytes[PCI_CAP_ID] === PCI_CAP_ID_MSIX)
    this.device = device
    this.interrupts = options.interrupts ?? null
    this.onWindows = options.onWindows ?? null
    this.space = space
    this.config = space
    this.bars = [null, null, null, null, null, null]
    for (const layout of layouts) this.bars[layout.index] = new PciBar(device, space, layout)
    this.spans = structureSpans(capabilities)
    this.common = common
    this.deviceConfig = deviceConfig
    this.msix = msix
    this.msixAt = vectors > 0 && msixIndex >= 0 ? space.positions[msixIndex] : 0
    if (this.msixAt > 0) space.allow(this.msixAt + MSIX_CONTROL, MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL)
    device.attachTransport({
      usedBuffers: (queue) => {
        // With MSI-X, ISR status is not used for queues (§4.1.5.3).
        if (this.messages) this.msix.request(queue)
        else this.setIsr(this.isr | INTERRUPT_USED_BUFFER)
      },
      configurationChanged: () => {
        if (this.messages) this.msix.request(device.queues.length)
        // This bit is set with MSI-X too (§4.1.4.5.1).
        this.setIsr(this.isr | INTERRUPT_CONFIGURATION)
      },
      settle: () => this.settle(),
      reset: () => {
        this.common.reset()
        this.msix.reset()
        this.setIsr(0)
      },
      mayAccess: () => (space.command & PCI_COMMAND_BUS_MASTER) !== 0,
    })
  }

  /**
   * What is behind BAR `index`: registers, or the memory of a region, whose meter counts each access. Offsets are
   * within the BAR. `null` where there is none, which goes for the upper half of a 64-bit one.
   */
  bar(index: number): RegisterBus | null {
    return this.bars[index] ?? null
  }

  /** Where BAR `index` is now; `null` where there is none. It costs a host bridge nothing to ask at each access. */
  range(index: number): PciRange | null {
    return this.bars[index]?.range ?? null
  }

  /** The function's own state as plain data, beside `DeviceState`; the memory behind its BARs is not in it. */
  save(): PciState {
    return savePci(this.parts(), this.isr)
  }

  /**
   * Restores configuration space alone, and tells `onWindows`. Where the port of the device follows a BAR this comes
   * before `device.restore`, since rings behind that BAR are out of reach until then. Throws `DEVICE_STATE` where the
   * state does not fit, and then changes nothing.
   */
  restoreConfig(state: PciState): void {
    restorePciConfig(this.parts(), state)
    this.written()
  }

  /**
   * Restores what `save` gave to a function that was made with the same options, after `device.restore`. However the
   * platform restored the interrupt line, it is right after the next poll, which `onWork` asks for; a read of ISR status
   * before that lowers it. Throws `DEVICE_STATE` where the state does not fit, and then changes nothing.
   */
  restore(state: PciState): void {
    restorePci(this.parts(), state)
    this.line = 'unknown'
    this.setIsr(state.isr)
    this.written()
    this.device.transportRestored()
  }

  /**
   * For the platform: what a reset of the machine, or of the slot, does to the function and the device behind it. BARs
   * and the command register are 0 and have to be assigned anew.
   */
  reset(): void {
    this.space.reset()
    this.msix.clearTable()
    this.device.systemReset()
    this.written()
  }

  private parts(): PciParts {
    const { device, space, common, deviceConfig, msix } = this
    return { device, space, common, deviceConfig, msix }
  }

  private get msixControl(): number {
    return this.msixAt === 0 ? 0 : this.space.view.getUint16(this.msixAt + MSIX_CONTROL, true)
  }

  /** Whether MSI-X is enabled. */
  private get messages(): boolean {
    return (this.msixControl & MSIX_CONTROL_ENABLE) !== 0
  }

  private readIsr(): number {
    const isr = this.isr
    this.setIsr(0)
    return isr
  }

  private setIsr(value: number): void {
    this.isr = value
    this.lower()
  }

  // The status register follows at once, and so does the line where it falls.
  private lower(): void {
    const pending = this.isr !== 0 && !this.messages
    this.space.interruptStatus = pending
    if (this.line !== 'down' && !(pending && (this.space.command & PCI_COMMAND_INTX_DISABLE) === 0)) this.drive(false)
  }

  // How the registers let an interrupt out, if there is one; the line only where it is not up.
  private get outlet(): 'messages' | 'line' | null {
    const control = this.msixControl
    const { command } = this.space
    if ((control & MSIX_CONTROL_ENABLE) !== 0) {
      // What a mask held back may not go out meanwhile (§3.4.2).
      if (this.device.suspended) return null
      return (control & MSIX_CONTROL_MASK_ALL) === 0 && (command & PCI_COMMAND_BUS_MASTER) !== 0 ? 'messages' : null
    }
    return this.isr !== 0 && this.line !== 'up' && (command & PCI_COMMAND_INTX_DISABLE) === 0 ? 'line' : null
  }

  private settle(): void {
    const { outlet } = this
    if (outlet === 'messages') this.msix.deliver(this.device.port)
    else if (outlet === 'line') this.drive(true)
  }

  // Interrupts go out at the end of a poll, so a poll is due.
  private wakeIfDue(): void {
    const { outlet } = this
    if (outlet === 'line' || (outlet === 'messages' && this.msix.ready)) this.device.wake()
  }

  // Configuration space was written.
  private written(): void {
    this.lower()
    const { busMaster } = this
    this.busMaster = (this.space.command & PCI_COMMAND_BUS_MASTER) !== 0
    // While the device could not access memory, polls found nothing to do, whatever waits.
    if (this.busMaster && !busMaster) this.device.wake()
    else this.wakeIfDue()
    let moved = false
    for (const bar of this.bars) if (bar?.update() === true) moved = true
    if (moved && this.onWindows !== null) observe(this.onWindows, undefined)
  }

  private drive(level: boolean): void {
    this.line = level ? 'up' : 'down'
    tellLevel(this.interrupts, level, this.device)
  }

  // §4.1.4.9.1: a read of pci_cfg_data reads the structure and keeps the bytes.
  private windowRead(at: number): void {
    const { bytes } = this.space
    const length = this.windowLength(at, null)
    const value = length === 0 ? 0 : this.windowBar(at).readInner(this.windowOffset(at), length)
    for (let i = 0; i < (length === 0 ? 4 : length); i++) bytes[at + PCI_CFG_CAP_DATA + i] = value >>> (8 * i)
  }

  private windowWrite(at: number): void {
    const { view } = this.space
    const value = view.getUint32(at + PCI_CFG_CAP_DATA, true)
    const length = this.windowLength(at, value)
    if (length === 0) return
    const written = length === 4 ? value : value & (length === 2 ? 0xffff : 0xff)
    this.windowBar(at).writeInner(this.windowOffset(at), length, written)
  }

  private windowOffset(at: number): number {
    return this.space.view.getUint32(at + PCI_CAP_OFFSET, true)
  }

  private windowBar(at: number): PciBar {
    return this.bars[this.space.bytes[at + PCI_CAP_BAR]] as PciBar
  }

  // The width of the access that the capability at `at` describes, or 0 with a fault where §4.1.4.9.2 forbids it.
  private windowLength(at: number, value: number | null): 0 | 1 | 2 | 4 {
    const { bytes, view } = this.space
    const index = bytes[at + PCI_CAP_BAR]
    const offset = this.windowOffset(at)
    const length = view.getUint32(at + PCI_CAP_SIZE, true)
    const inside = (span: BarSpan): boolean =>
      span.bar === index && offset >= span.offset && offset + length <= span.offset + span.length
    if (
      (length === 1 || length === 2 || length === 4) &&
      offset % length === 0 &&
      this.spans.some(inside) &&
      this.bar(index) !== null
    ) {
      return length
    }
    return pciFault(this.device, 'window', 'config', at + PCI_CFG_CAP_DATA, 4, value)
  }
}

function bar(index: number, bytes: number, inner: RegisterBus): BarLayout {
  return { index, kind: 'memory', bytes, wide: false, prefetchable: false, inner }
}

function memoryBar(index: number, bytes: number, inner: RegisterBus): BarLayout {
  return { index, kind: 'memory', bytes, wide: true, prefetchable: true, inner }
}
