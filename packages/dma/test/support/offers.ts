import { type DeviceAddress, GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import {
  DirectBackend,
  DmaMappings,
  type DmaProvider,
  type DmaTraits,
  type PlatformOffer,
  type PoolFact,
  type Suitability,
} from '../../src/index.ts'

export const BASE = 0x8000_0000
export const BYTES = 1 << 16

/** Guest RAM that is not zero, with its upper half for allocations. */
function machine(): { memory: GuestMemory; ram: SpanAllocator; buffer: ArrayBuffer } {
  const buffer = new ArrayBuffer(0x2000 + BYTES)
  new Uint8Array(buffer).fill(0xa5)
  const memory = new GuestMemory([{ base: BASE, length: BYTES, memory: buffer, offset: 0x2000 }])
  return { memory, ram: new SpanAllocator(guestAddress(BASE + BYTES / 2), BYTES / 2), buffer }
}

export function direct(busOffset = 0): DirectBackend {
  return new DirectBackend({ ...machine(), busOffset })
}

/** One row that lends guest bytes. */
export function row(guest: number, length: number, direction = 1): DmaMappings {
  const m = new DmaMappings(1)
  m.guest[0] = guest
  m.length[0] = length
  m.direction[0] = direction
  return m
}

export interface Facts {
  readonly accessPlatform?: boolean
  readonly ram?: boolean
  readonly iommu?: 'translating' | 'bypass'
  readonly pool?: boolean
  readonly busOffset?: number
  readonly listed?: readonly string[]
}

/** What a driver is offered where these facts hold. */
export function offer(facts: Facts = {}): PlatformOffer {
  const { accessPlatform = false, ram: ramReachable = true, iommu, pool, busOffset = 0, listed = [] } = facts
  const { memory, ram } = machine()
  const fact: PoolFact = {
    window: memory.window(guestAddress(BASE), 4096),
    device: BASE as DeviceAddress,
    home: 'guest-ram',
  }
  return {
    device: 'dev0',
    offered: FeatureSet.of(VIRTIO_F_VERSION_1, ...(accessPlatform ? [VIRTIO_F_ACCESS_PLATFORM] : [])),
    transport: { kind: 'test', transitional: false },
    ramReachable,
    iommu: iommu === undefined ? undefined : { bypass: iommu === 'bypass' },
    pool: pool === true ? fact : undefined,
    region: undefined,
    swiotlbRfc: false,
    busOffset,
    memory,
    ram,
    mayBlock: true,
    enforcedBy: 'trusted-code',
    listed: new Set(listed),
    fact: () => undefined,
  }
}

/** A provider that says the same to every offer, or what a function says. */
export function provider(
  id: string,
  reach: DmaTraits['reach'],
  says: Suitability | ((offer: PlatformOffer) => Suitability),
): DmaProvider {
  return { id, reach, assess: (offer) => (typeof says === 'function' ? says(offer) : says), create: () => direct() }
}

export const usable: Suitability = { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'a reason' }
export const required: Suitability = { fit: 'required', accept: FeatureSet.empty, why: 'a must' }
export const unusable: Suitability = { fit: 'unusable', why: 'a reason against it' }
