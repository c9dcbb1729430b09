import { IOMMU_CONFIG_BYPASS, MMIO_CONFIG } from '@guestdma/spec'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type AccessFault, DeviceError, everything, PagePort } from '../src/index.ts'
import { CHANGE, CHANGES, FAULT_RECORDS, PASSED, TAIL, translationsIn } from '../src/worker/translations.ts'
import { Ram } from './support/guest.ts'
import { access, BOTH, IommuMachine, OK } from './support/iommu.ts'
import { Pair } from './support/translations.ts'

const RAM = 0x8000_0000
const R = 1
const W = 2
const NO_FLAGS = 0
const BYPASS_FIELD = MMIO_CONFIG + IOMMU_CONFIG_BYPASS
const BYPASS = 1

/** An IOMMU with a plain endpoint 8, and endpoint 9 whose device is "in a worker". */
function rig(granule = 4096, deadlineMs = 20) {
  const m = new IommuMachine({ granule, bypass: 'on' }).start()
  const pair = new Pair(m.ram, deadlineMs)
  const near = m.endpoint(8)
  const far = m.endpoint(9, { copy: pair.writer })
  return { m, pair, near, far }
}

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

describe('a worker that does not let go', () => {
  it('makes UNMAP, DETACH and ATTACH fail, and a reset incomplete, until it is gone', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.attach(1, 8)
    m.map(1, 0x1000, 0x1fff, RAM)
    m.map(1, 0x3000, 0x3fff, RAM)
    pair.reader.enter()
    const DEVERR = 3
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(DEVERR)
    expect(pair.errors.map(({ code }) => code)).toEqual(['WORKER_DEADLINE'])
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(DEVERR)
    expect(m.detach(1, 9)).toBe(DEVERR)
    expect(m.attach(2, 9)).toBe(DEVERR)
    // Others go on, and nobody waits for it twice.
    m.attach(3, 8)
    expect(m.map(3, 0x1000, 0x1fff, RAM)).toBe(OK)
    expect(m.unmap(3, 0x1000, 0x1fff)).toBe(OK)
    m.device.writeStatus(0)
    expect(m.device.status).not.toBe(0)
    expect(pair.errors).toHaveLength(1)
    pair.gone = true
    expect(m.device.status).toBe(0)
  })

  it('is not believed to have let go of what was taken away after it was lost', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    pair.reader.enter()
    // By a register access that it did not answer, say.
    pair.errors.push(new DeviceError('WORKER_DEADLINE', 'far', 'lost'))
    expect([m.unmap(1, 0x1000, 0x1fff), pair.writer.settled]).toEqual([3, false])
    pair.reader.pass()
    expect(m.unmap(1, 0x1000, 0x1fff)).toBe(OK)
  })

  it('is not believed at all once a change found no room', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    pair.reader.enter()
    for (let i = 0; i < 2 * CHANGES; i++) m.map(1, i * 4096, i * 4096 + 4095, RAM)
    pair.errors.push(new DeviceError('WORKER_DEADLINE', 'far', 'lost'))
    for (let i = 2 * CHANGES; i < 3 * CHANGES + 2; i++) m.map(1, i * 4096, i * 4096 + 4095, RAM)
    pair.reader.leave()
    expect([m.unmap(1, 0, 4095), pair.writer.settled]).toEqual([3, false])
    pair.gone = true
    expect(m.unmap(1, 0, 4095)).toBe(OK)
  })

  it('answers the same requests once it is gone', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    pair.reader.enter()
    expect([m.unmap(1, 0x1000, 0x1fff), m.detach(1, 9)]).toEqual([3, 3])
    pair.gone = true
    expect([m.unmap(1, 0x1000, 0x1fff), m.detach(1, 9)]).toEqual([OK, OK])
  })

  it('sets DEVICE_NEEDS_RESET where the driver turns bypass off', () => {
    const { m, pair } = rig()
    pair.reader.enter()
    expect(access(pair.port, m.ram, RAM, 8, W)).toEqual([8, RAM])
    m.registers.write(BYPASS_FIELD, 1, 0)
    expect(m.device.status & 0x40).toBe(0x40)
  })
})

