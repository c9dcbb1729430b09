import { BusWindows, everything } from '@guestdma/devices'
import { DmaMappings } from '@guestdma/dma'
import { type BusPort, GuestMemory } from '@guestdma/memory'
import fc from 'fast-check'
import { directScheme } from 'guestdma'
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/contract/random.ts'
import { Attacker } from '../../src/exposure/attacker.ts'
import { noAmounts } from '../../src/exposure/classes.ts'
import { VirtualClock } from '../../src/exposure/clock.ts'
import { Ledger } from '../../src/exposure/ledger.ts'
import { type AttackOptions, exposureCases } from '../../src/exposure/options.ts'
import { Places } from '../../src/exposure/places.ts'
import { candidates, Prober } from '../../src/exposure/reach.ts'
import { Secrets } from '../../src/exposure/secrets.ts'
import { blocks, bytesOf, difference, intersection, type Spans, union } from '../../src/exposure/spans.ts'
import {
  attack,
  EXPOSURE_CLASSES,
  ExposureError,
  type ExposureResult,
  exposed,
  exposureTable,
} from '../../src/index.ts'

const BASE = 0x8000_0000
const RAM = 1 << 20

function stage(ram = new ArrayBuffer(RAM)): {
  memory: GuestMemory
  bytes: Uint8Array
  secrets: Secrets
  places: Places
} {
  const bytes = new Uint8Array(ram)
  const secrets = new Secrets(bytes, new Random(1))
  const memory = new GuestMemory([{ base: BASE, length: RAM, memory: ram }])
  return { memory, bytes, secrets, places: new Places(memory) }
}

describe('a look', () => {
  test('leaves memory as it was, although every page was written', () => {
    const { bytes, memory, places, secrets } = stage()
    const before = bytes.slice()
    const attacker = new Attacker(new Ledger(places, everything(memory)), [], secrets, new Random(2), BASE)
    const { readable, writable } = attacker.look()
    expect([readable.foreign, writable.foreign]).toEqual([RAM, RAM])
    expect(attacker.prober.counts.written).toBeGreaterThanOrEqual(RAM / 4096)
    expect(Buffer.compare(bytes, before)).toBe(0)
  })

  test('does not count memory that was cleared, or that a port permits to read only', () => {
    const { memory, places, secrets } = stage()
    const [region] = memory.regions
    const port = new BusWindows('some', [
      { base: 0x1000, length: 0x2000, region, offset: 0x4000, access: 1 },
      { base: 0x9000, length: 0x1000, region, offset: 0x8000 },
    ])
    secrets.clear(0x8000, 0x1000)
    const { readable, writable } = new Attacker(new Ledger(places, port), [], secrets, new Random(2), BASE).look()
    expect(readable.foreign).toBe(0x2000)
    expect(writable.foreign).toBe(0)
  })

  test('counts a byte once, whatever number of addresses lead to it', () => {
    const { memory, places, secrets } = stage()
    const [region] = memory.regions
    const window = { length: 0x1000, region, offset: 0x4000 }
    const port = new BusWindows('twice', [
      { base: 0x1000, ...window },
      { base: 0x7000, ...window },
    ])
    const { readable } = new Attacker(new Ledger(places, port), [], secrets, new Random(2), BASE).look()
    expect(readable.foreign).toBe(0x1000)
  })
})

describe('what a port reaches', () => {
  test('is found to both ends of a span, from any address inside, without its table', () => {
    const { memory, places } = stage()
    const [region] = memory.regions
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 0, max: 4999 }),
        (gap, length, into) => {
          const port = new BusWindows('span', [{ base: gap, length, region, offset: 0x100 }])
          const prober = new Prober(port, places)
          const inside = into % length
          expect(prober.reach([gap + inside], 1).places).toEqual([0x100, 0x100 + length])
          expect(prober.reach([gap - 1, gap + length], 1).places).toEqual([])
          expect(prober.counts.refused).toBeGreaterThan(0)
        },
      ),
    )
  })
})

