import { VirtioIommu } from '@guestdma/iommu'
import { it } from 'vitest'
import { MODES, run, TRANSPORTS } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { mixture, VARIANTS } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'
import { random } from './support/workload.ts'
const orig = VirtioIommu.prototype.queue
VirtioIommu.prototype.queue = function (this: VirtioIommu, d, a) {
  this['cells'].memory.region.refresh()
  this['tails'].memory.region.refresh()
  orig.call(this, d, a)
}

import { onDeviceScheme, pooledIommuScheme, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
const TIGHT = [
  { label: 'pool 768K', make: () => sharedPoolScheme({ size: 768 << 10 }) },
  { label: 'pool 1M reserve 33', make: () => sharedPoolScheme({ size: 1 << 20, reserve: 33 }) },
  { label: 'machine 3M', make: () => sharedPoolScheme({ size: 3 << 20, per: 'machine' }), shared: true },
  { label: 'on-device 768K', make: () => onDeviceScheme({ size: 768 << 10 }), swiotlb: 'required' as const },
  { label: 'simple 768K', make: () => pooledIommuScheme({ size: 768 << 10 }) },
  { label: 'private 768K', make: () => pooledIommuScheme({ size: 768 << 10, privateRam: true }) },
  { label: 'bounce 4k granule 32K', make: () => virtioIommuScheme({ granule: 32768, subGranule: 'bounce' }) },
  { label: 'maxMappings', make: () => virtioIommuScheme({ maxMappings: 260 }) },
  { label: 'bypass boot', make: () => virtioIommuScheme({ bootBypass: true }) },
  { label: 'granule 2', make: () => virtioIommuScheme({ granule: 2, subGranule: 'bounce' }) },
  { label: 'granule 512', make: () => virtioIommuScheme({ granule: 512 }) },
]
it('try', async () => {
  const next = random(Number(process.env.TRYSEED ?? 78))
  const end = performance.now() + 60000
  const bad = new Map<string, string[]>()
  let done = 0
  while (performance.now() < end) {
    const seed = next()
    const script = makeScript(seed, 2 + (next() % 4))
    const reference = expected(script)
    for (const variant of TIGHT) {
      const transport = TRANSPORTS[next() % 2], asking = next() % 2 === 0
      const info = [seed, script.rounds.length, variant.label, transport, asking, script.grows].join(' ')
      const note = (w: string) => { const l = bad.get(variant.label) ?? []; l.push(info + ' ' + w); bad.set(variant.label, l) }
      try {
        const { outcome, wrong } = await run({ script, variants: [variant], transport, mode: 'map', asking })
        if (wrong.length || JSON.stringify(outcome) !== JSON.stringify(reference)) note(wrong.slice(0, 5).join(' | '))
      } catch (e) {
        note((e as Error).message)
      }
      done++
    }
  }
  console.log('done', done)
  for (const [k, v] of bad) console.log(k, v.length, v.slice(0, 3))
}, 300000)
