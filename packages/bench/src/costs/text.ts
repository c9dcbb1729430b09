import { type DeviceMemoryCase, kindOf, type LazyCase } from '../model/answers.ts'
import { CAUSE_NAMES, CAUSES, type CauseName } from '../model/causes.ts'
import type { ParameterName } from '../model/parameters.ts'
import { type Cell, formatTable, type TextStream, textColumns, wrap } from '../program/table.ts'
import { workOf } from '../reports/text.ts'
import type { CostReport, CostRow, OvercommitRow } from './report.ts'

/** A cost report as text: measured and modelled times in columns of their own, then the answers. */
export function formatCosts(report: CostReport, stream: TextStream = process.stdout): string {
  const columns = textColumns(stream)
  const { profile, notCounted, answers, overcommit } = report
  const say = (text: string): string => wrap(text, columns)
  const head = `Modelled with the profile ${profile}. ns per operation. The measured column is the time of ${report.environment.cpu} under Node ${report.environment.node}, driver and device on one core; a modelled column is what its cause would cost on a real machine. No column includes another, and nothing measured is in a modelled one.`
  return [
    say(head),
    report.complete ? '' : say('The report that was read is PARTIAL: cases are missing.'),
    ...tablesOf(report, stream, columns),
    '\n',
    say(
      'A blank cell: the scheme has nothing of the kind. What each column is computed from is in docs/cost-model.md, and with values and sources in --json.',
    ),
    ...notCounted.map((cause) =>
      say(`not counted here: ${CAUSES[cause].title} (needs ${listed(CAUSES[cause].counters)})`),
    ),
    '\n',
    title('Memory on the device against a pool in host memory', columns),
    deviceMemoryText(answers.deviceMemory, stream, columns),
    '\n',
    title('Lazy against strict', columns),
    lazyText(answers.lazy, stream, columns),
    '\n',
    title('"10 times slower": of what?', columns),
    timesText(report, stream, columns),
    '\n',
    title('Over-commit', columns),
    overcommitText(overcommit, stream, columns),
  ].join('')
}

function title(text: string, columns: number): string {
  return `${wrap(text, columns)}${'-'.repeat(Math.min(columns, text.length))}\n`
}

function tablesOf({ rows, notCounted }: CostReport, stream: TextStream, columns: number): string[] {
  const shown = CAUSE_NAMES.filter((cause) => !notCounted.includes(cause))
  const groups = new Map<string, CostRow[]>()
  for (const row of rows) {
    const work = workOf(row)
    groups.set(work, [...(groups.get(work) ?? []), row])
  }
  const titles = [
    { title: 'backend' },
    { title: 'measured', decimals: 1 },
    ...shown.map((cause) => ({ title: CAUSES[cause].title, decimals: 1 })),
  ]
  return [...groups].map(([work, group]) => {
    const cells = group.map(({ backend, measuredNs, modelled }): Cell[] => [
      backend,
      measuredNs,
      ...shown.map((cause: CauseName) => modelled[cause] ?? ''),
    ])
    return `\n${wrap(work, columns)}${formatTable(titles, cells, stream)}`
  })
}

function deviceMemoryText(
  { cases, parameters }: CostReport['answers']['deviceMemory'],
  stream: TextStream,
  columns: number,
): string {
  if (cases.length === 0) {
    return wrap(
      "No answer: the file has no result of on-device that counts the accesses of each side (driverLoads8 and others). Measure again, for example with bench --scheme on-device --only 'net map warm'.",
      columns,
    )
  }
  const rows = cases.map((one): Cell[] => [
    `${kindOf(one)} ${one.bytes}${one.bytes === one.countedBytes ? '' : '*'}`,
    one.loads,
    one.stores,
    one.cpuOnDevice,
    one.cpuInHost,
    one.deviceOnDevice,
    one.deviceInHost,
    verdictOf(one),
    one.mostPerLoad ?? 'at any',
    one.mostPerStore ?? 'at any',
    one.leastRoundTrip ?? 'never',
  ])
  const titles = [
    { title: 'frame' },
    ...['loads', 'stores', 'CPU', 'CPU, host', 'device', 'device, host'].map((name) => ({ title: name, decimals: 1 })),
    { title: 'on-device' },
    { title: 'loses over ns/load', decimals: 1 },
    { title: 'over ns/store', decimals: 1 },
    { title: 'wins over ns/DMA', decimals: 0 },
  ]
  const won = cases.filter((one) => verdictOf(one) === 'wins').map((one) => `${kindOf(one)} of ${one.bytes}`)
  const verdict =
    won.length === 0
      ? 'With these parameters memory on the device wins at none of these sizes.'
      : `With these parameters memory on the device wins at: ${won.join(', ')}.`
  return [
    formatTable(titles, rows, stream),
    wrap(
      'ns for one frame: accesses of the CPU to rings and payload, and reads of the device, in memory on the device and in a pool of host memory. Copies and clears cost both the same and are left out. Who wins is said of CPU and device together. The last columns: the price of a load, or of a store, above which on-device loses, and that of a DMA round trip above which it wins. A star: not counted at this size; the payload of the nearest counted size was made longer or shorter.',
      columns,
    ),
    wrap(verdict, columns),
    dependsOn(parameters, columns),
  ].join('')
}

function verdictOf({ cpuOnDevice, cpuInHost, deviceOnDevice, deviceInHost }: DeviceMemoryCase): string {
  const [own, host] = [cpuOnDevice + deviceOnDevice, cpuInHost + deviceInHost]
  if (Math.abs(own - host) <= 1e-9 * host) return 'the same'
  return own < host ? 'wins' : 'loses'
}