describe('addresses to begin at', () => {
  const GRANULE = 4096
  const FAR = 1 << 20

  /** A ledger of a device that was lent 300 buffers far apart, which were all taken back. */
  function used(port: BusPort, places: Places): Ledger {
    const ledger = new Ledger(places, port)
    ledger.granule = GRANULE
    const m = new DmaMappings(300)
    for (let row = 0; row < m.rows; row++) {
      m.guest[row] = BASE
      m.device[row] = FAR * (row + 1) + 100
      m.length[row] = m.deviceLength[row] = 64
      ledger.mapped(m, row)
    }
    for (let row = 0; row < m.rows; row++) ledger.unmapped(m, row)
    return ledger
  }

  test('at a port of others: every address ever lent, and a granule around it', () => {
    const { memory, places } = stage()
    // What makes it one of ours is its class.
    const port: BusPort = Object.assign(Object.create(null), everything(memory))
    const found = new Set(candidates(used(port, places), BASE, RAM, new Random(1)))
    for (let row = 0; row < 300; row++) {
      const at = FAR * (row + 1)
      expect([at + 100, at - GRANULE, at + GRANULE].filter((address) => !found.has(address))).toEqual([])
    }
  })

  test('at a port of ours: what its table has, and what was taken back last', () => {
    const { memory, places } = stage()
    const found = new Set(candidates(used(everything(memory), places), BASE, RAM, new Random(1)))
    expect(found.has(BASE)).toBe(true)
    for (let row = 299; row > 299 - 128; row--) expect(found.has(FAR * (row + 1) + 100)).toBe(true)
    expect(found.size).toBeLessThan(3 * 300)
  })
})

describe('spans', () => {
  const some = fc
    .array(fc.tuple(fc.nat(60), fc.nat(12)), { maxLength: 6 })
    .map((pairs) => union(pairs.flatMap(([at, length]) => [at, at + length])))
  const members = (spans: Spans): Set<number> => {
    const found = new Set<number>()
    for (let i = 0; i < spans.length; i += 2) for (let at = spans[i]; at < spans[i + 1]; at++) found.add(at)
    return found
  }

  test('are sets of bytes', () => {
    fc.assert(
      fc.property(some, some, (a, b) => {
        const [inA, inB] = [members(a), members(b)]
        expect(members(union(a, b))).toEqual(new Set([...inA, ...inB].sort((x, y) => x - y)))
        expect(members(intersection(a, b))).toEqual(new Set([...inA].filter((at) => inB.has(at))))
        expect(members(difference(a, b))).toEqual(new Set([...inA].filter((at) => !inB.has(at))))
        expect(bytesOf(a)).toBe(inA.size)
        for (const at of members(blocks(a, 8)))
          expect([...inA].some((one) => Math.floor(one / 8) === Math.floor(at / 8))).toBe(true)
        for (const at of inA) expect(members(blocks(a, 8)).has(at)).toBe(true)
      }),
    )
  })
})

describe('the virtual clock', () => {
  test('drives timers and what tells the time, in order, and gives both back', () => {
    const clock = new VirtualClock()
    const { clearTimeout, setTimeout } = globalThis
    const happened: unknown[] = []
    clock.during(() => {
      setTimeoutOf()(() => happened.push(['late', performance.now()]), 7)
      setTimeoutOf()(() => happened.push(['early', performance.now(), Date.now()]), 3)
      const never = setTimeoutOf()(() => happened.push('never'), 4)
      globalThis.clearTimeout(never)
      clock.until(
        10,
        (milliseconds) => happened.push(milliseconds),
        () => happened.push('fired'),
      )
    })
    expect(happened).toEqual([3, ['early', 3, 3], 'fired', 4, ['late', 7], 'fired', 3])
    expect([globalThis.setTimeout, globalThis.clearTimeout]).toEqual([setTimeout, clearTimeout])
    expect(performance.now()).not.toBe(10)
  })

  test('is taken away again where what it drives throws', () => {
    const { setTimeout } = globalThis
    expect(() =>
      new VirtualClock().during(() => {
        throw new Error('stop')
      }),
    ).toThrow('stop')
    expect(globalThis.setTimeout).toBe(setTimeout)
  })

  const setTimeoutOf = (): typeof setTimeout => globalThis.setTimeout
})

