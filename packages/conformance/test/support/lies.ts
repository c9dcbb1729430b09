import type { DmaBackend, DmaLimits, DmaScheme, DmaTraits } from '@guestdma/dma'
import { FaultyBackend, ForwardingBackend, withBackend } from '../../src/index.ts'

/** For a scheme whose backends are wrapped by {@link FaultyBackend}. */
export function failNext(backend: DmaBackend, call: 'commitMaps' | 'commitUnmaps' | 'free'): void {
  let inner = backend
  while (inner instanceof ForwardingBackend && !(inner instanceof FaultyBackend)) inner = inner.inner
  if (!(inner instanceof FaultyBackend)) throw new TypeError('the backend is not faulty')
  if (call === 'commitMaps') inner.failCommitMaps = 1
  else if (call === 'commitUnmaps') inner.failCommitUnmaps = 1
  else inner.failFree = 1
}

/** The scheme, with a backend that declares other traits and limits than its own. */
export function claiming(scheme: DmaScheme, traits: Partial<DmaTraits>, limits: Partial<DmaLimits> = {}): DmaScheme {
  return withBackend(scheme, (backend) => new Claiming(backend, traits, limits))
}

class Claiming extends ForwardingBackend {
  private readonly claimedTraits: DmaTraits
  private readonly claimedLimits: DmaLimits

  constructor(inner: DmaBackend, traits: Partial<DmaTraits>, limits: Partial<DmaLimits>) {
    super(inner)
    this.claimedTraits = { ...inner.traits, ...traits }
    this.claimedLimits = { ...inner.limits, ...limits }
  }

  override get traits(): DmaTraits {
    return this.claimedTraits
  }

  override get limits(): DmaLimits {
    return this.claimedLimits
  }
}
