import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DeviceError } from '../src/index.ts'
import { APPLIED, CHANGE, CHANGES, FAULT_RECORDS, PASSED, TAIL, translationsIn } from '../src/worker/translations.ts'
import { access, BOTH, OK } from './support/iommu.ts'
import { BYPASS_FIELD, Pair, rig } from './support/translations.ts'

const RAM = 0x8000_0000
const R = 1
const W = 2

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

  it('changes are counted beyond 2^31', () => {
    const { m, pair } = rig()
    m.attach(1, 9)
    pair.within(() => {})
    const near = 2 ** 31 - 3
    Object.assign(pair.writer, { tail: near, removed: near })
    Object.assign(pair.reader, { applied: near, passed: near })
    const { words } = translationsIn(pair.memory)
    words[TAIL] = words[APPLIED] = words[PASSED] = near
    for (let i = 0; i < 8; i++) {
      expect(m.map(1, 0x1000, 0x1fff, RAM)).toBe(OK)
      expect(pair.within(() => access(pair.port, m.ram, 0x1000, 8, R))).toEqual([8, RAM])
      expect(m.unmap(1, 0x1000, 0x1fff)).toBe(OK)
      expect(pair.within(() => access(pair.port, m.ram, 0x1000, 8, R))).toBe(null)
    }
    expect(words[PASSED]).toBeLessThan(0)
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
