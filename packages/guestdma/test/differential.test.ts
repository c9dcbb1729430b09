import { describe, expect, it } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'

// Chosen for what they contain: a wire with queues of 4, and a wire and a switch with many requests and frames in flight
// at resets. Odd: devices ask their port for each access; even: they use its windows as well.
const SEEDS = [8, 9, 10] as const
const ROUNDS = 4
const SCRIPTS = SEEDS.map((seed) => {
  const script = makeScript(seed, ROUNDS)
  return { script, reference: expected(script), asking: seed % 2 === 1 }
})

describe.each(VARIANTS)('differential: $label', (variant) => {
  const runs = TRANSPORTS.flatMap((transport) => MODES.map((mode) => ({ transport, mode })))
  describe.each(runs)('over $transport, $mode mode', ({ transport, mode }) => {
    it.each(SCRIPTS)('seed $script.seed leaves what the script says', async ({ script, reference, asking }) => {
      const { outcome, wrong, recorder, ...figures } = await run({ script, variant, transport, mode, asking })
      expect(wrong).toEqual([])
      expect(outcome).toEqual(reference)
      // None of it was for nothing.
      expect(figures.resent).toBeGreaterThan(0)
      expect(figures.retries).toBeGreaterThan(0)
      expect(figures.blocked).toBeGreaterThan(0)
      expect(recorder.total((reach) => reach.accesses)).toBeGreaterThan(100)
      expect(recorder.total((reach) => reach.backends)).toBeGreaterThan(recorder.devices.size)
      const [{ reach, streaming }] = recorder.traits
      if (reach === 'all') return
      expect(recorder.total((device) => device.refused)).toBeGreaterThan(5)
      if (mode === 'pool') return
      const tried = recorder.total((device) => (streaming === 'copied' ? device.writtenInVain : device.revokedChecked))
      expect(tried).toBeGreaterThan(100)
      if (variant.staleEntries !== undefined) expect(recorder.total((device) => device.staleSeen)).toBeGreaterThan(0)
    })
  })
})
