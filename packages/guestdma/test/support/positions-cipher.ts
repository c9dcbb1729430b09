import { BounceBackend, type BouncePool, bouncePoolFact, sharedPoolScheme } from '@guestdma/bounce'
import { ForwardingBackend } from '@guestdma/conformance'
import {
  DMA_EXHAUSTED,
  DMA_OK,
  DMA_TOO_LONG,
  DMA_UNMAPPABLE,
  type DmaLimits,
  DmaMappings,
  type DmaScheme,
  type DmaStatus,
  type DmaTraits,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { GuestMemory, guestAddress } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'

// The key's period: a disk's buffers begin at sectors, so what was written one way reads back the other.
const PERIOD = 512
const STAGING_BYTES = 16 << 10
const STAGING = 64
const PRIVATE = 0x1_0000

/** A keystream that hides text from a test and from nobody else. */
const KEY = Uint8Array.from({ length: PERIOD }, (_, i) => (i * 167 + (i >> 3) * 59 + 91) & 0xff)

const rotate = (byte: number, left: number): number => ((byte << left) | (byte >> (8 - left))) & 0xff
const encrypt = (byte: number, i: number): number => rotate(byte ^ KEY[i % PERIOD], 3)
const decrypt = (byte: number, i: number): number => rotate(byte, 5) ^ KEY[i % PERIOD]

/** What the device is given for these bytes, the first of which is the first of a buffer. */
export function enciphered(bytes: Uint8Array): Uint8Array {
  return bytes.map(encrypt)
}

/**
 * A third party's backend: payload is enciphered in memory that the device never sees, and only then copied to where it
 * does. Rings and cells stay as they are.
 */
class CipherBackend extends ForwardingBackend {
  private readonly memory: GuestMemory
  private readonly staging: GuestMemory
  // A row for each span of the staging memory.
  private readonly rows = new DmaMappings(STAGING)
  private readonly spare = Array.from({ length: STAGING }, (_, i) => i)

  constructor(memory: GuestMemory, pool: BouncePool) {
    const length = STAGING * STAGING_BYTES
    const staging = new GuestMemory([{ base: PRIVATE, length, memory: new ArrayBuffer(length) }])
    super(new BounceBackend({ name: 'cipher', memory: staging, pool }))
    this.memory = memory
    this.staging = staging
  }

  override get traits(): DmaTraits {
    return { ...super.traits, payload: 'transformed' }
  }

  override get limits(): DmaLimits {
    return { ...super.limits, maxMappingLength: STAGING_BYTES, maxLiveMappings: STAGING, syncGranule: 1 }
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const length = m.length[row]
    if (!this.memory.contains(m.guest, row, length)) return DMA_UNMAPPABLE
    if (length > STAGING_BYTES) return DMA_TOO_LONG
    const own = this.spare.pop()
    if (own === undefined) return DMA_EXHAUSTED
    const { rows, inner } = this
    rows.guest[own] = PRIVATE + own * STAGING_BYTES
    rows.length[own] = length
    rows.direction[own] = m.direction[row]
    if ((m.direction[row] & TO_DEVICE) !== 0) this.conceal(m, row, own, 0, length)
    const status = inner.map(rows, own)
    if (status !== DMA_OK) {
      this.spare.push(own)
      return status
    }
    m.device[row] = rows.device[own]
    m.deviceLength[row] = length
    m.token[row] = own
    return DMA_OK
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const own = m.token[row]
    const status = this.inner.unmap(this.rows, own, written)
    if ((m.direction[row] & FROM_DEVICE) !== 0) this.reveal(m, row, own, 0, Math.min(written, m.length[row]))
    this.spare.push(own)
    return status
  }

  override syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    const own = m.token[row]
    this.conceal(m, row, own, offset, length)
    return this.inner.syncForDevice(this.rows, own, offset, length)
  }

  override syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    const own = m.token[row]
    const status = this.inner.syncForCpu(this.rows, own, offset, length)
    this.reveal(m, row, own, offset, length)
    return status
  }

  private conceal(m: DmaMappings, row: number, own: number, offset: number, length: number): void {
    const plain = this.memory.read(guestAddress(m.guest[row] + offset), length)
    const hidden = plain.map((byte, i) => encrypt(byte, offset + i))
    this.staging.write(guestAddress(this.rows.guest[own] + offset), hidden)
  }

  private reveal(m: DmaMappings, row: number, own: number, offset: number, length: number): void {
    const hidden = this.staging.read(guestAddress(this.rows.guest[own] + offset), length)
    const plain = hidden.map((byte, i) => decrypt(byte, offset + i))
    this.memory.write(guestAddress(m.guest[row] + offset), plain)
  }
}

/** A pool in guest RAM whose payload the device cannot read: for disks, to whom payload is opaque. */
export function cipherScheme(): DmaScheme {
  const pool = sharedPoolScheme({ size: 1 << 20 })
  return {
    id: 'cipher',
    install: (platform) => pool.install(platform),
    provider: {
      id: 'cipher',
      reach: 'pool',
      assess: (offer) =>
        offer.fact(bouncePoolFact) === undefined
          ? { fit: 'unusable', why: 'the platform has no pool for this device' }
          : {
              fit: 'usable',
              accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM).and(offer.offered),
              why: 'the device gets payload that it cannot read',
            },
      create: (offer) => new CipherBackend(offer.memory, offer.fact(bouncePoolFact) as BouncePool),
    },
  }
}
