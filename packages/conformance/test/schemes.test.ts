import { directScheme } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import {
  bouncingScheme,
  describeDmaScheme,
  exactScheme,
  FaultyBackend,
  sealingCodec,
  sealingScheme,
  withBackend,
} from '../src/index.ts'
import { failNext } from './support/lies.ts'
import { small } from './support/small.ts'

const functions = { describe, test, expect }

describeDmaScheme(functions, () => directScheme(), small)
describeDmaScheme(functions, () => directScheme({ busOffset: 0x7_0000_0000 }), {
  ...small,
  name: 'direct with a bus offset',
})
describeDmaScheme(functions, () => exactScheme(), small)
describeDmaScheme(functions, () => exactScheme({ granule: 4096 }), { ...small, name: 'exact, pages' })
describeDmaScheme(functions, () => exactScheme({ granule: 16, staleEntries: 8 }), { ...small, name: 'exact, deferred' })
for (const granule of [1, 4096])
  describeDmaScheme(functions, () => withBackend(exactScheme({ granule }), (inner) => new FaultyBackend(inner)), {
    ...small,
    name: `exact, whose commits fail, granule ${granule}`,
    failNext,
  })
describeDmaScheme(functions, () => bouncingScheme(), small)
describeDmaScheme(functions, () => bouncingScheme({ clear: false }), { ...small, name: 'bouncing, not cleared' })
describeDmaScheme(functions, () => bouncingScheme({ clear: false, shared: true }), {
  ...small,
  name: 'bouncing, shared, not cleared',
})
describeDmaScheme(functions, () => bouncingScheme({ shared: true }), { ...small, name: 'bouncing, shared' })
describeDmaScheme(functions, () => bouncingScheme({ slots: 8, slotBytes: 4096 }), {
  ...small,
  name: 'bouncing, 8 slots',
})
describeDmaScheme(functions, () => sealingScheme(), { ...small, name: 'sealing', codec: sealingCodec() })
describeDmaScheme(functions, () => sealingScheme({ tag: false }), {
  ...small,
  name: 'sealing, without a tag',
  codec: sealingCodec({ tag: false }),
})
