import { DirectBackend, DMA_OK, type DmaMappings, type DmaScheme, type DmaStatus, directScheme } from '@guestdma/dma'
import { SCHEMES, type SchemeSizes, sharedPoolScheme } from 'guestdma'
import type { Schemes } from './machines.ts'

/**
 * What is measured beside the schemes that come with guestdma: a backend that does nothing, pools for all devices
 * together, and what it costs to clear whatever is lent for writing.
 */
export const MEASURED: Schemes = {
  null: () => nullScheme(),
  ...SCHEMES,
  'default-pool': (sizes) => sharedPoolScheme({ ...size(sizes), per: 'machine' }),
  'shared-pool-on-lend': (sizes) => sharedPoolScheme({ ...size(sizes), clear: 'on-lend' }),
}

function size({ poolBytes }: SchemeSizes = {}): { size?: number } {
  return poolBytes === undefined ? {} : { size: poolBytes }
}

/**
 * A backend that checks and counts nothing. Nobody should use it: it tells what drivers, rings and devices cost by
 * themselves.
 */
class NullBackend extends DirectBackend {
  override map(m: DmaMappings, row: number): DmaStatus {
    m.device[row] = m.guest[row]
    m.deviceLength[row] = m.length[row]
    return DMA_OK
  }

  override unmap(): DmaStatus {
    return DMA_OK
  }

  override commitMaps(): DmaStatus {
    return DMA_OK
  }

  override commitUnmaps(): DmaStatus {
    return DMA_OK
  }
}

function nullScheme(): DmaScheme {
  const direct = directScheme()
  return { ...direct, provider: { ...direct.provider, create: (offer) => new NullBackend(offer) } }
}
