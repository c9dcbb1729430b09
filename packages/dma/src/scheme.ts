import type { BusPort } from '@guestdma/memory'
import type { FeatureSet } from '@guestdma/spec'
import type { DmaBackend, DmaTraits } from './backend.ts'
import { DmaError } from './errors.ts'
import type { PlatformOffer, Suitability } from './offer.ts'
import type { PlatformBuilder } from './platform.ts'

/** Makes backends of one kind. */
export interface DmaProvider {
  readonly id: string
  /**
   * The reach of every backend that it makes: what selection compares, so that it never descends to less confinement.
   */
  readonly reach: DmaTraits['reach']
  /** Pure: the same answer for the same offer, no device access. */
  assess(offer: PlatformOffer): Suitability
  /**
   * After FEATURES_OK was read back and before any ring exists. A failure is a rung of the ladder: reset, next
   * candidate.
   */
  create(offer: PlatformOffer, agreed: FeatureSet): DmaBackend | Promise<DmaBackend>
}

/** What a third party writes: what the platform declares and enforces, and what the driver uses. */
export interface DmaScheme {
  /** The same as `provider.id` and as the name of the backends that it makes. */
  readonly id: string
  readonly provider: DmaProvider
  /**
   * Declares the facts for one device, and returns what enforces them: a function that makes the port through which a
   * device of this machine reaches memory. It is called once, right afterwards, and never for a device that lives
   * elsewhere, which somebody else confines. `install` is called once for each device; `provider.create` is called again
   * after each reset. Ports that `platform` made report their faults and can be cut off; a port of one's own does
   * neither.
   */
  install(platform: PlatformBuilder): () => BusPort
}

/**
 * A platform without a backend of its own: what devices can reach and what is declared of it. For platforms on which
 * the choice is left to the schemes of others.
 */
export function platformScheme(id: string, install: (platform: PlatformBuilder) => () => BusPort): DmaScheme {
  return {
    id,
    provider: {
      id,
      reach: 'all',
      assess: () => ({ fit: 'unusable', why: 'a platform without a backend of its own' }),
      create: () => {
        throw new DmaError(
          'DMA_NO_BACKEND',
          id,
          'this platform has no backend of its own; list a scheme that makes one',
        )
      },
    },
    install,
  }
}
