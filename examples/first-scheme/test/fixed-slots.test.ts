import { describeDmaScheme } from '@guestdma/conformance'
import { describe, expect, test } from 'vitest'
import { fixedSlotsScheme } from '../src/fixed-slots.ts'

const functions = { describe, test, expect }

describeDmaScheme(functions, () => fixedSlotsScheme())
describeDmaScheme(functions, () => fixedSlotsScheme(), { transport: 'pci', name: 'fixed-slots over pci' })
// Two are the fewest that there may be.
for (const slots of [2, 3, 12, 16])
  describeDmaScheme(functions, () => fixedSlotsScheme({ slots }), { name: `fixed-slots, ${slots} of them` })