describe('options', () => {
  const good: AttackOptions = {
    schemes: { direct: () => directScheme() },
    backend: 'direct',
    driver: 'net',
    operation: 'transmit',
    mode: 'map',
    ring: 'split',
    bytes: 64,
  }
  const bad: [Partial<Record<keyof AttackOptions, unknown>>, string][] = [
    [{ backend: 'magic' }, 'EXPOSURE_SCHEME'],
    [{ backend: 'toString' }, 'EXPOSURE_SCHEME'],
    [{ driver: 'gpu' }, 'EXPOSURE_WORK'],
    [{ operation: 'read' }, 'EXPOSURE_WORK'],
    [{ mode: 'pool-header' }, 'EXPOSURE_WORK'],
    [{ mode: 'zero-copy' }, 'EXPOSURE_WORK'],
    [{ ring: 'round' }, 'EXPOSURE_WORK'],
    [{ bytes: 10 }, 'EXPOSURE_SETTING'],
    [{ driver: 'blk', operation: 'read', bytes: 1000 }, 'EXPOSURE_SETTING'],
    [{ perSecond: -1 }, 'EXPOSURE_SETTING'],
    [{ perSecond: Number.NaN }, 'EXPOSURE_SETTING'],
    [{ ringFill: 1.5 }, 'EXPOSURE_SETTING'],
    [{ ringFill: 0 }, 'EXPOSURE_SETTING'],
    [{ ramBytes: 4096 }, 'EXPOSURE_SETTING'],
    [{ seconds: 0 }, 'EXPOSURE_SETTING'],
    [{ seconds: Infinity }, 'EXPOSURE_SETTING'],
    [{ seed: 0.5 }, 'EXPOSURE_SETTING'],
  ]
  test.each(bad)('%j is refused with %s, before a scheme is made', async (options, code) => {
    let made = 0
    const schemes = {
      direct: () => {
        made++
        return directScheme()
      },
    }
    const error = await attack({ ...good, schemes, ...options } as AttackOptions).catch((caught: unknown) => caught)
    expect(error).toBeInstanceOf(ExposureError)
    expect((error as ExposureError).code).toBe(code)
    expect(made).toBe(0)
  })

  test('the cases cover each scheme, operation, mode and size once', () => {
    const cases = exposureCases(['one', 'two'])
    const key = ({ backend, driver, operation, mode, bytes }: Omit<AttackOptions, 'schemes'>): string =>
      [backend, driver, operation, mode, bytes].join(' ')
    expect(new Set(cases.map(key)).size).toBe(cases.length)
    expect(cases.length).toBe(2 * (2 + 3 + 2 + 2) * 2)
    expect(cases.map(key)).toContain('two net receive pool-header 1514')
  })
})

describe('a result in one figure and in a table', () => {
  const amounts = noAmounts()
  for (const [i, name] of EXPOSURE_CLASSES.entries()) amounts[name] = 10 ** i
  const result: ExposureResult = {
    driver: 'net',
    operation: 'transmit',
    backend: 'mine',
    mode: 'map',
    ring: 'packed',
    bytes: 64,
    setting: { ramBytes: RAM, perSecond: 1, ringFill: 1, seconds: 1 },
    readable: amounts,
    writable: { ...noAmounts(), metadata: 5, 'own-residue': 3, mutable: 0.25 },
    beforeAttach: { readable: 0, writable: 4096 },
    probes: { tried: 0, read: 0, written: 0, refused: 0 },
  }

  test('what a device had already and what every scheme exposes are left out of the figure', () => {
    const left = EXPOSURE_CLASSES.filter((name) => name !== 'own-residue' && name !== 'metadata')
    expect(exposed(result)).toEqual({ readable: left.reduce((sum, name) => sum + amounts[name], 0), writable: 0.25 })
  })

  test('a table has two rows for each result, and never shows a little as nothing', () => {
    const [head, rule, reads, writes] = exposureTable([result]).split('\n')
    const columns = head.split('|').length
    expect([rule, reads, writes].map((row) => row.split('|').length)).toEqual([columns, columns, columns])
    expect(reads).toContain('| `mine` | net transmit map packed | 64 | read | 111,111 |')
    expect(writes).toBe('| `mine` | net transmit map packed | 64 | write | 1 | – | – | – | – | 1 | – | 3 | 5 | 4,096 |')
  })
})
