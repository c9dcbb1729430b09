import type { DeviceAddress, MemoryWindow } from '@guestdma/memory'
import type { DmaTraits } from './backend.ts'

declare const factType: unique symbol

/** Names a fact of type `T` that a platform may declare about a device. Compared by identity. */
export interface FactKey<T> {
  readonly name: string
  readonly [factType]?: T
}

/** A key for facts of one's own. Export it beside the scheme that declares the fact. */
export function factKey<T>(name: string): FactKey<T> {
  return { name }
}

/** Memory that the platform set aside for a device to see, with its address on the device's bus. */
export interface PoolFact {
  readonly window: MemoryWindow
  readonly device: DeviceAddress
  /** Its type decides traits and costs, not how it was found. */
  readonly home: DmaTraits['home']
}

/**
 * Memory for bounce buffers that comes with the device (SWIOTLB RFC of April 2025), as the platform set it up. Over PCI
 * the driver finds it by capability (RFC 3/3) and what it finds decides; over mmio this declaration stands for the
 * devicetree (RFC 2/3).
 */
export interface SwiotlbDeclaration extends PoolFact {
  /**
   * What a driver puts into rings: `bus`, addresses where the BAR was put, which is what the RFC says; `offset`, bytes
   * from the start of the region, which is what its reviewers wanted. Platform and driver agree on it beforehand.
   */
  readonly addressing: 'bus' | 'offset'
  /** Does the device offer feature bit 27, and go on without it? `absent`: the region is a hint (RFC 3/3). */
  readonly bit: 'required' | 'offered' | 'absent'
}
