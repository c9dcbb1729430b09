import { type DmaScheme, directScheme } from '@guestdma/dma'

/** As somebody else would write it down: another name for what `direct` does. */
export function scheme(): DmaScheme {
  const direct = directScheme()
  return { ...direct, id: 'own', provider: { ...direct.provider, id: 'own' } }
}
