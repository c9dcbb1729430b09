import { VirtioIommu } from '@guestdma/iommu'
import { it } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'
import { random } from './support/workload.ts'

const orig = VirtioIommu.prototype.queue
VirtioIommu.prototype.queue = function (this: VirtioIommu, d, a) {
  this['cells'].memory.region.refresh()
  this['tails'].memory.region.refresh()
  orig.call(this, d, a)
}
it('try', async () => {
  const next = random(1167553001)
  const runs = VARIANTS.flatMap((variant) =>
    TRANSPORTS.flatMap((transport) => MODES.map((mode) => ({ variant, transport, mode }))),
  )
  const end = performance.now() + 20000
  while (performance.now() < end) {
    const seed = next()
    const rounds = 2 + (next() % 8)
    const script = makeScript(seed, rounds)
    const reference = expected(script)
    const first = next() % runs.length
    for (let i = 0; i < runs.length; i++) {
      const { variant, transport, mode } = runs[(first + i) % runs.length]
      const asking = next() % 2 === 0
      if (!script.grows || !variant.label.includes('lazy')) continue
      try {
        const { outcome, wrong } = await run({ script, variants: [variant], transport, mode, asking })
        if (wrong.length || JSON.stringify(outcome) !== JSON.stringify(reference))
          console.log('BAD', seed, rounds, variant.label, transport, mode, asking, script.grows, wrong.slice(0, 5))
      } catch (e) {
        console.log('THROWN', seed, rounds, variant.label, transport, mode, asking, script.grows, String(e))
        return
      }
    }
  }
}, 100000)
