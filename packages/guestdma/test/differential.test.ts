import { describe, expect, it } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { mixture, VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'
import { random } from './support/workload.ts'

// Chosen for what they contain: requests and frames in flight at resets, queues that are full; 9 and 20 have a wire,
// 10 and 23 a switch; 20 and 23 have rings in order and a memory that grows. Odd: devices ask their port for each
// access; even: they use its windows as well.
const SEEDS = [9, 10, 20, 23] as const
const ROUNDS = 4
const SCRIPTS = SEEDS.map((seed) => {
  const script = makeScript(seed, ROUNDS)
  return { script, reference: expected(script), asking: seed % 2 === 1 }
})

describe.each(VARIANTS)('differential: $label', (variant) => {
  const modes = variant.mapOnly === true ? (['map'] as const) : MODES
  const runs = TRANSPORTS.flatMap((transport) => modes.map((mode) => ({ transport, mode })))
  describe.each(runs)('over $transport, $mode mode', ({ transport, mode }) => {
    it.each(SCRIPTS)('seed $script.seed leaves what the script says', async ({ script, reference, asking }) => {
      const { outcome, wrong, recorder, ...figures } = await run({
        script,
        variants: [variant],
        transport,
        mode,
        asking,
      })
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

describe('differential: devices on several schemes in one machine', () => {
  const runs = TRANSPORTS.flatMap((transport) =>
    MODES.flatMap((mode) =>
      SCRIPTS.map(({ script, reference, asking }, i) => {
        const next = random(script.seed + i)
        const variants = mixture((limit) => next() % limit)
        return {
          script,
          reference,
          asking,
          variants,
          transport,
          mode,
          label: variants.map(({ label }) => label).join(' + '),
        }
      }),
    ),
  )
  it.each(runs)('$label, over $transport, $mode mode, seed $script.seed', async ({ reference, ...setup }) => {
    const { outcome, wrong, recorder } = await run(setup)
    expect(wrong).toEqual([])
    expect(outcome).toEqual(reference)
    expect(new Set(recorder.traits).size).toBeGreaterThan(setup.variants.length)
  })
})
