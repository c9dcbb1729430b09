import {
  answer,
  type BenchReport,
  causeTable,
  type DeviceMemoryCase,
  markdownTable,
  PROFILE_NAMES,
  parametersOf,
  parameterTable,
  profileList,
} from '@guestdma/bench'

const BYTES = [64, 1514]

/** What docs/cost-model.md quotes: the tables of the model, and its answers for the counts of a report. */
export function modelFigures({ results }: BenchReport): Readonly<Record<string, string>> {
  return {
    'model-causes': causeTable(),
    'model-parameters': parameterTable(),
    'model-profiles': profileList(),
    'model-answers': answersTable(results),
  }
}

function answersTable(results: BenchReport['results']): string {
  const rows = PROFILE_NAMES.flatMap((profile) =>
    answer(results, parametersOf(profile))
      .deviceMemory.cases.filter(({ ring, bytes }) => ring === 'split' && BYTES.includes(bytes))
      .map((one) => {
        const { operation, bytes, cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost } = one
        const both = (cpuOnDevice + deviceOnDevice) / (cpuInHost + deviceInHost)
        const cells = [`\`${profile}\``, operation, bytes, cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost]
        return [...cells.map(shown), times(cpuOnDevice / cpuInHost), times(both), limit(one)]
      }),
  )
  // A report from before these accesses were counted has no answers.
  if (rows.length === 0) return 'The results that are checked in do not count these accesses.'
  const titles = ['profile', 'frame', 'bytes', 'CPU', 'CPU, pool', 'device', 'device, pool', 'CPU', 'both', 'loses']
  return markdownTable(titles, rows)
}

function limit({ mostPerLoad }: DeviceMemoryCase): string {
  return mostPerLoad === null ? 'at any price' : `over ${shown(mostPerLoad)} ns`
}

function times(ratio: number): string {
  return `× ${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio)}`
}

function shown(cell: number | string): string {
  if (typeof cell === 'string') return cell
  return cell < 100 && !Number.isInteger(cell) ? cell.toFixed(1) : Math.round(cell).toLocaleString('en')
}
