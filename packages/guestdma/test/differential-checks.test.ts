import { ForwardingBackend, withBackend } from '@guestdma/conformance'
import type { DmaBackend, DmaMappings, DmaScheme } from '@guestdma/dma'
import { type GuestMemory, guestAddress } from '@guestdma/memory'
import { sharedPagesScheme, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { type Finished, run } from './support/differential.ts'
import { expected } from './support/differential-model.ts'
import { anyChoice } from './support/differential-pairs.ts'
import type { Variant } from './support/differential-schemes.ts'
import { makeScript } from './support/differential-script.ts'

const SCRIPT = makeScript(10, 3)
const CHOICE = anyChoice(() => 0)

function broken(make: () => DmaScheme, mode: 'map' | 'pool' = 'map'): Promise<Finished> {
  const variant: Variant = { label: 'broken', make }
  return run({ script: SCRIPT, variants: [variant], transport: 'mmio', mode, choice: CHOICE })
}

/** A scheme whose backends have some members replaced. */
function changed(
  scheme: DmaScheme,
  change: (backend: DmaBackend, memory: GuestMemory) => Partial<DmaBackend>,
): DmaScheme {
  return withBackend(scheme, (backend, { memory }) => {
    const own = Object.getOwnPropertyDescriptors(change(backend, memory))
    return Object.defineProperties(new ForwardingBackend(backend), own)
  })
}

describe('differential: what is wrong is found', () => {
  it('removals that are deferred where they are said not to be', async () => {
    const { wrong } = await broken(() => virtioIommuScheme({ id: 'x', mode: 'lazy', lazy: { entries: 16 } }))
    expect(wrong.join('\n')).toMatch(/is within reach although it was taken back/)
  })

  it('more removals deferred than the scheme says', async () => {
    const make = (): DmaScheme => virtioIommuScheme({ mode: 'lazy', lazy: { entries: 64 } })
    const variant: Variant = { label: 'broken', make, staleEntries: 3 }
    const { wrong } = await run({ script: SCRIPT, variants: [variant], transport: 'mmio', mode: 'map', choice: CHOICE })
    expect(wrong.join('\n')).toMatch(/is within reach although it was taken back/)
  })

  it('a port that grants more than the traits say', async () => {
    const scheme = sharedPagesScheme()
    const { wrong } = await broken(() => ({
      ...scheme,
      install: (platform) => {
        scheme.install(platform)
        return () => platform.everything()
      },
    }))
    expect(wrong.join('\n')).toMatch(/window .* is more than its reach/)
    expect(wrong.join('\n')).toMatch(/out of reach \(granule\)/)
  })

  it('a reach that is said to be smaller than it is', async () => {
    const byte = { ...virtioIommuScheme() }
    const { wrong } = await broken(() =>
      changed(byte, ({ traits, limits }) => ({
        traits: { ...traits, reach: 'byte' },
        limits: { ...limits, granule: 1 },
      })),
    )
    expect(wrong.join('\n')).toMatch(/out of reach \(byte\)/)
  })

  it('a write behind a buffer', async () => {
    const { outcome } = await broken(() =>
      changed(sharedPoolScheme(), (backend, memory) => ({
        unmap: (m: DmaMappings, row: number, written: number) => {
          const status = backend.unmap(m, row, written)
          const behind = guestAddress(m.guest[row] + m.length[row])
          if ((m.direction[row] & 2) !== 0) memory.write(behind, Uint8Array.of(0xa7))
          return status
        },
      })),
    )
    expect(outcome).not.toEqual(expected(SCRIPT))
  })

  it('a byte that is not delivered', async () => {
    const { outcome } = await broken(() =>
      changed(sharedPoolScheme(), (backend) => ({
        unmap: (m: DmaMappings, row: number, written: number) => backend.unmap(m, row, Math.max(0, written - 1)),
      })),
    )
    expect(outcome).not.toEqual(expected(SCRIPT))
  })

  it('what a disposed backend keeps', async () => {
    const { wrong } = await broken(() => changed(sharedPagesScheme(), () => ({ dispose: () => {} })), 'pool')
    expect(wrong.join('\n')).toMatch(/spans of RAM are still in use/)
    expect(wrong.join('\n')).toMatch(/pages are shared/)
  })
})