function lazyText({ cases, parameters }: CostReport['answers']['lazy'], stream: TextStream, columns: number): string {
  if (cases.length === 0)
    return wrap('No answer: the file has no pair of results of virtio-iommu and virtio-iommu-lazy.', columns)
  const rows = cases.map((one: LazyCase): Cell[] => [
    `${kindOf(one)} ${one.bytes}, batch ${one.batch}`,
    one.waitsSaved,
    one.requestsAdded,
    one.saved,
    one.leastWait ?? 'at none',
    one.measuredDearer,
    one.leastWaitMeasured ?? 'at none',
  ])
  const titles = [
    { title: 'frame' },
    { title: 'waits saved', decimals: 3 },
    { title: 'requests added', decimals: 3 },
    { title: 'saves', decimals: 1 },
    { title: 'from a wait of', decimals: 0 },
    { title: 'measured dearer', decimals: 1 },
    { title: 'paid by a wait of', decimals: 0 },
  ]
  return [
    formatTable(titles, rows, stream),
    wrap(
      'For one frame; times are ns. Lazy saves waits and adds requests: "saves" is what that comes to with the wait of the parameters, and "from a wait of" is the wait above which lazy wins in the model. "measured dearer" is how much more time lazy took here, where nobody waits, and the last column is the wait that would pay for it.',
      columns,
    ),
    dependsOn(parameters, columns),
  ].join('')
}

function timesText({ answers }: CostReport, stream: TextStream, columns: number): string {
  const { times } = answers
  const rows = times.map(({ what, times: ratio }): Cell[] => [what, ratio, ratio >= 10 ? '10 or more' : 'below 10'])
  const table = formatTable(
    [{ title: 'memory on the device' }, { title: 'times', decimals: 2 }, { title: '' }],
    rows,
    stream,
  )
  const [over, under] = [true, false].map((more) => times.filter(({ times: ratio }) => ratio >= 10 === more))
  const claim =
    'The claim is that memory on the device "can be 10 times slower than accessing host memory", and worse for small packets (Zhu Lingshan, virtio list, 3 April 2025).'
  const verdict =
    over.length === 0
      ? 'With these parameters it is true of none of these.'
      : `With these parameters it is true of ${over.length} of these, and of ${under.length} it is not.`
  const small = [...new Set(answers.deviceMemory.cases.map(kindOf))].flatMap((kind) => {
    const cases = answers.deviceMemory.cases.filter((one) => kindOf(one) === kind)
    const [first, last] = [cases[0], cases[cases.length - 1]]
    const ratio = (one: DeviceMemoryCase): number => one.cpuOnDevice / one.cpuInHost
    const worse = ratio(first) > ratio(last) ? 'more' : ratio(first) < ratio(last) ? 'less' : 'as much'
    return [
      `${kind}: accesses of the CPU for ${first.bytes} bytes cost ${ratio(first).toFixed(1)} times as much, ${worse === 'as much' ? 'as for' : `which is ${worse} than for`} ${last.bytes} bytes (${ratio(last).toFixed(1)} times).`,
    ]
  })
  const parameters = [...new Set(times.flatMap((one) => one.parameters))]
  return [
    table,
    wrap(claim, columns),
    wrap(verdict, columns),
    ...small.map((text) => wrap(text, columns)),
    dependsOn(parameters, columns),
  ].join('')
}

function overcommitText(
  { rows, seed, perSecondAndCpu }: CostReport['overcommit'],
  stream: TextStream,
  columns: number,
): string {
  if (rows.length === 0) return wrap('No answer: the file has no result of received frames that are mapped.', columns)
  const micro = (ns: number): number => ns / 1000
  const cells = rows.map((row: OvercommitRow): Cell[] => [
    `${row.backend}, device on ${row.deviceOn === 'own-core' ? 'a core of its own' : 'the same cores'}`,
    row.virtualCpus / row.cores,
    row.bounce,
    row.perSecond / row.virtualCpus,
    micro(row.latency.p50),
    micro(row.latency.p99),
    micro(row.latency.p999),
    micro(row.starved),
  ])
  const titles = [
    { title: 'scheme' },
    { title: 'V/P' },
    { title: 'CPU ns/packet', decimals: 1 },
    { title: 'packets/s and CPU' },
    { title: 'p50 us', decimals: 1 },
    { title: 'p99 us', decimals: 1 },
    { title: 'p99.9 us', decimals: 1 },
    { title: 'starved us', decimals: 1 },
  ]
  const [first] = rows
  const causes = [...new Set(rows.flatMap((row) => row.causes))].map((cause) => CAUSES[cause].title)
  const text = `Simulated, with seed ${seed}: ${first.operation} of ${first.bytes} bytes, ${perSecondAndCpu.toLocaleString('en')} packets for each virtual CPU and second, on ${first.cores} cores for one second, in turns of 3 ms. Each virtual CPU always has something else to run. "CPU ns/packet" is the sum of these modelled columns: ${causes.join(', ')}. The device takes ${first.device.toFixed(1)} ns, to move the frame once. "starved" is the longest time for which a virtual CPU did not run.`
  const parameters = [...new Set(rows.flatMap((row) => row.causes.flatMap((cause) => CAUSES[cause].parameters)))]
  return [formatTable(titles, cells, stream), wrap(text, columns), dependsOn(parameters, columns)].join('')
}

function dependsOn(parameters: readonly ParameterName[], columns: number): string {
  return wrap(`Depends on: ${parameters.join(', ')}.`, columns)
}

function listed(counters: readonly string[]): string {
  return counters.length === 1 ? `the counter ${counters[0]}` : `the counters ${counters.join(', ')}`
}
