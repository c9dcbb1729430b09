import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type AccessFault, PagePort } from '../src/index.ts'
import { PASSED, TAIL, translationsIn } from '../src/worker/translations.ts'
import { Ram } from './support/guest.ts'
import { access, OK } from './support/iommu.ts'
import { BYPASS_FIELD, Pair, rig } from './support/translations.ts'

const RAM = 0x8000_0000
const R = 1
const W = 2
const NO_FLAGS = 0
const BYPASS = 1

// What is done most is named most.
const KINDS = [
  ...(['map', 'map', 'map', 'unmap', 'unmap', 'access', 'access', 'access', 'access'] as const),
  ...(['attach', 'attach', 'attach-bypass', 'detach', 'bypass-on', 'bypass-off', 'reset', 'restart'] as const),
] as const

interface Step {
  readonly kind: (typeof KINDS)[number]
  readonly at: number
  readonly pages: number
  readonly to: number
  readonly flags: number
  readonly into: number
  readonly length: number
  readonly access: 1 | 2
}

const named = ({ address, length, access: kind, reason }: AccessFault) => ({ address, length, kind, reason })

describe('the port of a device in a worker', () => {
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom<Step['kind'][]>(...KINDS),
    at: fc.integer({ min: 0, max: 7 }),
    pages: fc.integer({ min: 1, max: 4 }),
    to: fc.integer({ min: 0, max: 7 }),
    flags: fc.integer({ min: 0, max: 3 }),
    into: fc.integer({ min: 0, max: 4095 }),
    length: fc.integer({ min: 1, max: 9000 }),
    access: fc.constantFrom(R, W),
  })

  it.each([1, 4096])(
    'answers, records and reports as the port of a device in the thread of its IOMMU: granule %i',
    (granule) => {
      const unit = granule === 1 ? 3 : granule
      fc.assert(
        fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), (steps) => {
          const { m, pair, near, far } = rig(granule)
          m.buffer(...new Array<number>(16).fill(24))
          let { reader } = pair
          for (const s of steps) {
            if (s.kind === 'map') {
              const start = s.at * unit
              m.map(1, start, start + s.pages * unit - 1, RAM + s.to * unit - ((s.to * unit) % granule), s.flags)
            } else if (s.kind === 'unmap') m.unmap(1, s.at * unit, (s.at + s.pages) * unit - 1)
            else if (s.kind === 'attach') for (const ep of [8, 9]) m.attach(1, ep, NO_FLAGS)
            else if (s.kind === 'attach-bypass') for (const ep of [8, 9]) m.attach(2, ep, BYPASS)
            else if (s.kind === 'detach') for (const ep of [8, 9]) m.detach(1, ep)
            else if (s.kind === 'bypass-on') m.registers.write(BYPASS_FIELD, 1, 1)
            else if (s.kind === 'bypass-off') m.registers.write(BYPASS_FIELD, 1, 0)
            else if (s.kind === 'reset') {
              m.device.reset()
              m.start()
              m.buffer(...new Array<number>(16).fill(24))
            } else if (s.kind === 'restart') {
              const memory = pair.writer.prepare()
              reader = pair.read(memory)
              pair.writer.begin(memory)
            } else {
              const address = s.at * unit + (s.into % unit)
              const before = m.faults().length
              expect(before).toBe(0)
              const expected = access(near, m.ram, address, s.length, s.access)
              const reported = m.faults()
              reader.enter()
              expect(access(reader.port, m.ram, address, s.length, s.access)).toEqual(expected)
              reader.leave()
              pair.writer.takeFaults()
              expect(m.faults()).toEqual(reported.map((fault) => ({ ...fault, endpoint: 9 })))
              expect(far.faults.last().map(named)).toEqual(near.faults.last().map(named))
              m.buffer(...reported.map(() => 24))
            }
          }
          expect([far.faults.count, pair.errors, pair.writer.settled]).toEqual([near.faults.count, [], true])
        }),
        { numRuns: 150 },
      )
    },
  )

  it('takes over what was mapped in the middle of an access, and nothing that was taken away before the access is over', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    pair.reader.enter()
    const { epoch } = pair.port
    expect(access(pair.port, m.ram, 0x1000, 8, R)).toEqual([8, RAM])
    m.map(1, 0x2000, 0x2fff, RAM + 0x5000)
    expect(access(pair.port, m.ram, 0x2000, 8, R)).toEqual([8, RAM + 0x5000])
    // Here the thread of the IOMMU would wait; in one thread it does so in vain.
    expect(m.unmap(1, 0x1000, 0x1fff)).not.toBe(OK)
    expect(access(pair.port, m.ram, 0x3000, 8, R)).toBe(null)
    expect(access(pair.port, m.ram, 0x1000, 8, R)).toEqual([8, RAM])
    expect([pair.port.epoch, pair.writer.settled]).toEqual([epoch, false])
    pair.reader.pass()
    expect(access(pair.port, m.ram, 0x1000, 8, R)).toBe(null)
    expect([pair.port.epoch === epoch, pair.writer.settled]).toEqual([false, true])
  })

  it('is up to date for a link or a store that asks it from a callback, while the loop does not run', async () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    expect(pair.within(() => access(pair.port, m.ram, 0x1000, 8, R))).toEqual([8, RAM])
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(OK)
    expect(access(pair.port, m.ram, 0x1000, 8, R)).toBe(null)
    m.map(1, 0x1000, 0x1fff, RAM)
    expect(access(pair.port, m.ram, 0x1000, 8, R)).toEqual([8, RAM])
    // The callback is not over.
    expect(m.unmap(1, 0x1000, 0x1fff)).not.toBe(OK)
    expect(pair.errors.map(({ code }) => code)).toEqual(['WORKER_DEADLINE'])
    await Promise.resolve()
    expect(pair.writer.settled).toBe(true)
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(OK)
  })

  it('uses what was granted before such a callback until the callback is over, as a poll does that begins there', async () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    pair.port.refresh()
    expect(pair.writer.settled).toBe(true)
    expect(m.unmap(1, 0x1000, 0x1fff)).not.toBe(OK)
    await Promise.resolve()
    expect(pair.writer.settled).toBe(true)
  })

  it('keeps recent translations, spread as the granule of its IOMMU says', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    for (let i = 0; i < 32; i++) m.map(1, i * 4096, i * 4096 + 4095, RAM + i * 4096)
    pair.reader.enter()
    const { counters } = pair.reader
    for (let i = 0; i < 64; i++) access(pair.port, m.ram, (i % 32) * 4096, 8, R)
    expect([counters.tlbHits, counters.tlbMisses]).toEqual([32, 32])
  })

  it('lets single pages be shared and taken back, at their own addresses', () => {
    const ram = new Ram()
    const pair = new Pair(ram)
    const pages = new PagePort('far', ram.memory, 4096, pair.writer)
    const reached = () => pair.within(() => [0, 1, 2, 3].map((i) => access(pair.port, ram, RAM + i * 4096, 9000, W)))
    const pick = (first: number, count: number) => pages.pages.set([RAM + first * 4096, count * 4096])
    expect(reached()).toEqual([null, null, null, null])
    expect([pages.faults.count, pages.faults.last()[0]]).toEqual([
      4,
      { port: 'far', address: RAM, length: 9000, access: W, reason: 'unmapped' },
    ])
    pick(1, 2)
    pages.share()
    pages.share()
    expect(reached()).toEqual([null, [4096, RAM + 4096], [4096, RAM + 8192], null])
    pick(1, 1)
    pages.unshare()
    expect([pages.settle(), reached()]).toEqual([true, [null, null, [4096, RAM + 8192], null]])
    // Another worker is told all of it.
    const memory = pair.writer.prepare()
    const reader = pair.read(memory)
    pair.writer.begin(memory)
    reader.enter()
    expect(access(reader.port, ram, RAM + 8192, 8, R)).toEqual([8, RAM + 8192])
    reader.leave()
    pages.setOpen(false)
    reader.enter()
    expect([pages.settle(), access(reader.port, ram, RAM + 8192, 8, R)]).toEqual([true, null])
    reader.leave()
    pages.setOpen(true)
    pages.clear()
    reader.enter()
    expect(access(reader.port, ram, RAM + 8192, 8, R)).toBe(null)
  })
})

