import { afterEach, describe, expect, inject, test } from 'vitest'
import type {} from './provided.ts'

const pages = inject('reportPages')
const WATCH = '<script>window.troubles = []; addEventListener("error", (e) => troubles.push(e.message))</script>'

interface Opened {
  readonly document: Document
  readonly window: Window & { readonly troubles: readonly string[] }
  all<T extends Element = HTMLElement>(selector: string): T[]
  text(selector: string): string
  /** The data of a picture, as the texts of its table. */
  data(picture: string): Promise<string[][]>
}

async function open(html: string, width = 1100): Promise<Opened> {
  const frame = document.createElement('iframe')
  frame.style.width = `${width}px`
  frame.style.height = '800px'
  const loaded = new Promise((resolve) => frame.addEventListener('load', resolve))
  frame.srcdoc = html.replace('<head>', `<head>${WATCH}`)
  document.body.append(frame)
  await loaded
  const window = frame.contentWindow as Opened['window']
  const inside = window.document
  await expect.poll(() => inside.querySelector('footer')).not.toBeNull()
  const all = <T extends Element>(selector: string): T[] => [...inside.querySelectorAll<T>(selector)]
  return {
    document: inside,
    window,
    all,
    text: (selector) => inside.querySelector(selector)?.textContent ?? '',
    async data(picture) {
      const details = inside.querySelector<HTMLDetailsElement>(`#picture-${picture} details`)
      if (details === null) throw new Error(`there is no picture ${picture}`)
      details.open = true
      await expect.poll(() => details.querySelector('tbody')).not.toBeNull()
      return [...details.querySelectorAll('tr')].map((line) => [...line.children].map((cell) => cell.textContent ?? ''))
    },
  }
}

afterEach(() => {
  for (const frame of document.querySelectorAll('iframe')) frame.remove()
})

/** Marks of one kind in a picture, over all its panels. */
function marks(page: Opened, picture: string, kind: string): number {
  return page.all(`#picture-${picture} .drawing svg[role=img] [aria-label=${kind}] :is(circle, path)`).length
}

function move(page: Opened, parameter: string, position: number): void {
  const slider = page.document.querySelector<HTMLInputElement>(`#price-${parameter}`)
  if (slider === null) throw new Error(`there is no slider ${parameter}`)
  slider.value = String(position)
  slider.dispatchEvent(new Event('input'))
}

const column = (table: readonly string[][], title: string): string[] =>
  table.slice(1).map((line) => line[table[0].indexOf(title)])

