import { DMA_OK, type DmaMappings, type DmaScheme, type DmaStatus, type DmaTraits, factKey } from '@guestdma/dma'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM } from '@guestdma/spec'
import { BouncingBackend, BouncingSlots, bouncingScheme } from '../../src/index.ts'

const KEY = 0x5a
const DEVICE_BASE = 0x9_0000_0000

/**
 * A bounce buffer that keeps its payload sealed, with a key of one byte: the simplest backend whose payload is
 * transformed.
 */
class SealingBackend extends BouncingBackend {
  private readonly sealed: BouncingSlots
  private readonly payload: DmaTraits['payload']

  constructor(
    memory: ConstructorParameters<typeof BouncingBackend>[0],
    slots: BouncingSlots,
    payload: DmaTraits['payload'],
  ) {
    super(memory, slots)
    this.sealed = slots
    this.payload = payload
    Object.assign(this, { name: 'sealing', traits: { ...this.traits, payload: this.payload } })
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const status = super.map(m, row)
    if (status === DMA_OK) this.turn(m, row, 0, m.length[row])
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    this.turn(m, row, 0, m.length[row])
    return super.unmap(m, row, written)
  }

  override syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.turn(m, row, offset, length)
    const status = super.syncForCpu(m, row, offset, length)
    this.turn(m, row, offset, length)
    return status
  }

  override syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    this.turn(m, row, offset, length)
    const status = super.syncForDevice(m, row, offset, length)
    this.turn(m, row, offset, length)
    return status
  }

  private turn(m: DmaMappings, row: number, offset: number, length: number): void {
    const from = m.device[row] - DEVICE_BASE + offset
    for (let i = from; i < from + length; i++) this.sealed.region.u8[i] ^= KEY
  }
}

const slotsOf = factKey<BouncingSlots>('sealed slots')

/** What the device does with sealed bytes, and with its own. */
export const codec = {
  open: (bytes: Uint8Array): Uint8Array => bytes.map((byte) => byte ^ KEY),
  seal: (bytes: Uint8Array): Uint8Array => bytes.map((byte) => byte ^ KEY),
}

/** The scheme; `payload` is what it claims. */
export function sealingScheme(payload: DmaTraits['payload'] = 'transformed'): DmaScheme {
  const { provider } = bouncingScheme()
  return {
    id: 'sealing',
    provider: {
      ...provider,
      id: 'sealing',
      assess: ({ fact }) =>
        fact(slotsOf) === undefined
          ? { fit: 'unusable', why: 'no slots' }
          : { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'sealed slots' },
      create: ({ memory, fact }) => new SealingBackend(memory, fact(slotsOf) as BouncingSlots, payload),
    },
    install(platform) {
      const slots = new BouncingSlots(64, 512)
      platform.declareFact(slotsOf, slots)
      platform.declareRam(false)
      const { region } = slots
      const at = DEVICE_BASE as Parameters<typeof platform.window>[0]
      return () => platform.window(at, { region, offset: 0, length: region.length })
    },
  }
}
