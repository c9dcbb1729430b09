import {
  DMA_CORRUPT,
  DMA_OK,
  DMA_UNMAPPABLE,
  type DmaLimits,
  type DmaMappings,
  type DmaScheme,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  factKey,
  TO_DEVICE,
} from '@guestdma/dma'
import { deviceAddress, type GuestMemory } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { BouncingBackend, BouncingSlots } from './bouncing-backend.ts'

export interface SealingOptions {
  /** A tag behind the payload, by which what was changed on its way is found out. Default true. */
  readonly tag?: boolean
}

const KEY = 0x5a
const TAG_BYTES = 4

/** Stands for an authentication tag (FNV-1a with a key): other bytes, or another number of them, give another one. */
function tagOf(sealed: Uint8Array): number {
  let tag = 0x811c_9dc5 ^ KEY ^ sealed.length
  for (const byte of sealed) tag = Math.imul(tag ^ byte, 0x0100_0193)
  return tag >>> 0
}

function putTag(bytes: Uint8Array, at: number): void {
  const tag = tagOf(bytes.subarray(0, at))
  for (let i = 0; i < TAG_BYTES; i++) bytes[at + i] = tag >>> (8 * i)
}

function hasTag(bytes: Uint8Array, at: number): boolean {
  const tag = tagOf(bytes.subarray(0, at))
  for (let i = 0; i < TAG_BYTES; i++) if (bytes[at + i] !== ((tag >>> (8 * i)) & 0xff)) return false
  return true
}

/**
 * What a third party that does not trust the bus may write: a bounce buffer whose payload is sealed, with a key of one
 * byte that hides nothing from anybody, and opened in place, where the device can still change it. With a tag,
 * `deviceLength` exceeds `length`, only whole mappings can be synced, and what does not fit its tag is `DMA_CORRUPT`.
 */
export class SealingBackend extends BouncingBackend {
  private readonly sealed: BouncingSlots
  private readonly tagged: boolean

  constructor(memory: GuestMemory, slots: BouncingSlots, { tag = true }: SealingOptions = {}) {
    super(memory, slots, { overhead: tag ? TAG_BYTES : 0 })
    this.sealed = slots
    this.tagged = tag
    const traits: DmaTraits = { ...this.traits, payload: 'transformed' }
    Object.assign(this, { name: 'sealing', traits })
  }

  override get limits(): DmaLimits {
    const limits = super.limits
    if (!this.tagged) return limits
    // One tag for all bytes of a mapping.
    return { ...limits, syncGranule: 2 ** Math.ceil(Math.log2(limits.maxMappingLength)) }
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const status = super.map(m, row)
    if (status !== DMA_OK) return status
    this.onBus(m, row).fill(0, m.length[row])
    if ((m.direction[row] & TO_DEVICE) !== 0) this.seal(m, row, 0, m.length[row])
    return DMA_OK
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const bytes = Math.min(written, m.length[row])
    const fits = bytes === 0 || (m.direction[row] & FROM_DEVICE) === 0 || this.opens(m, row, bytes)
    if (!fits) this.counters.corrupt++
    else this.turn(m, row, 0, bytes)
    const status = super.unmap(m, row, fits ? bytes : 0)
    return fits ? status : DMA_CORRUPT
  }

  override syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    const status = super.syncForDevice(m, row, offset, length)
    if (status === DMA_OK && (m.direction[row] & TO_DEVICE) !== 0) this.seal(m, row, offset, length)
    return status
  }

  override syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    if (!m.spans(row, offset, length)) return DMA_UNMAPPABLE
    const checks = length > 0 && (m.direction[row] & FROM_DEVICE) !== 0
    if (checks && !this.opens(m, row, m.length[row])) {
      this.counters.syncs++
      this.counters.corrupt++
      return DMA_CORRUPT
    }
    this.turn(m, row, offset, length)
    const status = super.syncForCpu(m, row, offset, length)
    this.turn(m, row, offset, length)
    return status
  }

  private seal(m: DmaMappings, row: number, offset: number, length: number): void {
    this.turn(m, row, offset, length)
    if (this.tagged) putTag(this.onBus(m, row), m.length[row])
  }

  private opens(m: DmaMappings, row: number, bytes: number): boolean {
    return !this.tagged || hasTag(this.onBus(m, row), bytes)
  }

  private turn(m: DmaMappings, row: number, offset: number, length: number): void {
    const bytes = this.onBus(m, row)
    for (let i = offset; i < offset + length; i++) bytes[i] ^= KEY
  }

  private onBus(m: DmaMappings, row: number): Uint8Array {
    const at = m.device[row] - this.sealed.device
    return this.sealed.region.u8.subarray(at, at + m.deviceLength[row])
  }
}

/** The device's half of {@link SealingBackend}: opens what it reads, and seals what it writes. */
export function sealingCodec({ tag = true }: SealingOptions = {}): {
  open(onBus: Uint8Array): Uint8Array
  seal(plain: Uint8Array): Uint8Array
} {
  return {
    // Nothing is believed that does not fit its tag.
    open(onBus) {
      const bytes = tag ? onBus.length - TAG_BYTES : onBus.length
      return tag && !hasTag(onBus, bytes) ? new Uint8Array() : onBus.slice(0, bytes).map((byte) => byte ^ KEY)
    },
    seal(plain) {
      const onBus = new Uint8Array(plain.length + (tag ? TAG_BYTES : 0))
      onBus.set(plain.map((byte) => byte ^ KEY))
      if (tag) putTag(onBus, plain.length)
      return onBus
    },
  }
}

const slotsOf = factKey<BouncingSlots>('sealed slots')

/** The scheme of {@link SealingBackend}. */
export function sealingScheme(options: SealingOptions = {}): DmaScheme {
  return {
    id: 'sealing',
    provider: {
      id: 'sealing',
      reach: 'pool',
      assess: ({ fact }) =>
        fact(slotsOf) === undefined
          ? { fit: 'unusable', why: 'the platform has no slots for this device' }
          : { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'a double for tests' },
      create: ({ memory, fact }) => new SealingBackend(memory, fact(slotsOf) as BouncingSlots, options),
    },
    install(platform) {
      const slots = new BouncingSlots(64, 512)
      platform.declareRam(false)
      platform.declareFact(slotsOf, slots)
      const { region } = slots
      return () => platform.window(deviceAddress(slots.device), { region, offset: 0, length: region.length })
    },
  }
}
