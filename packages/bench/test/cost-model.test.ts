import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { answer } from '../src/model/answers.ts'
import { CAUSE_NAMES, CAUSES, modelRow } from '../src/model/causes.ts'
import { ModelError } from '../src/model/errors.ts'
import {
  PARAMETER_NAMES,
  PARAMETERS,
  type ParameterName,
  PROFILE_NAMES,
  PROFILES,
  parametersOf,
  parseSetting,
} from '../src/model/parameters.ts'
import { readParameterFile } from '../src/model/reading.ts'
import { ACCESSES, allCounters, PLAIN, row } from './support/cost-rows.ts'

function codeOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    expect(error).toBeInstanceOf(ModelError)
    return (error as ModelError).code
  }
  return 'none'
}

/** Every parameter at a price of its own, none of which is nothing. */
const prices = Object.fromEntries(PARAMETER_NAMES.map((name, i) => [name, i + 2]))

describe('a parameter', () => {
  test.each(PARAMETER_NAMES)('%s moves the causes that name it, and no other', (name) => {
    const counters = allCounters()
    const before = modelRow(row({ counters }), parametersOf('pcie-wc', prices))
    const after = modelRow(row({ counters }), parametersOf('pcie-wc', { ...prices, [name]: prices[name] + 1 }))
    const moved = CAUSE_NAMES.filter((cause) => before[cause] !== after[cause])
    expect(moved).toEqual(CAUSE_NAMES.filter((cause) => CAUSES[cause].parameters.includes(name)))
  })

  test('is in a cause, but for the one that only a comparison needs', () => {
    const used = new Set(CAUSE_NAMES.flatMap((cause) => CAUSES[cause].parameters))
    expect(PARAMETER_NAMES.filter((name) => !used.has(name))).toEqual(['cachedAccess'])
  })

  test('has a unit and a source, and so has what a profile sets; a source names a year or says that it is assumed', () => {
    const sources = [
      ...PARAMETER_NAMES.map((name) => PARAMETERS[name].source),
      ...PROFILE_NAMES.flatMap((profile) => Object.values(PROFILES[profile].settings).map(({ source }) => source)),
    ]
    for (const source of sources)
      expect(source).toMatch(/\((?:\D*)\d{4}\)|^Assumed: |^Nothing|^As `|^The device is a thread/)
  })
})

describe('a cause', () => {
  test('is linear in its counters: twice the counts, twice the time', () => {
    const counters = allCounters()
    const twice = Object.fromEntries(Object.entries(counters).map(([name, count]) => [name, 2 * count]))
    const parameters = parametersOf('trap', prices)
    const [one, two] = [counters, twice].map((counts) => modelRow(row({ counters: counts }), parameters))
    for (const cause of CAUSE_NAMES) expect(two[cause]).toBeCloseTo(2 * (one[cause] as number), 9)
  })

  test('is null, and not 0, where a result does not count it', () => {
    const modelled = modelRow(row(), parametersOf('pcie-wc'))
    expect(CAUSE_NAMES.filter((cause) => modelled[cause] !== null)).toEqual(['copies', 'clears', 'doorbells'])
    expect(modelled.interrupts).toBeNull()
  })

  test('of combined stores goes by their bytes, and of spaced ones by their number', () => {
    const counters = { ...PLAIN, ...ACCESSES }
    const combined = modelRow(row({ counters }), parametersOf('pcie-wc', { writeCombineFlush: 64 }))
    const spaced = modelRow(row({ counters }), parametersOf('pcie-uc', { writeSpacing: 7 }))
    expect([combined.deviceMemoryWrites, spaced.deviceMemoryWrites]).toEqual([80, 70])
  })

  test('requests of a scheme that shares pages are conversions, for which nobody waits at an IOMMU', () => {
    const counters = { ...PLAIN, mapRequests: 0.5, unmapRequests: 0.25, synchronousCommits: 0.0625 }
    const parameters = parametersOf('pcie-wc', { pageConversion: 8, iommuRequest: 4, iommuWait: 16 })
    expect(modelRow(row({ backend: 'shared-pages', counters }), parameters)).toMatchObject({
      pageConversions: 6,
      iommuRequests: null,
      iommuWaits: null,
    })
    expect(modelRow(row({ backend: 'virtio-iommu', counters }), parameters)).toMatchObject({
      pageConversions: null,
      iommuRequests: 3,
      iommuWaits: 1,
    })
  })

  test('and nothing measured is in it', () => {
    const counters = allCounters()
    const slow = row({ counters, nsPerOperation: { median: 1e6, p05: 1e6, p95: 1e6 } })
    expect(modelRow(slow, parametersOf('trap'))).toEqual(modelRow(row({ counters }), parametersOf('trap')))
  })
})

describe('a profile', () => {
  test.each(PROFILE_NAMES)('%s gives a value to each parameter', (profile) => {
    expect(Object.keys(parametersOf(profile))).toEqual(PARAMETER_NAMES)
  })

  test('says what differs from the others: doorbells of a real device leave no guest, and memory that traps has no cheap access', () => {
    const one = (profile: string, name: ParameterName): number => parametersOf(profile)[name]
    expect([one('pcie-wc', 'vmExit'), one('pcie-uc', 'vmExit')]).toEqual([0, 0])
    expect(one('memslot', 'vmExit')).toBeGreaterThan(0)
    expect(one('trap', 'uncachedRead')).toBe(one('trap', 'vmExit'))
    expect(one('pcie-uc', 'writeSpacing')).toBeGreaterThan(one('pcie-wc', 'writeSpacing'))
  })

  test('gives way to overrides, which may be texts as a command line has them', () => {
    expect(parametersOf('trap', { vmExit: 5, interrupt: '7.5' })).toMatchObject({ vmExit: 5, interrupt: 7.5 })
  })
})

describe('bad input is refused and told what would be right:', () => {
  let dir: string
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'guestdma-model-test-'))
  })
  afterEach(() => rmSync(dir, { recursive: true }))

  test('a profile or a parameter that there is not', () => {
    expect(() => parametersOf('pci')).toThrow(/memslot, pcie-wc, pcie-uc, trap/)
    expect(codeOf(() => parametersOf('constructor'))).toBe('MODEL_PROFILE')
    expect(() => parametersOf('trap', { vmexit: 1 })).toThrow(/known: .*vmExit/)
    expect(codeOf(() => parametersOf('trap', { toString: 1 }))).toBe('MODEL_PARAMETER')
  })

  test.each([-1, Number.NaN, Infinity, 'many', '', ' ', null, true, [1], {}])('the value %j', (value) => {
    expect(codeOf(() => parametersOf('trap', { vmExit: value }))).toBe('MODEL_VALUE')
  })

  test('nothing that a price would be divided by', () => {
    for (const name of ['deviceReadBytes', 'deviceReadOverlap'])
      expect(codeOf(() => parametersOf('trap', { [name]: 0 }))).toBe('MODEL_VALUE')
  })

  test('a setting that is no name=value', () => {
    expect(parseSetting('vmExit=5')).toEqual(['vmExit', '5'])
    for (const text of ['vmExit', '=5', '']) expect(codeOf(() => parseSetting(text))).toBe('MODEL_VALUE')
  })

  test('a result without a counter that every scheme has', () => {
    for (const counter of Object.keys(PLAIN)) {
      const { [counter]: _gone, ...counters } = PLAIN
      expect(() => modelRow(row({ counters }), parametersOf('trap'))).toThrow(counter)
      expect(codeOf(() => modelRow(row({ counters }), parametersOf('trap')))).toBe('MODEL_COUNTER')
    }
  })

  test('a file of parameters that is missing, is no JSON, or is no object', () => {
    const path = join(dir, 'parameters.json')
    expect(codeOf(() => readParameterFile(path))).toBe('MODEL_FILE')
    for (const text of ['{', '[1]', 'null', '3']) {
      writeFileSync(path, text)
      expect(codeOf(() => readParameterFile(path))).toBe('MODEL_FILE')
    }
    writeFileSync(path, '{ "vmExit": 5 }')
    expect(parametersOf('trap', readParameterFile(path)).vmExit).toBe(5)
  })
})

describe('memory on the device', () => {
  const onDevice = (bytes = 64): ReturnType<typeof row> =>
    row({ backend: 'on-device', bytes, counters: { ...PLAIN, ...ACCESSES } })
  const prices = { deviceLocalRead: 0, writeCombineFlush: 0, writeSpacing: 0, cachedAccess: 1 }
  const [counted] = answer([onDevice()], parametersOf('pcie-wc', prices)).deviceMemory.cases

  test('loses from the price of a load on that is told, and wins below it', () => {
    const at = (uncachedRead: number): number => {
      const [{ cpuOnDevice, deviceOnDevice, cpuInHost, deviceInHost }] = answer(
        [onDevice()],
        parametersOf('pcie-wc', { ...prices, uncachedRead }),
      ).deviceMemory.cases
      return cpuOnDevice + deviceOnDevice - cpuInHost - deviceInHost
    }
    // Twelve accesses to the cache, and one read of 64 bytes by DMA of which eight overlap, for two loads.
    expect(counted.mostPerLoad).toBe((12 + 500 / 8) / 2)
    expect(at(counted.mostPerLoad as number)).toBeCloseTo(0, 9)
    expect(at((counted.mostPerLoad as number) - 1)).toBeLessThan(0)
    expect(at((counted.mostPerLoad as number) + 1)).toBeGreaterThan(0)
  })

  test.each(PROFILE_NAMES)('is as dear as the pool at each price that is told for %s', (profile) => {
    const difference = (overrides: Readonly<Record<string, unknown>>): number => {
      const [one] = answer([onDevice()], parametersOf(profile, overrides)).deviceMemory.cases
      return one.cpuOnDevice + one.deviceOnDevice - one.cpuInHost - one.deviceInHost
    }
    const [told] = answer([onDevice()], parametersOf(profile)).deviceMemory.cases
    expect(difference({ dmaRoundTrip: told.leastRoundTrip })).toBeCloseTo(0, 6)
    if (told.mostPerLoad !== null) expect(difference({ uncachedRead: told.mostPerLoad })).toBeCloseTo(0, 6)
    else expect(difference({ uncachedRead: 0 })).toBeGreaterThan(0)
    if (told.mostPerStore !== null) expect(difference({ writeSpacing: told.mostPerStore })).toBeCloseTo(0, 6)
    else expect(difference({ writeSpacing: 0 })).toBeGreaterThan(0)
  })

  test('is answered for over each kind of ring apart', () => {
    const { deviceMemory, times } = answer([onDevice(), { ...onDevice(), ring: 'packed' }], parametersOf('trap'))
    const rings = deviceMemory.cases.map(({ ring }) => ring)
    expect(rings.slice(0, rings.length / 2)).toEqual(Array.from({ length: rings.length / 2 }, () => 'split'))
    expect(rings.slice(rings.length / 2)).toEqual(Array.from({ length: rings.length / 2 }, () => 'packed'))
    expect(times.map(({ what }) => what)).toContain('transmit (packed) of 64 bytes, accesses of the CPU')
  })

  test('loses from the price of a store on that is told', () => {
    const cheap = { ...prices, uncachedRead: 1 }
    const [{ mostPerStore }] = answer([onDevice()], parametersOf('pcie-wc', cheap)).deviceMemory.cases
    expect(mostPerStore).toBeCloseTo((12 + 500 / 8 - 2) / 10, 9)
    // Loads alone cost more than all of the pool.
    expect(counted.mostPerStore).toBeNull()
  })

  test('wins from the price of a DMA round trip on that is told', () => {
    const [{ leastRoundTrip }] = answer([onDevice()], parametersOf('pcie-wc', { ...prices, uncachedRead: 500 }))
      .deviceMemory.cases
    expect(leastRoundTrip).toBe((2 * 500 - 12) * 8)
  })

  test('is answered for at sizes that were not counted: their payload is more words', () => {
    const { cases } = answer([onDevice()], parametersOf('pcie-wc')).deviceMemory
    const large = cases.find(({ bytes }) => bytes === 1024)
    expect(large).toMatchObject({ countedBytes: 64, loads: 2, stores: 10 + (1024 - 64) / 8 })
    const both = answer([onDevice(), onDevice(1024)], parametersOf('pcie-wc')).deviceMemory.cases
    expect(both.find(({ bytes }) => bytes === 1024)).toMatchObject({ countedBytes: 1024, stores: 10 })
  })

  test('has no answer where its accesses were not counted', () => {
    expect(answer([row({ backend: 'on-device' })], parametersOf('pcie-wc')).deviceMemory.cases).toEqual([])
  })
})

describe('a lazy domain', () => {
  const domain = (backend: string, median: number, waits: number, unmaps: number): ReturnType<typeof row> =>
    row({
      backend,
      nsPerOperation: { median, p05: median, p95: median },
      counters: { ...PLAIN, mapRequests: 0.5, unmapRequests: unmaps, synchronousCommits: waits },
    })
  const strict = domain('virtio-iommu', 200, 0.5, 0.25)
  const lazy = domain('virtio-iommu-lazy', 210, 0.25, 0.5)
  const parameters = parametersOf('memslot', { iommuWait: 100, iommuRequest: 10 })

  test('saves its waits and pays for its requests; what was measured is told apart', () => {
    expect(answer([strict, lazy], parameters).lazy.cases).toEqual([
      {
        ring: 'split',
        operation: 'transmit',
        bytes: 64,
        batch: 32,
        waitsSaved: 0.25,
        requestsAdded: 0.25,
        saved: 22.5,
        leastWait: 10,
        measuredDearer: 10,
        leastWaitMeasured: 40,
      },
    ])
  })

  test('wins at no wait where it saves none', () => {
    const [found] = answer([strict, domain('virtio-iommu-lazy', 210, 0.5, 0.5)], parameters).lazy.cases
    expect([found.leastWait, found.leastWaitMeasured]).toEqual([null, null])
  })

  test('wins at any wait where it adds no request, and took no longer', () => {
    const [found] = answer([strict, domain('virtio-iommu-lazy', 190, 0.25, 0.125)], parameters).lazy.cases
    expect([found.leastWait, found.leastWaitMeasured]).toEqual([0, 0])
  })

  test('is compared with the same work only, over the same kind of ring', () => {
    expect(answer([strict, { ...lazy, bytes: 256 }], parameters).lazy.cases).toEqual([])
    expect(answer([strict, { ...lazy, ring: 'packed' }], parameters).lazy.cases).toEqual([])
  })
})

test('what is "10 times" slower follows from the prices that it names', () => {
  const times = (overrides: Readonly<Record<string, unknown>>): number[] =>
    answer([], parametersOf('pcie-wc', { cachedAccess: 2, lineTransfer: 50, ...overrides })).times.map(
      (one) => one.times,
    )
  expect(times({ uncachedRead: 20, writeCombineFlush: 16 })).toEqual([10, 0.4, 1])
  expect(times({ uncachedRead: 10, writeCombineFlush: 16 })).toEqual([5, 0.2, 1])
  expect(times({ uncachedRead: 20, writeCombineFlush: 0, writeSpacing: 40 })).toEqual([10, 0.4, 20])
})