// The loop runs, accesses memory twice and goes away, while the other thread takes a page back and asks whether it is gone.
const STEPS = 17

describe('what was taken away is not used once it is said to be gone, whatever the order of loads and stores of both threads', () => {
  const PAIRS = Array.from({ length: STEPS }, (_, first) =>
    Array.from({ length: STEPS - first }, (_, more) => [first, first + more] as const),
  ).flat()

  it.each(PAIRS)('it is taken away before step %i, and asked for before step %i', (first, second) => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    const keys = Float64Array.of(0x1000, 0x1fff, 0, 0)
    const { load, store } = Atomics
    let step = 0
    let answered = false
    let waits = false
    let used = false
    // Held from when it was granted until the access is over.
    let held = false
    const before = (): void => {
      const now = step++
      if (now === first || now === second) {
        const hooked = step
        step = STEPS
        if (now === first) pair.writer.unmapped(keys)
        if (now === second && pair.writer.settled) answered = true
        else if (now === second) waits = true
        step = hooked
      }
      if (answered && held) used = true
    }
    const watched = Atomics as { load: unknown; store: unknown }
    watched.load = (array: Int32Array, index: number): number => {
      before()
      return load(array, index)
    }
    watched.store = (array: Int32Array, index: number, value: number): number => {
      before()
      return store(array, index, value)
    }
    const reach = (): void => {
      held = access(pair.port, m.ram, 0x1000, 8, R) !== null
      before()
      before()
      held = false
    }
    try {
      pair.reader.enter()
      reach()
      pair.reader.pass()
      reach()
      pair.reader.leave()
      pair.reader.enter()
      reach()
      pair.reader.leave()
    } finally {
      Object.assign(watched, { load, store })
    }
    expect(used).toBe(false)
    // Whoever had to wait waits for this word.
    const { words } = translationsIn(pair.memory)
    if (waits) expect(words[PASSED]).toBe(words[TAIL])
    expect(step).toBeGreaterThanOrEqual(STEPS)
  })
})
