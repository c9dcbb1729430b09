import { describe, expect, it, test } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected, type Outcome } from './support/differential-model.ts'
import { cover, pairsAsked, pairsIn } from './support/differential-pairs.ts'
import { mixture, VARIANTS } from './support/differential-schemes.ts'
import { makeScript, type Script } from './support/differential-script.ts'
import { random } from './support/workload.ts'

// Chosen for what they contain: requests and frames in flight at resets, queues that are full; 9 and 20 have a wire,
// 2 and 23 a switch; 20 and 23 have a memory that grows.
const SEEDS = [2, 9, 20, 23] as const
const ROUNDS = 4
const SCRIPTS = new Map(
  SEEDS.map((seed) => {
    const script = makeScript(seed, ROUNDS)
    return [seed, { script, reference: expected(script) }]
  }),
)
const MIXED = 'several schemes'

// Every variant over every transport in every mode, with every script; what else can be chosen is chosen by pairs.
const ROWS = [
  ...VARIANTS.map(({ label, mapOnly = false }) => ({ label, mapOnly })),
  { label: MIXED, mapOnly: false },
].flatMap(({ label, mapOnly }) =>
  TRANSPORTS.flatMap((transport) =>
    (mapOnly ? (['map'] as const) : MODES).flatMap((mode) => SEEDS.map((seed) => ({ label, transport, mode, seed }))),
  ),
)
const RUNS = cover(ROWS)

function setupOf({ seed, transport, mode, ...choice }: (typeof RUNS)[number]) {
  return { ...(SCRIPTS.get(seed) as { script: Script; reference: Outcome }), transport, mode, choice }
}

function titleOf({ label: _, ...row }: (typeof RUNS)[number]): string {
  return Object.entries(row)
    .filter(([, value]) => value !== false)
    .map(([name, value]) => (value === true ? name : `${name} ${value}`))
    .join(', ')
}

test('every pair of a ring feature with another one, a scheme, a transport, a mode and a script occurs', () => {
  const found = new Set(RUNS.flatMap((row) => pairsIn(row)))
  expect([...pairsAsked(ROWS)].filter((pair) => !found.has(pair))).toEqual([])
  expect(pairsAsked(ROWS).size).toBeGreaterThan(500)
})

describe.each(VARIANTS)('differential: $label', (variant) => {
  const runs = RUNS.filter(({ label }) => label === variant.label)
  it.each(runs.map((row) => [titleOf(row), setupOf(row)] as const))(
    '%s: leaves what the script says',
    async (_, { script, reference, transport, mode, choice }) => {
      const { outcome, wrong, recorder, ...figures } = await run({
        script,
        variants: [variant],
        transport,
        mode,
        choice,
      })
      expect(wrong).toEqual([])
      expect(outcome).toEqual(reference)
      // None of it was for nothing.
      expect(figures.resent).toBeGreaterThan(0)
      expect(figures.retries).toBeGreaterThan(0)
      expect(figures.blocked).toBeGreaterThan(0)
      expect([figures.queueResets > 0, figures.suspensions > 0]).toEqual([choice.ringReset, choice.suspend])
      // A device that remembers a window asks for what lies elsewhere.
      expect(recorder.total((reach) => reach.accesses)).toBeGreaterThan(choice.asking ? 100 : 20)
      expect(recorder.total((reach) => reach.backends)).toBeGreaterThan(recorder.devices.size)
      const [{ reach, streaming }] = recorder.traits
      if (reach === 'all') return
      expect(recorder.total((device) => device.refused)).toBeGreaterThan(5)
      if (mode === 'pool') return
      const tried = recorder.total((device) => (streaming === 'copied' ? device.writtenInVain : device.revokedChecked))
      expect(tried).toBeGreaterThan(100)
      if (variant.staleEntries !== undefined) expect(recorder.total((device) => device.staleSeen)).toBeGreaterThan(0)
    },
  )
})

describe('differential: devices on several schemes in one machine', () => {
  const runs = RUNS.filter(({ label }) => label === MIXED).map((row, i) => {
    const next = random(row.seed + i)
    const variants = mixture((limit) => next() % limit)
    const names = variants.map(({ label }) => label).join(' + ')
    return [`${names}, ${titleOf(row)}`, { ...setupOf(row), variants }] as const
  })
  it.each(runs)('%s', async (_, { reference, ...setup }) => {
    const { outcome, wrong, recorder } = await run(setup)
    expect(wrong).toEqual([])
    expect(outcome).toEqual(reference)
    expect(new Set(recorder.traits).size).toBeGreaterThan(setup.variants.length)
  })
})
