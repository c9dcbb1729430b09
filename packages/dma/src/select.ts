import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import type { DmaTraits } from './backend.ts'
import { type CandidateReport, DmaConflictError, DmaError, UnknownSchemeError } from './errors.ts'
import type { PlatformOffer } from './offer.ts'
import type { DmaProvider } from './scheme.ts'

/** What the caller asks for: the best that fits, one scheme, or some in order of preference. */
export type DmaChoice = 'auto' | string | readonly string[]

/** A provider that may be tried, in the order to try. */
export interface Candidate {
  readonly provider: DmaProvider
  readonly accept: FeatureSet
  readonly why: string
}

/** The ladder of candidates, best first, and what was left out and why. Plain data. */
export interface Selection {
  readonly ladder: readonly Candidate[]
  readonly reports: readonly CandidateReport[]
  /** Set where a candidate was left out only because it confines less than the platform allows. */
  readonly downgrade: { readonly refused: string; readonly stronger: string } | undefined
}

/** The bits that only a backend's choice decides; everything else is the driver's. */
export const DMA_FEATURES: FeatureSet = FeatureSet.of(VIRTIO_F_SWIOTLB, VIRTIO_F_ACCESS_PLATFORM)

/** The listed ids of a choice; empty for `auto`. */
export function listedIds(dma: DmaChoice): ReadonlySet<string> {
  return new Set(dma === 'auto' ? [] : typeof dma === 'string' ? [dma] : dma)
}

/**
 * Orders the registered providers for one device. Pure: no device access, the same answer for the same arguments.
 *
 * `auto` tries what is required first and then follows the order of registration; a list is followed as it stands. A
 * device's claim may narrow the choice, never widen it: what this platform would allow a device that offers
 * ACCESS_PLATFORM is the measure, and a provider that confines less is left out unless the caller listed it.
 *
 * @throws UnknownSchemeError for a listed id that is not registered
 * @throws DmaConflictError where two providers are required
 */
export function select(offer: PlatformOffer, providers: readonly DmaProvider[], dma: DmaChoice): Selection {
  const listed = listedIds(dma)
  if (dma !== 'auto' && listed.size === 0)
    throw new DmaError(
      'DMA_EMPTY_CHOICE',
      offer.device,
      "the list of schemes is empty; list at least one, or say 'auto'",
    )
  const known = providers.map((provider) => provider.id)
  for (const id of listed) if (!known.includes(id)) throw new UnknownSchemeError(offer.device, id, known)
  const considered =
    listed.size === 0
      ? providers
      : [...listed].map((id) => providers.find((provider) => provider.id === id) as DmaProvider)

  const assessed = considered.map((provider) => ({ provider, suitability: provider.assess(offer) }))
  const required = assessed.filter(({ suitability }) => suitability.fit === 'required')
  if (required.length > 1)
    throw new DmaConflictError(
      offer.device,
      required.map(({ provider }) => provider.id),
    )
  if (listed.size === 0) assessed.sort((a, b) => rank(a.suitability.fit) - rank(b.suitability.fit))

  const willing: PlatformOffer = {
    ...offer,
    fact: (key) => offer.fact(key),
    offered: offer.offered.or(FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM)),
  }
  const strongest = providers
    .filter((provider) => confines(provider.reach) && provider.assess(willing).fit !== 'unusable')
    .map((provider) => provider.id)[0]

  const ladder: Candidate[] = []
  let downgrade: Selection['downgrade']
  const reports = assessed.map(({ provider, suitability }): CandidateReport => {
    const report = { id: provider.id, fit: suitability.fit, why: suitability.why }
    if (suitability.fit === 'unusable') return report
    if (strongest !== undefined && !confines(provider.reach) && !listed.has(provider.id)) {
      downgrade ??= { refused: provider.id, stronger: strongest }
      return { ...report, outcome: `would confine less than '${strongest}', which this platform allows` }
    }
    if (!confines(provider.reach) && !listed.has(provider.id)) {
      // Nothing confines this device, and one that offers ACCESS_PLATFORM would be refused: so is one that withholds it.
      const { fit, why } = provider.assess(willing)
      if (fit === 'unusable') return { ...report, outcome: `not for a device that offers ACCESS_PLATFORM: ${why}` }
    }
    ladder.push({ provider, accept: suitability.accept.and(offer.offered), why: suitability.why })
    return report
  })
  return { ladder, reports, downgrade }
}

/** Does a reach keep anything from the device? */
function confines(reach: DmaTraits['reach']): boolean {
  return reach !== 'all'
}

function rank(fit: 'required' | 'usable' | 'unusable'): number {
  return fit === 'required' ? 0 : 1
}
