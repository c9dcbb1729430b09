import type { BenchReport, BenchResult } from '../contract/result.ts'
import { EXPOSURE_CLASSES, EXPOSURE_MEANINGS, exposed } from '../exposure/classes.ts'
import { absent, choice, element, paragraph, section, table } from './elements.ts'
import { inOrder } from './looks.ts'

/** What was reached, by class of exposure. */
export function exposureSection(document: Document, { exposure }: BenchReport): HTMLElement {
  const title = 'Exposure, by class'
  if (exposure === undefined || exposure.length === 0)
    return section(document, 'exposure', title, absent(document, 'Not measured. The option --attack measures it.'))
  const rows = exposure.flatMap((row) =>
    (['readable', 'writable'] as const).map((how) => [
      row.backend,
      row.mode,
      `${row.driver} ${row.operation}, ${row.ring}, ${row.bytes} bytes`,
      how,
      exposed(row)[how],
      ...EXPOSURE_CLASSES.map((one) => row[how][one]),
      row.beforeAttach[how],
      how === 'readable' ? row.probes.read : row.probes.written,
    ]),
  )
  const [{ setting }] = exposure
  const columns = [
    'scheme',
    'mode',
    'work',
    'access',
    'exposed',
    ...EXPOSURE_CLASSES,
    'before attach',
    'probes that got through',
  ]
  return section(
    document,
    'exposure',
    title,
    paragraph(
      document,
      `Bytes on average over virtual time, with ${setting.ramBytes.toLocaleString('en')} bytes of RAM, ${setting.perSecond.toLocaleString('en')} operations a second and a ring that is ${Math.round(setting.ringFill * 100)} % full. Each candidate address was tried by a real access through the device's port.`,
    ),
    element(
      document,
      'dl',
      {},
      ...Object.entries(EXPOSURE_MEANINGS).flatMap(([name, text]) => [
        element(document, 'dt', {}, name),
        element(document, 'dd', {}, text),
      ]),
    ),
    element(document, 'div', { class: 'tall' }, table(document, title, columns, rows)),
  )
}

/** Every result, to be sorted and filtered. */
export function everySection(document: Document, { results }: BenchReport): HTMLElement {
  const counters = [...new Set(results.flatMap((result) => Object.keys(result.counters)))].sort()
  const schemes = inOrder(results.map(({ backend }) => backend))
  const holder = element(document, 'div', { class: 'tall' })
  const wide = element(document, 'input', { type: 'checkbox', id: 'with-counters' })
  let scheme = 0
  const fill = (): void => {
    const found = results.filter(({ backend }) => scheme === 0 || backend === schemes[scheme - 1])
    const extra = wide.checked ? counters : []
    const columns = [
      ...['scheme', 'driver', 'operation', 'mode', 'ring', 'bytes', 'batch', 'buffers'],
      ...['ns', 'p05', 'p95', 'samples', 'heap bytes', ...extra],
    ]
    holder.replaceChildren(
      table(
        document,
        `${found.length} results; times are ns of one operation`,
        columns,
        found.map((one) => cells(one, extra)),
      ),
    )
  }
  wide.addEventListener('change', fill)
  fill()
  const pick = choice(document, 'Scheme', ['all', ...schemes], (i) => {
    scheme = i
    fill()
  })
  const check = element(
    document,
    'label',
    { class: 'choice', for: 'with-counters' },
    wide,
    ' with the counters of each operation',
  )
  return section(
    document,
    'every-figure',
    'Every figure',
    paragraph(
      document,
      'A press on the title of a column sorts by it. The scheme “none” is the loop of the harness alone.',
    ),
    pick,
    check,
    holder,
  )
}

function cells(
  { counters, nsPerOperation, ...one }: BenchResult,
  extra: readonly string[],
): (string | number | null)[] {
  const { median, p05, p95 } = nsPerOperation
  return [
    ...[one.backend, one.driver, one.operation, one.mode, one.ring, one.bytes, one.batch, one.buffers],
    ...[median, p05, p95, one.samples, one.bytesAllocatedPerOperation],
    ...extra.map((name) => (Object.hasOwn(counters, name) ? counters[name] : null)),
  ]
}
