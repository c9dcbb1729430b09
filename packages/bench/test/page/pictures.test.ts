import {
  type BenchReport,
  costReport,
  MEASURED,
  PARAMETER_NAMES,
  PARAMETERS,
  PROFILE_NAMES,
  parametersOf,
  renderPage,
  renderPictures,
} from '@guestdma/bench'
import { describe, expect, it } from 'vitest'
import { exposed } from '../../src/exposure/classes.ts'
import { claimsOf } from '../../src/page/claims.ts'
import { headlineWorks } from '../../src/page/headline.ts'
import { lookOf } from '../../src/page/looks.ts'
import { logAxis, logTicks } from '../../src/page/numbers.ts'
import { positionOf, valueAt } from '../../src/page/prices.ts'
import { linesOf, slicesOf } from '../../src/page/slices.ts'
import { reportOf, row } from '../support/cost-rows.ts'
import { inventedReport } from './invented.ts'

describe('the headline', () => {
  const report = inventedReport()

  it('takes cost and exposure of a point from the same scheme, mode, ring, size and operation', () => {
    const works = headlineWorks(report)
    expect(works.map(({ name }) => name)).toEqual(['net transmit, split, 64 bytes', 'net receive, split, 64 bytes'])
    for (const { backend, mode, batch, ns, readable } of works[1].points) {
      const result = report.results.find(
        (one) =>
          one.operation === 'receive' &&
          one.backend === backend &&
          one.mode === mode &&
          one.bytes === 64 &&
          one.batch === batch,
      )
      const attack = report.exposure?.find(
        (one) => one.operation === 'receive' && one.backend === backend && one.mode === mode,
      )
      expect(ns).toBe(result?.nsPerOperation.median)
      expect(readable).toBe(attack === undefined ? undefined : exposed(attack).readable)
    }
  })

  it('compares a mode with direct in that mode, in batches of 32', () => {
    const [{ points }] = headlineWorks(report)
    for (const { backend, overhead } of points.filter(({ mode }) => mode === 'pool'))
      expect([backend, overhead]).toEqual([backend, 1])
    expect(points.find(({ backend, mode }) => backend === 'direct' && mode === 'map')?.overhead).toBe(1)
    expect(points.find(({ backend, mode }) => backend === 'virtio-iommu' && mode === 'map')?.overhead).toBeCloseTo(
      3.62,
      1,
    )
    expect(new Set(points.map(({ batch }) => batch))).toEqual(new Set([32]))
  })

  it('has no point where a mode was attacked and not measured, or measured and not attacked', () => {
    const onlyMap = { ...report, results: report.results.filter(({ mode }) => mode === 'map') }
    expect(new Set(headlineWorks(onlyMap)[0].points.map(({ mode }) => mode))).toEqual(new Set(['map']))
    expect(headlineWorks({ results: report.results })).toEqual([])
    expect(headlineWorks({ ...report, results: report.results.filter(({ backend }) => backend !== 'direct') })).toEqual(
      [],
    )
  })

  it('does not count as exposed what the device was lent before', () => {
    const [point] = headlineWorks(report)[0].points.filter(({ backend }) => backend === 'shared-pool')
    expect(point.readable).toBe(0)
  })
})

describe('the claims', () => {
  const report = inventedReport()
  const claims = (of: BenchReport, profile = 'pcie-wc') => {
    const parameters = parametersOf(profile)
    const { answers, overcommit } = costReport(of, profile)
    return claimsOf(of, parameters, answers, overcommit.rows)
  }

  it('stand beside measured figures of small mapped frames, and modelled ones', () => {
    const [memory, pool, iommu, lazy, crowd] = claims(report)
    expect(memory.measured).toContain('transmit: × 1.12 (114 against 102 ns)')
    expect(memory.modelled).toContain('transmit of 64 bytes: × ')
    expect(pool.measured).toContain('shared-pool exposes up to 0 B')
    expect(iommu.modelled).toContain('requests 300 ns of the device, waits 250 ns of the CPU')
    expect(lazy.modelled).toContain('transmit, batch 1: saves ')
    expect(crowd.modelled).toMatch(/on-device: [\d,]+ packets/)
  })

  it('depend on prices in their modelled column alone', () => {
    const [one, other] = [claims(report), claims(report, 'trap')]
    expect(one.map(({ measured }) => measured)).toEqual(other.map(({ measured }) => measured))
    expect(one[0].modelled).not.toBe(other[0].modelled)
  })

  it('say so where a report has no figure', () => {
    for (const { measured, modelled } of claims(reportOf([]))) {
      expect(measured).toBe('no figure in this report')
      expect(modelled).toBe('no figure in this report')
    }
  })
})

describe('looks', () => {
  it('tell every measured scheme from every other one', () => {
    const looks = Object.keys(MEASURED).map((scheme) => Object.values(lookOf(scheme)).join(' '))
    expect(new Set(looks).size).toBe(looks.length)
  })

  it('of a scheme that others wrote are always the same', () => {
    expect(lookOf('my-own')).toEqual(lookOf('my-own'))
    expect(lookOf('constructor').colour).toMatch(/^#/)
  })

  it.each(['#ffffff', '#14171b'])('have a contrast of 3:1 at least on %s (WCAG 1.4.11)', (background) => {
    for (const scheme of [...Object.keys(MEASURED), 'my-own'])
      expect(contrast(lookOf(scheme).colour, background)).toBeGreaterThanOrEqual(3)
  })
})

function contrast(a: string, b: string): number {
  const luminance = (colour: string): number => {
    const channels = [1, 3, 5].map((i) => Number.parseInt(colour.slice(i, i + 2), 16) / 255)
    const [r, g, blue] = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue
  }
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x)
  return (light + 0.05) / (dark + 0.05)
}

