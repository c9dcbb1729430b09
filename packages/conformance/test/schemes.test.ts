import { directScheme } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { bouncingScheme, describeDmaScheme, exactScheme } from '../src/index.ts'

import { codec, sealingScheme } from './support/sealing.ts'

const functions = { describe, test, expect }

describeDmaScheme(functions, () => directScheme())
describeDmaScheme(functions, () => directScheme({ busOffset: 0x7_0000_0000 }), { name: 'direct with a bus offset' })
describeDmaScheme(functions, () => exactScheme())
describeDmaScheme(functions, () => exactScheme({ granule: 4096 }), { name: 'exact, pages' })
describeDmaScheme(functions, () => exactScheme({ granule: 16, staleEntries: 8 }), { name: 'exact, deferred' })
describeDmaScheme(functions, () => bouncingScheme())
describeDmaScheme(functions, () => bouncingScheme({ clear: false }), { name: 'bouncing, not cleared' })
describeDmaScheme(functions, () => bouncingScheme({ clear: false, shared: true }), {
  name: 'bouncing, shared, not cleared',
})
describeDmaScheme(functions, () => sealingScheme(), { name: 'sealing', codec })
