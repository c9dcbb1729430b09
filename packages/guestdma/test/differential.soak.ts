import { expect, inject, it } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { anyChoice } from './support/differential-pairs.ts'
import { mixture, VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'
import { random } from './support/workload.ts'

it('differential: random scripts leave the same bytes over every scheme, transport and mode', async () => {
  const { seed, milliseconds } = inject('soak')
  const next = random(seed)
  const end = performance.now() + milliseconds
  const setups = [
    ...VARIANTS.map((variant) => [variant]),
    ...Array.from({ length: 8 }, () => mixture((n) => next() % n)),
  ]
  const runs = setups
    .flatMap((variants) => TRANSPORTS.flatMap((transport) => MODES.map((mode) => ({ variants, transport, mode }))))
    .filter(({ variants, mode }) => mode === 'map' || !variants.some(({ mapOnly }) => mapOnly === true))
  let done = 0
  while (performance.now() < end) {
    const script = makeScript(next(), 2 + (next() % 8))
    const reference = expected(script)
    // Begins elsewhere each time, so that a short run does not always stop at the same schemes.
    const first = next() % runs.length
    for (let i = 0; i < runs.length && performance.now() < end; i++) {
      const { variants, transport, mode } = runs[(first + i) % runs.length]
      const choice = anyChoice((n) => next() % n)
      const names = variants.map(({ label }) => label).join(' + ')
      const how = `${transport}, ${mode}, ${JSON.stringify(choice)}`
      const label = `seed ${script.seed}, ${script.rounds.length} rounds, over ${names}, ${how}`
      const { outcome, wrong } = await run({ script, variants, transport, mode, choice }).catch((cause: unknown) => {
        throw new Error(label, { cause })
      })
      expect(wrong, label).toEqual([])
      expect(outcome, label).toEqual(reference)
      done++
    }
  }
  expect(done).toBeGreaterThan(0)
})