describe('the page of a report', () => {
  test('shows all parts without an error, and loads nothing', async () => {
    const page = await open(pages.whole)
    await expect.poll(() => page.all('#overcommit figure').length).toBe(5)
    expect(page.window.troubles).toEqual([])
    expect(page.window.performance.getEntriesByType('resource')).toEqual([])
    expect(page.all('.absent')).toEqual([])
    expect(page.all('.partial')).toEqual([])
    const ids = page.all('main [id]').map(({ id }) => id)
    expect(ids).toEqual([...new Set(ids)])
  })

  test.each([
    // A point for each panel, row, or value of a row.
    ['headline', 2],
    ['cost-by-size', 1],
    ['cost-by-batch', 1],
    ['price-limits', 2],
    ['two-cores', 2],
    ['two-cores-latency', 2],
    ['scale-live-mappings', 1],
    ['scale-queue-size', 1],
    ['scale-devices', 1],
    ['scale-domains', 1],
    ['scale-memory', 1],
    ['overcommit-throughput', 1],
    ['overcommit-latency-p99', 1],
    ['overcommit-starvation', 1],
  ])('the picture %s has %i points for each row of its data', async (picture, each) => {
    const page = await open(pages.whole)
    await expect.poll(() => page.all(`#picture-${picture}`).length).toBe(1)
    const rows = (await page.data(picture)).length - 1
    expect(rows).toBeGreaterThan(2)
    expect(marks(page, picture, 'dot')).toBe(rows * each)
  })

  test('has a line for each size of a frame and each batch that answers are for', async () => {
    const page = await open(pages.whole)
    const curves = await page.data('crossover')
    const kinds = new Set(curves.slice(1).map(([frame, bytes]) => `${frame} ${bytes}`))
    expect(kinds.size).toBe(6)
    expect(marks(page, 'crossover', 'line')).toBe(kinds.size)
    const lazy = new Set((await page.data('lazy-and-strict')).slice(1).map(([frame, , batch]) => `${frame} ${batch}`))
    expect(marks(page, 'lazy-and-strict', 'line')).toBe(lazy.size)
  })

  test('a slider changes the modelled columns that depend on it, and nothing that was measured', async () => {
    const page = await open(pages.whole)
    const before = await page.data('modelled')
    const measured = ['#headline', '#cost', '#two-cores', '#scale', '#exposure', '#every-figure']
    const texts = measured.map((part) => page.document.querySelector(part)?.innerHTML)
    const points = page.document.querySelector('#picture-modelled .drawing')?.innerHTML
    move(page, 'uncachedRead', 200)
    const after = await page.data('modelled')
    const changed = before[0].filter((title) => `${column(before, title)}` !== `${column(after, title)}`)
    expect(changed).toEqual(['dev reads (CPU)'])
    expect(column(after, 'dev reads (CPU)')).toContain('200,000')
    expect(page.document.querySelector('#picture-modelled .drawing')?.innerHTML).not.toBe(points)
    expect(page.text('#price-uncachedRead + output')).toBe('100,000 ns')
    expect(measured.map((part) => page.document.querySelector(part)?.innerHTML)).toEqual(texts)
  })

  test('a slider simulates over-commit anew, once it rests', async () => {
    const page = await open(pages.whole)
    await expect.poll(() => page.all('#overcommit figure').length).toBe(5)
    const before = await page.data('overcommit-throughput')
    move(page, 'uncachedRead', 0)
    await expect.poll(() => page.data('overcommit-throughput')).not.toEqual(before)
  })

  test('a profile sets all sliders, and is marked as the chosen one', async () => {
    const page = await open(pages.whole)
    const button = page.all<HTMLButtonElement>('.profiles button').find(({ textContent }) => textContent === 'trap')
    button?.click()
    expect(page.all('.profiles [aria-pressed=true]').map(({ textContent }) => textContent)).toEqual(['trap'])
    expect(page.text('#price-vmExit + output')).toBe('1,000 ns')
    expect(column(await page.data('modelled'), 'doorbells (both)')[0]).toBe('125')
    move(page, 'vmExit', 0)
    expect(page.all('.profiles [aria-pressed=true]')).toEqual([])
  })

  test('names each picture and each control for those who do not see it', async () => {
    const page = await open(pages.whole)
    const pictures = page.all<SVGElement>('svg[role=img]')
    expect(pictures.length).toBeGreaterThan(10)
    for (const picture of pictures) {
      expect(picture.getAttribute('aria-label')).toMatch(/\w{4}/)
      expect(picture.getAttribute('aria-description')).toMatch(/\w{4}/)
    }
    const controls = page.all<HTMLInputElement | HTMLSelectElement>('input, select')
    expect(controls.length).toBeGreaterThan(18)
    for (const control of controls) expect(control.labels?.[0]?.textContent).toMatch(/\w{4}/)
    for (const slider of page.all('input[type=range]'))
      expect(slider.getAttribute('aria-valuetext')).toMatch(/^[\d.,]+ (ns|ns\/byte|bytes|reads)$/)
  })

  test('fits a narrow screen without scrolling sideways', async () => {
    const page = await open(pages.whole, 360)
    await expect.poll(() => page.all('#overcommit figure').length).toBe(5)
    expect(page.document.documentElement.scrollWidth).toBeLessThanOrEqual(360)
    expect(marks(page, 'headline', 'dot')).toBe(2 * ((await page.data('headline')).length - 1))
    expect(page.all('#picture-headline .drawing .legend-swatches').length).toBe(1)
  })

  test('sorts the table of every figure by a column, and shows one scheme of it', async () => {
    const page = await open(pages.whole)
    const lines = (): string[][] =>
      page.all('#every-figure tbody tr').map((line) => [...line.children].map((cell) => cell.textContent ?? ''))
    expect(lines()).toHaveLength(168)
    page
      .all<HTMLButtonElement>('#every-figure th button')
      .find(({ textContent }) => textContent === 'ns')
      ?.click()
    expect(lines()[0][8]).toBe('69.1')
    const select = page.document.querySelector<HTMLSelectElement>('#every-figure select')
    if (select === null) throw new Error('there is no choice of schemes')
    select.value = [...select.options].find(({ text }) => text === 'on-device')?.value ?? ''
    select.dispatchEvent(new Event('change'))
    expect(new Set(lines().map(([scheme]) => scheme))).toEqual(new Set(['on-device']))
  })

  test('offers its data as JSON and as CSV', async () => {
    const page = await open(pages.whole)
    const [json, csv] = page.all<HTMLAnchorElement>('.downloads a')
    const report = (await (await fetch(json.href)).json()) as { results: unknown[] }
    expect(report.results).toHaveLength(168)
    expect((await (await fetch(csv.href)).text()).split('\r\n')).toHaveLength(170)
  })

  test('says of a part that was not measured what measures it', async () => {
    const page = await open(pages.bare)
    expect(page.window.troubles).toEqual([])
    expect(page.text('#headline .absent')).toContain('--attack')
    expect(page.text('#exposure .absent')).toContain('--attack')
    expect(page.text('#two-cores .absent')).toContain('a run of all')
    expect(page.text('#scale .absent')).toContain('a run of all')
    expect(page.text('#model')).toContain('2 results lack the counters')
    await expect.poll(() => page.text('#overcommit .absent')).toContain('Not simulated')
  })

  test('shows a partial report without any result as such', async () => {
    const page = await open(pages.partial)
    expect(page.window.troubles).toEqual([])
    expect(page.text('.partial')).toContain('PARTIAL')
    expect(page.text('#environment')).toContain('the process ended with SIGKILL')
    expect(page.all('svg[role=img]')).toEqual([])
  })

  test('shows HTML in names and texts as text', async () => {
    const page = await open(pages.hostile)
    await expect.poll(() => page.all('#overcommit figure').length).toBe(5)
    expect(page.window.troubles).toEqual([])
    expect(page.all('img, b')).toEqual([])
    expect('harmed' in window).toBe(false)
    expect(page.text('header')).toContain('</script><img src="x"')
    expect(column(await page.data('headline'), 'scheme').some((scheme) => scheme.includes('<b>&amp;'))).toBe(true)
  })

  test('pictures in files of their own are well-formed, whatever names they hold', () => {
    expect(pages.pictures.length).toBeGreaterThan(20)
    for (const text of pages.pictures) {
      const picture = new DOMParser().parseFromString(text, 'image/svg+xml')
      expect(picture.querySelector('parsererror')).toBeNull()
      expect(picture.querySelector('title')?.textContent).toMatch(/\w{4}/)
      expect(picture.querySelector('img, script, foreignObject')).toBeNull()
    }
  })
})
