import type { DmaScheme } from '@guestdma/dma'
import { SCHEMES as ALL } from 'guestdma'

export type TransportName = 'mmio' | 'pci'

/** A scheme of the demo, and what a machine over it needs. */
export interface DemoScheme {
  /** Made anew for each machine: a scheme may keep an IOMMU or a pool. */
  make(): DmaScheme
  /** The only transport that the scheme is shown over, and why. */
  readonly only?: { readonly transport: TransportName; readonly why: string }
  /** Listed by name, where a driver would not choose the scheme by itself. */
  readonly listed?: true
}

// Half of it is for receive buffers, and twice 256 of them have room.
const POOL = 4 << 20

const NEEDS: Readonly<Record<string, Omit<DemoScheme, 'make'>>> = {
  'on-device': { only: { transport: 'pci', why: 'memory on a device lies behind a BAR' } },
  // Where an IOMMU can reach all of RAM, a pool behind it is a choice.
  'virtio-iommu-simple': { listed: true },
}

/** Every scheme that the demo shows, by id. */
export const SCHEMES: Readonly<Record<string, DemoScheme>> = Object.fromEntries(
  Object.entries(ALL).map(([id, make]) => [id, { make: () => make({ poolBytes: POOL }), ...NEEDS[id] }]),
)

/** The transport that a scheme is shown over, given the one that was asked for. */
export function transportOf({ only }: DemoScheme, asked: TransportName): TransportName {
  return only?.transport ?? asked
}
