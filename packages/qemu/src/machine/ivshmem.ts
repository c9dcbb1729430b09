import type { PoolFact } from '@guestdma/dma'
import { deviceAddress, Region } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { QemuError } from '../protocol/errors.ts'
import type { Qemu } from './qemu.ts'

const MEMORY_BAR = 2
const MIB = 1 << 20

/**
 * Memory on a PCI function of a machine (QEMU's `ivshmem-plain`), which its other devices can reach: stands for a region
 * on the device.
 *
 * @example
 * using region = IvshmemRegion.create({ device: 6, bytes: 4 << 20 })
 * await using qemu = await launchQemu({ machine: 'q35', args: [...region.args] })
 * const fact = region.place(qemu)
 */
export class IvshmemRegion implements Disposable {
  /** For `QemuOptions.args`. */
  readonly args: readonly string[]
  private readonly device: number
  private readonly shared: SharedMemory

  private constructor(device: number, shared: SharedMemory) {
    const id = `ivshmem${device}`
    const file = `mem-path=/proc/${process.pid}/fd/${shared.fd}`
    this.device = device
    this.shared = shared
    this.args = [
      ...['-object', `memory-backend-file,id=${id},size=${shared.bytes},${file},share=on`],
      ...['-device', `ivshmem-plain,memdev=${id},addr=${device}`],
    ]
  }

  /**
   * `device`: its number on the first bus. `bytes`: a power of two, at least 1 MiB.
   *
   * @throws QemuError `QEMU_OPTIONS`; NodeError as `SharedMemory.create`
   */
  static create({ device, bytes }: { readonly device: number; readonly bytes: number }): IvshmemRegion {
    if (!Number.isInteger(Math.log2(bytes)) || bytes < MIB) {
      const message = `${String(bytes)} bytes must be a power of two of at least 1 MiB`
      throw new QemuError('QEMU_OPTIONS', `ivshmem at ${device}`, message, { bytes })
    }
    return new IvshmemRegion(device, SharedMemory.create(`ivshmem at ${device}`, bytes))
  }

  /**
   * The memory and where its BAR lies on the bus. Valid until {@link close}.
   *
   * @throws QemuError `QEMU_FUNCTION` where the machine was started without it; `QEMU_LOST`
   */
  place(qemu: Qemu): PoolFact {
    const bar = qemu.pci(this.device).bars.find(({ index }) => index === MEMORY_BAR)
    if (bar?.place !== 'assigned' || bar.size !== this.shared.bytes) {
      throw new QemuError('QEMU_FUNCTION', this.shared.name, 'the function there has no such BAR', { bar })
    }
    const region = new Region(this.shared.buffer, this.shared.name)
    const window = { region, offset: 0, length: this.shared.bytes }
    return { window, device: deviceAddress(bar.address), home: 'device-memory' }
  }

  /** Unmaps it. Close drivers first. */
  close(): void {
    this.shared.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
