import type {
  DmaBackend,
  DmaCounters,
  DmaDirection,
  DmaLimits,
  DmaMappings,
  DmaRegion,
  DmaScheme,
  DmaStatus,
  DmaTraits,
  PlatformOffer,
} from '@guestdma/dma'

/** Passes every call on to another backend: what doubles that change one thing extend. */
export class ForwardingBackend implements DmaBackend {
  readonly inner: DmaBackend

  constructor(inner: DmaBackend) {
    this.inner = inner
  }

  get name(): string {
    return this.inner.name
  }

  get traits(): DmaTraits {
    return this.inner.traits
  }

  get limits(): DmaLimits {
    return this.inner.limits
  }

  get counters(): Readonly<DmaCounters> {
    return this.inner.counters
  }

  alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    return this.inner.alloc(length, align, direction, use)
  }

  free(region: DmaRegion): void {
    this.inner.free(region)
  }

  map(m: DmaMappings, row: number): DmaStatus {
    return this.inner.map(m, row)
  }

  unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    return this.inner.unmap(m, row, written)
  }

  syncForDevice(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    return this.inner.syncForDevice(m, row, offset, length)
  }

  syncForCpu(m: DmaMappings, row: number, offset: number, length: number): DmaStatus {
    return this.inner.syncForCpu(m, row, offset, length)
  }

  commitMaps(): DmaStatus {
    return this.inner.commitMaps()
  }

  commitUnmaps(): DmaStatus {
    return this.inner.commitUnmaps()
  }

  dispose(): void {
    this.inner.dispose()
  }

  whenGone(release: () => void): void {
    this.inner.whenGone?.(release)
  }
}

/**
 * The same scheme with other backends: `replace` is given each one that the scheme makes, and the offer for which it was
 * made, and returns the one that the driver uses.
 */
export function withBackend(
  scheme: DmaScheme,
  replace: (backend: DmaBackend, offer: PlatformOffer) => DmaBackend,
): DmaScheme {
  const { provider } = scheme
  return {
    ...scheme,
    install: (platform) => scheme.install(platform),
    provider: {
      ...provider,
      assess: (offer) => provider.assess(offer),
      create: async (offer, agreed) => replace(await provider.create(offer, agreed), offer),
    },
  }
}
