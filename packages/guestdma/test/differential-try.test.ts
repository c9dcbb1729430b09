import { it } from 'vitest'
import { run } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'

it('try', async () => {
  const out: string[] = []
  for (let seed = 4; seed <= 31; seed++) {
    const script = makeScript(seed, 4)
    if (!script.grows) continue
    const reference = expected(script)
    for (const label of ['shared-pool', 'virtio-iommu lazy, 4 entries']) {
      const { recorder, ...r } = await run({
        script,
        variant: VARIANTS.find((v) => v.label === label)!,
        transport: 'pci',
        mode: 'map',
        asking: seed % 2 === 1,
      })
      out.push(
        [
          seed,
          script.network,
          script.queueSize,
          script.inOrder,
          script.withhold,
          label,
          'resent',
          r.resent,
          'retries',
          r.retries,
          'blocked',
          r.blocked,
          'acc',
          recorder.total((d) => d.accesses),
          'rev',
          recorder.total((d) => d.revokedChecked),
          'vain',
          recorder.total((d) => d.writtenInVain),
          'stale',
          recorder.total((d) => d.staleSeen),
          r.wrong.slice(0, 2),
          JSON.stringify(r.outcome) === JSON.stringify(reference),
        ].join(' '),
      )
    }
  }
  console.log(out.join('\n'))
}, 100000)
