import type { BenchReport, BenchResult } from '../contract/result.ts'
import type { OvercommitRow } from '../costs/report.ts'
import { exposed } from '../exposure/classes.ts'
import { type Answers, type DeviceMemoryCase, kindOf, type LazyCase, timesOf } from '../model/answers.ts'
import { modelRow } from '../model/causes.ts'
import type { Parameters } from '../model/parameters.ts'
import { countedIn } from './all-pictures.ts'
import { figure, scaled, time } from './numbers.ts'

/** A claim of the debate beside what this report has to say of it. */
export interface Claim {
  readonly claim: string
  readonly measured: string
  readonly modelled: string
  readonly limits: string
}

const NOTHING = 'no figure in this report'

/** The claims, each with figures; `answers` and `overcommit` are modelled at `parameters`. */
export function claimsOf(
  report: BenchReport,
  parameters: Parameters,
  answers: Answers,
  overcommit: readonly OvercommitRow[],
): Claim[] {
  const small = smallFrames(report.results)
  const { cases } = answers.deviceMemory
  return [
    {
      claim: 'Memory on the device is up to 10 times slower, worst for small packets.',
      measured: ratios(small, 'on-device', 'shared-pool'),
      modelled: ends(cases)
        .map((one) => `${kindOf(one)} of ${one.bytes} bytes: × ${figure(timesOf(one))}`)
        .join('\n'),
      limits: 'Measured, its memory is RAM. Modelled, against a pool in host memory, CPU and device together.',
    },
    {
      claim: 'A pool in host memory does as well.',
      measured: [
        ratios(small, 'shared-pool', 'direct'),
        ...exposures(report, ['shared-pool', 'default-pool', 'on-device']),
      ]
        .filter((text) => text !== '')
        .join('\n'),
      modelled: winners(cases),
      limits: 'What a pool of all devices leaks to other devices is in the table of exposure, and in no time.',
    },
    {
      claim: 'A virtual IOMMU is enough, and costs little.',
      measured: [ratios(small, 'virtio-iommu', 'shared-pool'), ...exposures(report, ['virtio-iommu'])]
        .filter((text) => text !== '')
        .join('\n'),
      modelled: asking(small, parameters),
      limits:
        'Measured in one process, where a wait for the IOMMU costs nothing. Modelled causes overlap and are not added up.',
    },
    {
      claim: 'A lazy IOMMU is cheaper than a strict one.',
      measured: ratios(small, 'virtio-iommu-lazy', 'virtio-iommu'),
      modelled: smallest(answers.lazy.cases)
        .map((one) => `${kindOf(one)}, batch ${one.batch}: saves ${figure(one.saved)} ns`)
        .join('\n'),
      limits: 'Modelled: what it saves in waits, without what it costs in exposure.',
    },
    {
      claim: 'Bouncing by the CPU hurts where CPUs are over-committed.',
      measured: NOTHING,
      modelled: crowded(overcommit)
        .map(
          ({ backend, perSecond, virtualCpus, latency }) =>
            `${backend}: ${figure(perSecond / virtualCpus)} packets for each CPU and second, p99 ${time(latency.p99)}`,
        )
        .join('\n'),
      limits: 'Simulated, with a scheduler simpler than that of Linux; at the most virtual CPUs for each core.',
    },
  ].map((claim) => ({ ...claim, measured: claim.measured || NOTHING, modelled: claim.modelled || NOTHING }))
}

/** Mapped, warm, split, the size that is the nearest to 64 bytes, and the batch that is the nearest to 32. */
function smallFrames(results: readonly BenchResult[]): BenchResult[] {
  const found = results.filter(
    ({ driver, mode, ring, buffers }) => driver === 'net' && mode === 'map' && ring === 'split' && buffers === 'warm',
  )
  const nearest = (values: readonly number[], wanted: number): number | undefined =>
    [...values].sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted))[0]
  const bytes = nearest(
    found.map((result) => result.bytes),
    64,
  )
  const sized = found.filter((result) => result.bytes === bytes)
  const batch = nearest(
    sized.map((result) => result.batch),
    32,
  )
  return sized.filter((result) => result.batch === batch)
}

function ratios(small: readonly BenchResult[], scheme: string, other: string): string {
  const lines = small
    .filter(({ backend }) => backend === scheme)
    .flatMap(({ operation, nsPerOperation }) => {
      const against = small.find((one) => one.backend === other && one.operation === operation)
      if (against === undefined) return []
      const [ours, theirs] = [nsPerOperation.median, against.nsPerOperation.median]
      return [`${operation}: × ${figure(ours / theirs)} (${figure(ours)} against ${figure(theirs)} ns)`]
    })
  if (lines.length === 0) return ''
  const [{ bytes, batch }] = small
  return [`against ${other}, ${bytes} bytes, batch ${batch}:`, ...lines].join('\n')
}

function exposures({ exposure = [] }: BenchReport, schemes: readonly string[]): string[] {
  return schemes.flatMap((scheme) => {
    const rows = exposure.filter(({ backend, mode }) => backend === scheme && mode === 'map')
    if (rows.length === 0) return []
    const bytes = rows.map((row) => Math.max(...Object.values(exposed(row))))
    return [`${scheme} exposes up to ${scaled(Math.max(...bytes), 'B')}`]
  })
}

/** The smallest frame and the largest one of each kind. */
function ends(cases: readonly DeviceMemoryCase[]): DeviceMemoryCase[] {
  return cases.filter((one, i) => kindOf(one) !== kindOf(cases[i - 1]) || kindOf(one) !== kindOf(cases[i + 1]))
}

function winners(cases: readonly DeviceMemoryCase[]): string {
  if (cases.length === 0) return ''
  const kinds = [...new Set(cases.map(kindOf))]
  return kinds
    .map((kind) => {
      const better = cases.filter((one) => kindOf(one) === kind && timesOf(one) > 1).length
      return `${kind}: the pool is cheaper at ${better} of ${cases.filter((one) => kindOf(one) === kind).length} sizes`
    })
    .join('\n')
}

/** What a virtual IOMMU is asked for, in modelled ns by cause. */
function asking(small: readonly BenchResult[], parameters: Parameters): string {
  return small
    .filter((result) => result.backend === 'virtio-iommu' && countedIn([result]).length > 0)
    .flatMap((result) => {
      const { iommuRequests, iommuWaits } = modelRow(result, parameters)
      if (iommuRequests === null || iommuWaits === null) return []
      return [
        `${result.operation}: requests ${figure(iommuRequests)} ns of the device, waits ${figure(iommuWaits)} ns of the CPU`,
      ]
    })
    .join('\n')
}

/** Lazy cases of the smallest frames, with the smallest batch and the largest one. */
function smallest(cases: readonly LazyCase[]): LazyCase[] {
  const bytes = Math.min(...cases.map((one) => one.bytes))
  const sized = cases.filter((one) => one.bytes === bytes && one.ring === 'split')
  const batches = sized.map((one) => one.batch)
  return sized.filter(({ batch }) => batch === Math.min(...batches) || batch === Math.max(...batches))
}

/** The rows with the most virtual CPUs, with the device on the same cores. */
function crowded(rows: readonly OvercommitRow[]): OvercommitRow[] {
  const shared = rows.filter(({ deviceOn }) => deviceOn === 'shared-cores')
  const most = Math.max(...shared.map(({ virtualCpus }) => virtualCpus))
  return shared.filter(({ virtualCpus }) => virtualCpus === most)
}
