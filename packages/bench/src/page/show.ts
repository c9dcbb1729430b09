import type { BenchReport } from '../contract/result.ts'
import { linePicture } from './cost-pictures.ts'
import { renderCsv } from './csv.ts'
import { absent, choice, element, paragraph, section, table } from './elements.ts'
import { type Figure, figureOf } from './figures.ts'
import { headlinePicture, headlineWorks } from './headline.ts'
import { scalePictures } from './other-pictures.ts'
import type { Picture } from './picture.ts'
import { showModel } from './show-model.ts'
import { everySection, exposureSection } from './show-tables.ts'
import { linesOf } from './slices.ts'
import { threadPictures } from './thread-pictures.ts'

/** Shows a report in a page, in place of what is in `place`. */
export function showReport(place: HTMLElement, report: BenchReport): void {
  const document = place.ownerDocument
  const figures: Figure[] = []
  const figure = (): Figure => {
    const made = figureOf(document)
    figures.push(made)
    return made
  }
  const model = showModel(document, report, figure)
  const sections = [
    headlineSection(document, report, figure),
    model.claims,
    costSection(document, report, figure),
    model.prices,
    model.overcommit,
    threadsSection(document, report, figure),
    scaleSection(document, report, figure),
    exposureSection(document, report),
    everySection(document, report),
    meaningSection(document),
    environmentSection(document, report),
  ]
  place.replaceChildren(
    element(document, 'a', { class: 'skip', href: '#headline' }, 'To the first picture'),
    header(document, report, sections),
    element(document, 'main', {}, ...sections),
    footer(document),
  )
  // Pictures know their width only now.
  for (const one of figures) one.redraw()
  model.update()
  new ResizeObserver(() => {
    for (const one of figures) one.redraw()
  }).observe(place)
}

type MakeFigure = () => Figure

function header(document: Document, report: BenchReport, sections: readonly HTMLElement[]): HTMLElement {
  const { environment, complete, failures, shard, results } = report
  const { node, cpu, cores, date } = environment
  const links = sections.map((one) =>
    element(
      document,
      'li',
      {},
      element(document, 'a', { href: `#${one.id}` }, one.querySelector('h2')?.textContent ?? one.id),
    ),
  )
  const missing = complete
    ? []
    : [
        element(
          document,
          'p',
          { class: 'partial', role: 'note' },
          `This report is PARTIAL: cases are missing.${failures.length === 0 ? '' : ` ${failures.length} failed, and are listed under “Environment”.`}`,
        ),
      ]
  const part = shard === undefined ? '' : ` Part ${shard.index} of ${shard.of}.`
  return element(
    document,
    'header',
    {},
    element(document, 'h1', {}, 'What each DMA scheme costs, and what it still exposes'),
    ...missing,
    paragraph(
      document,
      `${results.length.toLocaleString('en')} results of ${date.slice(0, 10)}, measured on ${cpu} (${cores} cores) under Node ${node}.${part} Driver and device run in one process, so a time is a whole round trip; compare ratios within this report.`,
    ),
    downloads(document, report),
    element(document, 'nav', { 'aria-label': 'contents' }, element(document, 'ol', {}, ...links)),
  )
}

function downloads(document: Document, report: BenchReport): HTMLElement {
  const link = (name: string, type: string, text: string): HTMLElement =>
    element(
      document,
      'a',
      { href: URL.createObjectURL(new Blob([text], { type })), download: `guestdma-bench.${name}` },
      `Download ${name.toUpperCase()}`,
    )
  return element(
    document,
    'p',
    { class: 'downloads' },
    link('json', 'application/json', `${JSON.stringify(report, null, 2)}\n`),
    link('csv', 'text/csv', renderCsv(report)),
  )
}

function headlineSection(document: Document, report: BenchReport, make: MakeFigure): HTMLElement {
  const title = 'Cost against exposure'
  const works = headlineWorks(report)
  if (works.length === 0) {
    const why =
      report.exposure === undefined
        ? 'Exposure was not measured. The option --attack measures it.'
        : 'No attacked case was measured with the same scheme, mode and size beside direct.'
    return section(document, 'headline', title, absent(document, why))
  }
  const shown = make()
  shown.show(headlinePicture(works[0]))
  return section(
    document,
    'headline',
    title,
    paragraph(
      document,
      'Cost is the measured time of one operation, divided by that of direct in the same mode. Exposure is what a hostile device reached although it was not lent, in bytes on average over time. A point has cost and exposure of one scheme in one mode, and never of two.',
    ),
    choice(
      document,
      'Work',
      works.map(({ name }) => name),
      (i) => shown.show(headlinePicture(works[i])),
    ),
    shown.node,
    paragraph(
      document,
      'A time here is that of our code in one process: what an exit, a wait or an access across PCIe would add is modelled below, in columns of its own. In mode pool the payload stays in buffers that the device always sees, so it is not copied, and the device can change it while it is read.',
    ),
  )
}

