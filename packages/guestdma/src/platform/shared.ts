import type { IommuDevice, MmioRegisters, VirtioDevice } from '@guestdma/devices'
import type { FactKey, IommuFault, PoolFact } from '@guestdma/dma'
import type { GuestAddress, GuestDmaError, GuestMemory, SpanAllocator } from '@guestdma/memory'
import type { BarSpace } from './bar-space.ts'

/** An IOMMU of a machine, with the number that its next endpoint gets. */
export interface IommuHost {
  readonly device: IommuDevice
  readonly registers: MmioRegisters
  readonly ownPool: PoolFact | undefined
  next: number
}

/** What all devices of a machine have in common. */
export interface PlatformShared {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly values: Map<FactKey<unknown>, unknown>
  readonly mayBlock: boolean
  /** Where on the bus BARs may lie. */
  readonly bars: BarSpace
  /** Devices of the platform itself: IOMMUs. */
  readonly own: VirtioDevice[]
  /** There is something to pump. */
  readonly wake: () => void
  readonly iommus: Map<FactKey<unknown>, IommuHost>
  /** Runs before any device's driver is brought up. */
  readonly prepare: (() => Promise<void>)[]
  readonly pumps: (() => number)[]
  readonly closes: (() => Promise<void>)[]
  /** Guest RAM that was set aside for several devices: it goes back with the machine, once no device can reach it. */
  readonly reserved: Map<GuestAddress, number>
  /** The longest wait for a device; undefined for the default. */
  readonly deadlineMs: number | undefined
  report(fault: IommuFault): void
  /** An IOMMU failed. */
  failed(device: string, error: GuestDmaError): void
}
