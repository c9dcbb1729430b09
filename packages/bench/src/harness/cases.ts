import type { Subject } from '../contract/result.ts'
import { NONE } from '../scenarios/machines.ts'
import { selectPairwise } from './select.ts'

/** Schemes of which whole curves are measured, over sizes and batches. */
const CURVES = ['direct', 'shared-pool', 'on-device', 'virtio-iommu', 'virtio-iommu-lazy']

/** The case that pictures and tables begin with: small packets, in batches. */
export function isHeadline({ driver, operation, bytes, batch, buffers }: Subject): boolean {
  return driver === 'net' && operation !== 'ping-pong' && bytes === 64 && batch === 32 && buffers === 'warm'
}

/** How many cases are measured: all that there are, a covering of them, or those of the headline over split rings. */
export type Extent = 'full' | 'default' | 'quick'

/**
 * The cases that a run measures of all that guests can do.
 *
 * @param own schemes of which curves are measured as well
 */
export function casesFor(extent: Extent, all: readonly Subject[], own: readonly string[] = []): Subject[] {
  // Whatever the mode, the harness does the same.
  const sensible = all.filter(
    ({ backend, mode, ring, buffers }) =>
      backend !== NONE || (mode === 'map' && ring === 'split' && buffers === 'warm'),
  )
  if (extent === 'full') return sensible
  if (extent === 'quick')
    return sensible.filter(
      (subject) => isHeadline(subject) && subject.ring === 'split' && subject.mode !== 'pool-header',
    )
  const curves = new Set([...CURVES, ...own])
  return selectPairwise(sensible, (subject) => isHeadline(subject) || isOnCurve(subject, curves))
}

function isOnCurve(subject: Subject, curves: ReadonlySet<string>): boolean {
  const { driver, operation, backend, mode, ring, bytes, batch, buffers } = subject
  if (mode !== 'map' || ring !== 'split' || buffers !== 'warm') return false
  if (driver === 'blk') return bytes === 512 && (batch === 32 || curves.has(backend))
  if (operation === 'ping-pong') return bytes === 64
  return curves.has(backend) && (bytes === 64 || batch === 32)
}