describe('a logarithmic axis', () => {
  it('has a band for zero and for no value, below all others', () => {
    const axis = logAxis([0, null, 3, 900], 'zero', String)
    expect(axis.place(0)).toBe(axis.place(null))
    expect(axis.band?.to).toBeLessThan(1)
    expect(axis.place(0)).toBeGreaterThan(axis.domain[0])
    expect(axis.domain[1]).toBe(1000)
    expect(axis.ticks.map((tick) => axis.format(tick))).toEqual(['zero', '1', '10', '100', '1000'])
  })

  it('has none where every value has a logarithm', () => {
    expect(logAxis([1, 10], 'zero', String)).toMatchObject({ band: null, domain: [1, 10], ticks: [1, 10] })
  })

  it('is one decade where there are no values at all', () => {
    expect(logAxis([], 'zero', String)).toMatchObject({ domain: [1, 10] })
    expect(logAxis([0], 'zero', String).ticks).toHaveLength(3)
  })

  it('has as many ticks as there is room for', () => {
    expect(logTicks(0.9, 3)).toEqual([1, 1.5, 2, 3])
    expect(logTicks(1, 1e6)).toEqual([1, 10, 100, 1e3, 1e4, 1e5, 1e6])
    expect(logTicks(1, 1e12).length).toBeLessThanOrEqual(7)
  })
})

describe('a slider', () => {
  it.each(PARAMETER_NAMES)('of %s gives back what it is set to, to two digits', (name) => {
    for (const profile of PROFILE_NAMES) {
      const value = parametersOf(profile)[name]
      const shown = valueAt(name, positionOf(name, value))
      expect(Math.abs(shown - value)).toBeLessThanOrEqual(0.05 * value)
    }
    const least = ['ns', 'ns/byte'].includes(PARAMETERS[name].unit) ? 0 : 1
    expect(valueAt(name, 0)).toBe(least)
  })
})

describe('slices', () => {
  it('hold results that differ in the scheme and in what is shown alone', () => {
    const [slice] = slicesOf(inventedReport().results, ['bytes', 'operation'])
    expect(slice.name).toBe('net, map, split, batch 32, warm')
    expect(new Set(slice.results.map(({ mode, batch }) => `${mode} ${batch}`)).size).toBe(1)
  })

  it('have no line where every scheme was measured at one size', () => {
    expect(linesOf([row(), row({ backend: 'shared-pool', bytes: 1514 })], 'bytes')).toEqual([])
    expect(linesOf([row(), row({ bytes: 1514 })], 'bytes')).toHaveLength(1)
  })

  it('leave the loop of the harness out', () => {
    expect(slicesOf([row({ backend: 'none' })], [])).toEqual([])
  })
})

describe('pictures in files', () => {
  it('are named, and absent where a report has no data for them', async () => {
    const all = await renderPictures(inventedReport())
    for (const name of ['headline', 'cost-by-size', 'cost-by-batch', 'modelled', 'crossover', 'two-cores'])
      expect([...all.keys()]).toContain(name)
    expect((await renderPictures(reportOf([]))).size).toBe(0)
    const { exposure: _, ...rest } = inventedReport()
    expect([...(await renderPictures(rest)).keys()]).not.toContain('headline')
  })

  it('are drawn for times of zero as well', async () => {
    const report = inventedReport()
    const nothing = { median: 0, p05: 0, p95: 0 }
    const pictures = await renderPictures({
      ...report,
      results: report.results.map((one) => ({ ...one, nsPerOperation: nothing })),
    })
    expect([...pictures.keys()]).toContain('cost-by-size')
    expect([...pictures.keys()]).not.toContain('headline')
  })

  it('say of a partial report that it is one', async () => {
    const pictures = await renderPictures({ ...inventedReport(), complete: false })
    expect(pictures.get('headline')).toContain('PARTIAL')
  })

  it('are the same for the same report', async () => {
    const [one, other] = [await renderPictures(inventedReport()), await renderPictures(inventedReport())]
    expect([...one].filter(([name, text]) => other.get(name) !== text).map(([name]) => name)).toEqual([])
  })
})

describe('the page', () => {
  it('is below one megabyte with its report, and names no address to load from', async () => {
    const page = await renderPage(inventedReport())
    expect(page.length).toBeLessThan(1e6)
    expect(page).not.toMatch(/<(?:link|script|img|iframe)[^>]*(?:src|href)=/)
    expect(page).toContain("default-src 'none'")
  })

  it('carries its report, in which no text ends the element early', async () => {
    const report = reportOf([row({ backend: '</script><!--' })])
    const [, json] =
      /<script type="application\/json" id="report">(.*?)<\/script>/s.exec(await renderPage(report)) ?? []
    expect(JSON.parse(json)).toEqual(report)
  })
})
