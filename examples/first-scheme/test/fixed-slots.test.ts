import { describeDmaScheme } from '@guestdma/conformance'
import { describe, expect, test } from 'vitest'
import { fixedSlotsScheme } from '../src/fixed-slots.ts'

const functions = { describe, test, expect }

describeDmaScheme(functions, () => fixedSlotsScheme())
describeDmaScheme(functions, () => fixedSlotsScheme({ slots: 16 }), { name: 'fixed-slots, 16 of them' })