describe('bounds', () => {
  it('more changes than are under way at most wake the worker and wait for it', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    const count = 2 * CHANGES + 10
    for (let i = 0; i < count; i++) m.map(1, i * 4096, i * 4096 + 4095, RAM + (i % 4) * 4096, BOTH)
    expect([pair.woken, pair.errors]).toEqual([2, []])
    pair.reader.enter()
    for (const i of [0, 1, CHANGES, count - 1])
      expect(access(pair.port, m.ram, i * 4096, 8, R)).toEqual([8, RAM + (i % 4) * 4096])
    pair.reader.leave()
    for (let i = 0; i < count; i += 512) expect(m.unmap(1, i * 4096, (i + 512) * 4096 - 1)).toBe(OK)
    pair.reader.enter()
    expect(access(pair.port, m.ram, 4096, 8, R)).toBe(null)
  })

  it('of more refused accesses than are under way at most, the others are counted; one message tells of all', () => {
    const { m, pair, far } = rig()
    m.registers.write(BYPASS_FIELD, 1, 0)
    pair.reader.enter()
    for (let i = 0; i < FAULT_RECORDS + 10; i++) access(pair.port, m.ram, i, 8, R)
    expect([pair.told, far.faults.count]).toEqual([1, 0])
    pair.writer.takeFaults()
    expect([far.faults.count, pair.writer.faultsLost]).toEqual([FAULT_RECORDS, 10])
    access(pair.port, m.ram, 2 ** 53 - 1, 8, R)
    pair.port.outOfReach(0xffff_ffff, 5, 4, W)
    pair.writer.takeFaults()
    expect([pair.told, far.faults.last().slice(-2)]).toEqual([
      2,
      [
        { port: 'far', address: 2 ** 53 - 1, length: 8, access: R, reason: 'unmapped' },
        { port: 'far', address: { high: 0xffff_ffff, low: 5 }, length: 4, access: W, reason: 'range' },
      ],
    ])
  })

  it('translations have one owner, and an endpoint with a copy no reserved regions', () => {
    const { m, pair } = rig()
    const refused = (act: () => unknown): string => {
      try {
        act()
      } catch (error) {
        expect(error).toBeInstanceOf(DeviceError)
        return (error as DeviceError).code
      }
      return 'nothing'
    }
    expect(refused(() => m.endpoint(10, { copy: pair.writer }))).toBe('DEVICE_OPTION')
    const reserved = [{ start: 0, end: 4095, kind: 'reserved' as const }]
    expect(refused(() => m.endpoint(11, { copy: new Pair(m.ram).writer, reserved }))).toBe('DEVICE_OPTION')
    expect(everything(m.ram.memory).windows).toHaveLength(1)
  })
})

describe('nonsense in the shared memory of translations', () => {
  it('from the side of the platform ends the worker or changes what it reaches, and it never hangs', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(), fc.integer()), { maxLength: 60 }), (writes) => {
        const { m, pair } = rig()
        m.attach(1, 9)
        m.map(1, 0x1000, 0x1fff, RAM)
        const words = new Int32Array(pair.memory)
        for (const [at, value] of writes) words[at % words.length] = value
        // The number of changes is what decides how long it takes.
        words[TAIL] = (words[16] + (words[TAIL] & (CHANGES - 1))) | 0
        try {
          pair.within(() => access(pair.port, m.ram, 0x1000, 8, R))
        } catch (error) {
          expect((error as DeviceError).code).toBe('WORKER_FAILED')
        }
      }),
      { numRuns: 200 },
    )
  })

  it('a change that does not fit is refused by name', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    m.map(1, 0x1000, 0x1fff, RAM)
    pair.writer.mapped(Float64Array.of(0x1800, 0x27ff, RAM, BOTH))
    expect(() => pair.reader.enter()).toThrow(/does not fit/)
    const other = rig()
    other.m.attach(1, 9)
    other.pair.writer.mapped(Float64Array.of(0x1000, 0x1fff, RAM, BOTH))
    const { changes, words } = translationsIn(other.pair.memory)
    changes[(words[TAIL] - 1) * CHANGE] = 9
    expect(() => other.pair.reader.enter()).toThrow(/kind 9/)
  })

  it('from the side of the worker costs the platform no more than a bounded number of records and one deadline', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(), fc.integer()), { maxLength: 60 }), (writes) => {
        const { m, pair, far } = rig(4096, 1)
        m.attach(1, 9)
        const words = new Int32Array(pair.memory)
        pair.onWake = () => {}
        pair.reader.enter()
        for (const [at, value] of writes) words[at % words.length] = value
        const { count } = far.faults
        pair.writer.takeFaults()
        expect(far.faults.count - count).toBeLessThanOrEqual(FAULT_RECORDS)
        m.map(1, 0x1000, 0x1fff, RAM)
        m.unmap(1, 0x1000, 0x1fff)
        expect(pair.errors.length).toBeLessThanOrEqual(1)
      }),
      { numRuns: 60 },
    )
  })
})
