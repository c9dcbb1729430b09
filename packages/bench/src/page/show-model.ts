import type { BenchReport } from '../contract/result.ts'
import { costReport, type OvercommitRow } from '../costs/report.ts'
import { type Answers, answer } from '../model/answers.ts'
import { CAUSES, modelRow } from '../model/causes.ts'
import { PARAMETER_NAMES, PARAMETERS, valueIn } from '../model/parameters.ts'
import { answered, answerPictures, countedIn, FIRST_PROFILE, modelledSlice, simulatedIn } from './all-pictures.ts'
import { type Claim, claimsOf } from './claims.ts'
import { absent, choice, element, paragraph, section, table } from './elements.ts'
import type { Figure } from './figures.ts'
import { figure as numberText } from './numbers.ts'
import { overcommitPictures } from './other-pictures.ts'
import type { Picture } from './picture.ts'
import { pricesOf } from './prices.ts'
import { slicesOf } from './slices.ts'

/** The parts of the page that prices change. */
export interface ModelParts {
  readonly claims: HTMLElement
  readonly prices: HTMLElement
  readonly overcommit: HTMLElement
  /** Shows everything at the prices that are set. */
  update(): void
}

/** Milliseconds without a change of prices after which the simulation runs: it takes as long as many redraws. */
const QUIET_MS = 250

export function showModel(document: Document, report: BenchReport, make: () => Figure): ModelParts {
  const counted = countedIn(report.results)
  const slices = slicesOf(counted, [])
  let slice = 0
  let waiting: ReturnType<typeof setTimeout> | undefined
  let simulated: readonly OvercommitRow[] = []
  const prices = pricesOf(document, FIRST_PROFILE, () => update())
  const holder = (name: string): HTMLElement => element(document, 'div', { id: name })
  const [claimTable, timesTable, sources, note] = [
    'claim-table',
    'times-table',
    'price-sources',
    'overcommit-note',
  ].map(holder)
  const beside = make()
  const shown = new Map<string, Figure>()
  // A picture of a name stays the same figure, so that an open table stays open.
  const showAll = (place: HTMLElement, pictures: readonly Picture[]): void => {
    for (const picture of pictures) {
      const old = shown.get(picture.name)
      const one = old ?? make()
      if (old === undefined) {
        shown.set(picture.name, one)
        place.append(one.node)
      }
      one.show(picture)
    }
  }
  const answersPlace = holder('answers')
  const overcommitPlace = element(document, 'div', { class: 'grid' })
  const asked = answered(counted)
  const answersNow = (): Answers => answer(asked, prices.parameters)
  const crowd = simulatedIn(counted)
  let simulatedAt = ''
  const update = (): void => {
    const answers = answersNow()
    if (slices.length > 0) beside.show(modelledSlice(slices[slice], prices.parameters))
    showAll(answersPlace, answerPictures(asked, prices.parameters))
    timesTable.replaceChildren(timesOf(document, answers))
    claimTable.replaceChildren(claimsTable(document, claimsOf(report, prices.parameters, answers, simulated)))
    sources.replaceChildren(sourcesTable(document, prices))
    clearTimeout(waiting)
    waiting = setTimeout(simulate, QUIET_MS)
  }
  const simulate = (): void => {
    // Most prices change nothing here.
    const at = JSON.stringify([prices.parameters.copyByte, crowd.map((result) => modelRow(result, prices.parameters))])
    if (at === simulatedAt) return
    simulatedAt = at
    const { overcommit } = costReport({ ...report, results: crowd }, FIRST_PROFILE, prices.parameters)
    simulated = overcommit.rows
    showAll(overcommitPlace, overcommitPictures(simulated))
    note.replaceChildren(overcommitText(document, overcommit))
    claimTable.replaceChildren(claimsTable(document, claimsOf(report, prices.parameters, answersNow(), simulated)))
  }
  const uncounted =
    report.results.length - counted.length - report.results.filter(({ backend }) => backend === 'none').length
  const names = slices.map(({ name, results }) => `${name} (${results.length} schemes)`)
  return {
    claims: section(
      document,
      'claims',
      'The claims',
      paragraph(
        document,
        'What was said on the lists, beside what this report has to say of it. Measured figures are those of small frames that are mapped; modelled ones are at the prices that are set below.',
      ),
      claimTable,
    ),
    prices: section(
      document,
      'model',
      'Cost, modelled',
      paragraph(
        document,
        'Some costs of a real machine are in no measured time. The model applies prices to the exact counters. A slider changes the modelled figures of this page, and no measured one.',
      ),
      prices.node,
      ...(uncounted > 0
        ? [paragraph(document, `${uncounted} results lack the counters that the model needs, and are not modelled.`)]
        : []),
      ...(slices.length === 0
        ? [paragraph(document, 'No result has the counters that the model needs.')]
        : [
            choice(document, 'Results of', names, (i) => {
              slice = i
              update()
            }),
            beside.node,
          ]),
      answersPlace,
      timesTable,
      element(
        document,
        'details',
        { class: 'all' },
        element(document, 'summary', {}, 'Prices, and where they come from'),
        sources,
      ),
    ),
    overcommit: section(document, 'overcommit', 'Over-commit', note, overcommitPlace),
    update,
  }
}

function claimsTable(document: Document, claims: readonly Claim[]): HTMLElement {
  const rows = claims.map(({ claim, measured, modelled, limits }) => [claim, measured, modelled, limits])
  const made = table(document, 'Claims and figures', ['claim', 'measured', 'modelled', 'limits'], rows)
  made.classList.add('claims')
  return made
}

function timesOf(document: Document, { times, deviceMemory }: Answers): HTMLElement {
  if (deviceMemory.cases.length === 0) {
    return paragraph(
      document,
      'Memory on the device is answered for only where the accesses of driver and device were counted: results of on-device, mode map, warm buffers.',
    )
  }
  const rows = times.map(({ what, times: ratio, parameters }) => [
    what,
    ratio,
    ratio >= 10 ? '10 or more' : 'below 10',
    parameters.join(', '),
  ])
  return table(
    document,
    '“10 times slower”: of what?',
    ['memory on the device', 'times', 'the claim', 'depends on'],
    rows,
  )
}

function sourcesTable(document: Document, { profile, parameters }: ReturnType<typeof pricesOf>): HTMLElement {
  const rows = PARAMETER_NAMES.map((name) => {
    const { value, source } = valueIn(profile, name)
    const { unit, meaning } = PARAMETERS[name]
    return [name, parameters[name], unit, meaning, parameters[name] === value ? source : 'Set here.']
  })
  return table(
    document,
    `Prices, profile ${profile}`,
    ['parameter', 'value', 'unit', 'price or size, when', 'source'],
    rows,
  )
}

function overcommitText(
  document: Document,
  { rows, seed, perSecondAndCpu }: ReturnType<typeof costReport>['overcommit'],
): HTMLElement {
  const [first] = rows
  if (first === undefined) {
    return absent(document, 'Not simulated: no result of received frames that are mapped has counters.')
  }
  const causes = [...new Set(rows.flatMap((row) => row.causes))].map((cause) => CAUSES[cause].title)
  return paragraph(
    document,
    `Simulated with seed ${seed}: ${first.operation} of ${first.bytes.toLocaleString('en')} bytes, ${perSecondAndCpu.toLocaleString('en')} packets for each virtual CPU and second, on ${first.cores} cores, in turns of 3 ms. Each virtual CPU always has something else to run. A packet waits until its virtual CPU runs, which then spends the modelled time of its CPU on it: ${causes.join(', ')}. The device takes ${numberText(first.device)} ns for it.`,
  )
}
