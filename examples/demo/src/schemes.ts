import { type DmaScheme, directScheme } from '@guestdma/dma'
import { sharedPoolScheme } from 'guestdma'

/** Every scheme that the demo shows, by id. Made anew for each machine. */
export const SCHEMES: Readonly<Record<string, () => DmaScheme>> = {
  direct: () => directScheme(),
  'shared-pool': () => sharedPoolScheme({ size: 4 << 20 }),
}
