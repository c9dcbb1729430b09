import type { DmaRegion } from '@guestdma/dma'
import {
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  type FeatureSet,
  PACKED_DESCRIPTOR_ADDRESS,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_ID,
  PACKED_DESCRIPTOR_LENGTH,
  PACKED_DESCRIPTOR_SIZE,
  PACKED_WRAP_COUNTER,
  RING_EVENT_FLAGS_DESCRIPTOR,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
} from '@guestdma/spec'

/** Where a part of a ring lies. */
type Part = Pick<DmaRegion, 'region' | 'offset'>

/** One descriptor of a chain; NEXT and the marks are the ring's. */
export interface NaiveDescriptor {
  readonly address: number
  readonly length: number
  readonly flags: number
}

export interface NaiveChain {
  readonly id: number
  readonly descriptors: readonly NaiveDescriptor[]
}

export interface NaiveParts {
  readonly ring: Part
  readonly driver: Part
  readonly device: Part
}

/**
 * The driver's half of a packed ring, step by step as virtio 1.4 §2.8.21 and §2.8.22 have it. It believes the device,
 * and its methods can be replaced by wrong ones.
 */
export class NaivePackedRing {
  nextAvailable = 0
  availableWrap = true
  nextUsed = 0
  usedWrap = true
  /** Descriptors of each chain that the device has, in the order of publication. */
  readonly counts = new Map<number, number>()
  readonly size: number
  protected readonly parts: NaiveParts
  private readonly features: FeatureSet

  constructor(size: number, features: FeatureSet, parts: NaiveParts) {
    this.size = size
    this.features = features
    this.parts = parts
  }

  /** What a notification says (§2.9). */
  get position(): number {
    return this.nextAvailable + (this.availableWrap ? PACKED_WRAP_COUNTER : 0)
  }

  /** Makes chains available, all at once. Returns whether the device wants to be notified. */
  publish(chains: readonly NaiveChain[]): boolean {
    const passed: number[] = []
    let first: (() => void) | undefined
    for (const { id, descriptors } of chains) {
      for (const [i, { address, length, flags }] of descriptors.entries()) {
        passed.push(this.position)
        const at = this.nextAvailable
        this.writeDescriptor(at, address, length, id)
        const all = flags | this.marks() | (i < descriptors.length - 1 ? DESCRIPTOR_F_NEXT : 0)
        if (first === undefined) first = () => this.writeFlags(at, all)
        else this.writeFlags(at, all)
        this.step()
      }
      this.counts.set(id, descriptors.length)
    }
    first?.()
    return this.wantsDoorbell(passed)
  }

  /** The next used descriptor. */
  get hasUsed(): boolean {
    return this.isUsed(this.flagsAt(this.nextUsed))
  }

  peekUsed(): { id: number; written: number } | null {
    const flags = this.flagsAt(this.nextUsed)
    if (!this.isUsed(flags)) return null
    const { region, offset } = this.parts.ring
    const at = offset + PACKED_DESCRIPTOR_SIZE * this.nextUsed
    const id = region.view.getUint16(at + PACKED_DESCRIPTOR_ID, true)
    const told = !this.lengthNeedsWrite || (flags & DESCRIPTOR_F_WRITE) !== 0
    const written = told ? region.view.getUint32(at + PACKED_DESCRIPTOR_LENGTH, true) : 0
    return { id, written }
  }

  /** Skips what the used descriptor stands for. Returns the ids: with IN_ORDER there may be several. */
  complete(id: number): number[] {
    const done = this.features.has(VIRTIO_F_IN_ORDER) ? this.upTo(id) : [id]
    for (const each of done) {
      this.nextUsed += this.counts.get(each) ?? 0
      this.counts.delete(each)
    }
    if (this.nextUsed >= this.size) {
      this.nextUsed -= this.size
      this.usedWrap = !this.usedWrap
    }
    return done
  }

  arm(): boolean {
    if (this.features.has(VIRTIO_F_EVENT_IDX)) {
      this.writeEvent(this.nextUsed + (this.usedWrap ? PACKED_WRAP_COUNTER : 0), RING_EVENT_FLAGS_DESCRIPTOR)
    } else {
      this.writeEvent(0, RING_EVENT_FLAGS_ENABLE)
    }
    return this.hasUsed
  }

  disarm(): void {
    this.writeEvent(0, RING_EVENT_FLAGS_DISABLE)
  }

  protected marks(): number {
    return this.availableWrap ? DESCRIPTOR_F_AVAILABLE : DESCRIPTOR_F_USED
  }

  protected step(): void {
    if (++this.nextAvailable < this.size) return
    this.nextAvailable = 0
    this.availableWrap = !this.availableWrap
  }

  protected writeDescriptor(slot: number, address: number, length: number, id: number): void {
    const { region, offset } = this.parts.ring
    const at = offset + PACKED_DESCRIPTOR_SIZE * slot
    region.view.setBigUint64(at + PACKED_DESCRIPTOR_ADDRESS, BigInt(address), true)
    region.view.setUint32(at + PACKED_DESCRIPTOR_LENGTH, length, true)
    region.view.setUint16(at + PACKED_DESCRIPTOR_ID, id, true)
  }

  protected writeFlags(slot: number, flags: number): void {
    const { region, offset } = this.parts.ring
    region.view.setUint16(offset + PACKED_DESCRIPTOR_SIZE * slot + PACKED_DESCRIPTOR_FLAGS, flags, true)
  }

  protected writeEvent(descriptor: number, flags: number): void {
    const { region, offset } = this.parts.driver
    region.view.setUint16(offset, descriptor, true)
    region.view.setUint16(offset + 2, flags, true)
  }

  // Were the wanted descriptor, or any at all, among those that were made available?
  protected wantsDoorbell(passed: readonly number[]): boolean {
    const { region, offset } = this.parts.device
    const flags = region.view.getUint16(offset + 2, true)
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags !== RING_EVENT_FLAGS_DESCRIPTOR) return passed.length > 0
    return passed.includes(region.view.getUint16(offset, true))
  }

  private upTo(id: number): number[] {
    const ids = [...this.counts.keys()]
    return ids.slice(0, ids.indexOf(id) + 1)
  }

  protected get lengthNeedsWrite(): boolean {
    return true
  }

  protected flagsAt(slot: number): number {
    const { region, offset } = this.parts.ring
    return region.view.getUint16(offset + PACKED_DESCRIPTOR_SIZE * slot + PACKED_DESCRIPTOR_FLAGS, true)
  }

  protected isUsed(flags: number): boolean {
    const available = (flags & DESCRIPTOR_F_AVAILABLE) !== 0
    const used = (flags & DESCRIPTOR_F_USED) !== 0
    return available === this.usedWrap && used === this.usedWrap
  }
}
