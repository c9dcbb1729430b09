// Here, because only private packages may import the suite and every scheme.
import { sharedPoolScheme } from '@guestdma/bounce'
import { describeDmaScheme } from '@guestdma/conformance'
import { describe, expect, test } from 'vitest'

const functions = { describe, test, expect }
const small = { ramBytes: 4 << 20, arenaBytes: 1 << 18 }

describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 20 }), { ...small, name: 'shared-pool' })
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, reserve: 2 }), {
  ...small,
  name: 'shared-pool, small',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 20, per: 'machine' }), {
  ...small,
  name: 'shared-pool of a machine',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 19, clear: 'on-return' }), {
  ...small,
  name: 'shared-pool, cleared on return',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, clear: 'never' }), {
  ...small,
  name: 'shared-pool, never cleared',
})
describeDmaScheme(functions, () => sharedPoolScheme({ size: 1 << 18, clear: 'never', per: 'machine' }), {
  ...small,
  name: 'shared-pool of a machine, never cleared',
})
