import { describe, expect, test } from 'vitest'
import { ModelError } from '../src/model/errors.ts'
import { EventQueue } from '../src/model/event-queue.ts'
import { type OvercommitOptions, type OvercommitResult, simulateOvercommit } from '../src/model/overcommit.ts'

const SLICE = 3e6
const DURATION = 1e8
const base: OvercommitOptions = {
  virtualCpus: 1,
  cores: 1,
  bounce: 1000,
  device: 500,
  deviceOn: 'own-core',
  interval: 10_000,
  arrivals: 'even',
  duration: DURATION,
  seed: 7,
}
const run = (options: Partial<OvercommitOptions> = {}): OvercommitResult => simulateOvercommit({ ...base, ...options })

describe('one virtual CPU on one core', () => {
  test('takes the time to copy and the time of the device, and is never kept from running', () => {
    const { latency, starved, completed } = run()
    expect(latency).toEqual({ mean: 1500, p50: 1500, p99: 1500, p999: 1500, most: 1500 })
    expect(starved).toBe(0)
    expect(completed).toBe(DURATION / base.interval - 1)
  })

  test.each([0.2, 0.5, 0.8])(
    'at load %d waits as the formula for random arrivals and constant service says',
    (load) => {
      const interval = base.bounce / load
      const { latency } = run({ arrivals: 'random', interval, device: 0, duration: 400_000 * interval })
      const mean = base.bounce + (load * base.bounce) / (2 * (1 - load))
      expect(latency.mean / mean).toBeGreaterThan(0.98)
      expect(latency.mean / mean).toBeLessThan(1.02)
    },
  )

  test('completes what copying allows, or the device, where more arrives', () => {
    expect(run({ interval: 500 }).perSecond / 1e6).toBeCloseTo(1, 3)
    expect(run({ interval: 500, device: 4000 }).perSecond / 2.5e5).toBeCloseTo(1, 3)
  })
})

describe('as many virtual CPUs as cores', () => {
  test('are as one virtual CPU on one core, each', () => {
    for (const arrivals of ['even', 'random'] as const) {
      const four = run({ virtualCpus: 4, cores: 4, arrivals, device: 0 })
      const one = run({ arrivals, device: 0 })
      expect(four.starved).toBe(0)
      expect(four.perSecond / (4 * one.perSecond)).toBeCloseTo(1, 1)
      expect(four.latency.p99 / one.latency.p99).toBeCloseTo(1, 1)
    }
  })

  test('and more cores change nothing', () => {
    expect(run({ virtualCpus: 2, cores: 5 })).toEqual(run({ virtualCpus: 2, cores: 2 }))
  })
})

describe('more virtual CPUs than cores', () => {
  test.each([
    [2, 1],
    [4, 2],
    [8, 2],
    [12, 3],
  ])('%d on %d: each waits a turn of everybody who shares its core', (virtualCpus, cores) => {
    const { starved, latency } = run({ virtualCpus, cores, duration: 1e9 })
    expect(starved).toBe((virtualCpus / cores - 1) * SLICE)
    // A packet that arrives when its virtual CPU has just stopped waits for all of that, and for those before it.
    expect(latency.most).toBeGreaterThan(starved)
  })

  test('a change of threads costs every one of these turns', () => {
    const { starved } = run({ virtualCpus: 3, cores: 1, contextSwitch: 5000, duration: 1e9 })
    // A virtual CPU counts as running from when its core turns to it.
    expect(starved).toBe(2 * (SLICE + 5000))
  })

  test('one that never had its turn starved all the time', () => {
    expect(run({ virtualCpus: 2, cores: 1, duration: SLICE / 2 }).starved).toBe(SLICE / 2)
  })

  test('shorter turns starve less, in proportion', () => {
    expect(run({ virtualCpus: 4, slice: 1e5 }).starved).toBe(3e5)
  })

  test('together complete no more than the cores can copy, and no less', () => {
    const saturated = run({ virtualCpus: 8, cores: 2, interval: 1000, device: 0 })
    expect(saturated.perSecond / 2e6).toBeCloseTo(1, 2)
  })

  test('wait longer the more they are, and throughput for each falls once the cores are busy', () => {
    const results = [1, 2, 4, 8].map((share) =>
      run({ virtualCpus: 2 * share, cores: 2, interval: 4000, arrivals: 'random' }),
    )
    for (let i = 1; i < results.length; i++) {
      expect(results[i].latency.p99).toBeGreaterThan(results[i - 1].latency.p99)
      expect(results[i].starved).toBeGreaterThan(results[i - 1].starved)
    }
    expect(results[3].perSecond / 16).toBeLessThan(0.6 * (results[0].perSecond / 2))
  })
})

describe('a device that shares the cores', () => {
  test('is at once on a core that is free', () => {
    const { latency, starved } = run({ cores: 2, deviceOn: 'shared-cores' })
    expect([latency.most, starved]).toEqual([1500, 0])
  })

  test('takes its turn among the virtual CPUs, so that latency grows by turns, and on a core of its own does not', () => {
    const own = run({ virtualCpus: 2, cores: 2 })
    const shared = run({ virtualCpus: 2, cores: 2, deviceOn: 'shared-cores' })
    expect(own.latency.p99).toBe(2000)
    expect(shared.latency.p50).toBeGreaterThan(100 * own.latency.p50)
    expect(shared.latency.most).toBeLessThan(2 * SLICE)
  })
})

describe('a run', () => {
  test('is the same for the same seed, and another one for another', () => {
    const random = { arrivals: 'random', virtualCpus: 3, cores: 2, deviceOn: 'shared-cores' } as const
    expect(run(random)).toEqual(run(random))
    expect(run({ ...random, seed: 8 })).not.toEqual(run(random))
  })

  test('loses no packet: what was offered is completed, but for what is under way at the end', () => {
    for (const deviceOn of ['own-core', 'shared-cores'] as const) {
      const { offered, completed } = run({ virtualCpus: 5, cores: 2, arrivals: 'random', deviceOn, duration: 1e9 })
      const underWay = offered - completed
      expect(underWay).toBeGreaterThanOrEqual(0)
      // What arrives within two rounds of turns at most.
      expect(underWay).toBeLessThan(((2 * 6 * SLICE) / base.interval) * 5)
    }
  })

  test('of which no packet ended tells no latency', () => {
    const { completed, latency } = run({ duration: 5000 })
    expect(completed).toBe(0)
    expect(latency.p50).toBeNaN()
  })

  test.each([
    ['virtualCpus', 0],
    ['virtualCpus', 1.5],
    ['cores', 0],
    ['cores', 5000],
    ['bounce', -1],
    ['device', Number.NaN],
    ['interval', 0],
    ['interval', 0.001],
    ['slice', 0],
    ['contextSwitch', -1],
    ['duration', Infinity],
    ['seed', 0.5],
  ])('with %s %d is refused by name, before anything is done', (part, value) => {
    const refused = (): unknown => run({ [part]: value })
    expect(refused).toThrow(ModelError)
    expect(refused).toThrow(expect.objectContaining({ code: 'MODEL_SIMULATION', part, details: { value } }))
  })
})

test('events come by time, and those of the same time as they were added', () => {
  const queue = new EventQueue<string>()
  expect(queue.time).toBe(Infinity)
  const times = [5, 3, 9, 3, 1, 5, 3]
  times.forEach((time, i) => {
    queue.add(time, `${time}${'abcdefg'[i]}`)
  })
  expect(times.map(() => queue.take())).toEqual(['1e', '3b', '3d', '3g', '5a', '5f', '9c'])
})