function costSection(document: Document, { results }: BenchReport, make: MakeFigure): HTMLElement {
  const lines = (along: 'bytes' | 'batch', none: string): HTMLElement[] => {
    const slices = linesOf(results, along)
    if (slices.length === 0) return [absent(document, none)]
    const shown = make()
    shown.show(linePicture(slices[0], along))
    const names = slices.map(({ name, results: found }) => `${name} (${found.length} results)`)
    return [choice(document, 'Measured for', names, (i) => shown.show(linePicture(slices[i], along))), shown.node]
  }
  return section(
    document,
    'cost',
    'Cost, measured',
    paragraph(
      document,
      'One process for each scheme, ring and mode; the median over many rounds. A run measures a selection of all combinations, so some lines have fewer points than others. The option --full measures all of them.',
    ),
    ...lines('bytes', 'No scheme was measured at two sizes with all else the same.'),
    ...lines('batch', 'No scheme was measured with two batches with all else the same.'),
  )
}

function threadsSection(document: Document, { threads }: BenchReport, make: MakeFigure): HTMLElement {
  const title = 'Two cores'
  if (threads === undefined || threads.length === 0)
    return section(
      document,
      'two-cores',
      title,
      absent(document, 'Not measured here: it is part of a run of all, in the repository of guestdma.'),
    )
  return section(
    document,
    'two-cores',
    title,
    ...threadPictures(threads).map((picture) => {
      const shown = make()
      shown.show(picture)
      return shown.node
    }),
    paragraph(
      document,
      'The latency is from the call that sends one frame to its completion, one frame at a time. No latency on two cores can be below the handshake.',
    ),
  )
}

function scaleSection(document: Document, { scale }: BenchReport, make: MakeFigure): HTMLElement {
  const title = 'Scale'
  if (scale === undefined || scale.length === 0)
    return section(
      document,
      'scale',
      title,
      absent(document, 'Not measured here: it is part of a run of all, in the repository of guestdma.'),
    )
  const pictures = scalePictures(scale)
  return section(document, 'scale', title, gridOf(document, pictures, make))
}

/** Small pictures, side by side where there is room. */
function gridOf(document: Document, pictures: readonly Picture[], make: MakeFigure): HTMLElement {
  const nodes = pictures.map((picture) => {
    const shown = make()
    shown.show(picture)
    return shown.node
  })
  return element(document, 'div', { class: 'grid' }, ...nodes)
}

const MEANINGS: readonly (readonly [string, string])[] = [
  [
    'A measured time',
    'It is the time of our TypeScript in one process: driver, scheme, device and driver again. It is not the time of Linux or of a VMM, and no exit, no interrupt and no bus is in it.',
  ],
  [
    'A ratio of two measured times',
    'It tells what a scheme adds to the same work in the same code. It carries over to other machines better than a time does.',
  ],
  [
    'A counter',
    'It is exact and the same on every machine: how often a scheme copies, asks, waits or touches the memory of a device.',
  ],
  [
    'A modelled time',
    'It is a counter times a price. Prices come from papers or are assumed, and each has its source. The model is linear: it knows no full queue and no link that others use.',
  ],
  [
    'A modelled column',
    'It is one cause. No column includes another, nothing measured is in one, and columns are not added up.',
  ],
  [
    'Over-commit',
    'It is a simulation with a seed and a simple scheduler. It shows an effect and its order, and predicts no machine.',
  ],
  [
    'Exposure',
    'It is what a device reached that owns nothing but its port, with our drivers and schemes. It says nothing of a device that attacks through data that it was lent.',
  ],
]

function meaningSection(document: Document): HTMLElement {
  const list = MEANINGS.flatMap(([what, text]) => [
    element(document, 'dt', {}, what),
    element(document, 'dd', {}, text),
  ])
  return section(
    document,
    'meaning',
    'What the figures mean, and what they do not',
    element(document, 'dl', {}, ...list),
  )
}

function environmentSection(document: Document, { environment, failures, schema }: BenchReport): HTMLElement {
  const rows = [...Object.entries(environment), ['schema', schema] as const].map(([name, value]) => [
    name,
    String(value),
  ])
  const failed = failures.map(({ subject, message }) =>
    element(document, 'li', {}, `${Object.values(subject).join(' ')}: ${message}`),
  )
  return section(
    document,
    'environment',
    'Environment',
    table(document, 'Where it was measured', ['what', 'value'], rows),
    ...(failed.length === 0
      ? []
      : [element(document, 'h3', {}, 'What failed'), element(document, 'ul', {}, ...failed)]),
  )
}

function footer(document: Document): HTMLElement {
  return element(
    document,
    'footer',
    {},
    'Written by guestdma-bench. Pictures are drawn by Observable Plot (ISC licence, copyright 2020–2023 Observable, Inc.) and D3 (ISC licence, copyright 2010–2023 Mike Bostock), with what these two need (MIT and ISC licences).',
  )
}
