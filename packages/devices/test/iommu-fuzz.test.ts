import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { IommuPort } from '../src/index.ts'
import { pattern } from './support/guest.ts'
import {
  ATTACH,
  access,
  DETACH,
  halves,
  INVAL,
  IommuMachine,
  MAP,
  NOENT,
  NOMEM,
  NOT_WRITTEN,
  OK,
  pack,
  RANGE,
  UNMAP,
} from './support/iommu.ts'

const RAM = 0x8000_0000n
const END_OF_NUMBERS = 2n ** 53n

interface ModelDomain {
  readonly bypass: boolean
  readonly members: Set<number>
  mappings: { start: bigint; end: bigint; phys: bigint; flags: number }[]
}

/** §5.13.6 over bigints and plain arrays. */
class Model {
  readonly domains = new Map<number, ModelDomain>()
  readonly granule: bigint
  readonly input: { start: bigint; end: bigint }
  readonly endpoints: readonly number[]
  readonly reserved: ReadonlyMap<number, readonly [bigint, bigint]>
  maxMappings = Infinity

  constructor(
    granule: number,
    input: { start: number; end: number },
    endpoints: readonly number[],
    reserved: ReadonlyMap<number, readonly [bigint, bigint]>,
  ) {
    this.granule = BigInt(granule)
    this.input = { start: BigInt(input.start), end: BigInt(input.end) }
    this.endpoints = endpoints
    this.reserved = reserved
  }

  of(endpoint: number): number | undefined {
    for (const [id, { members }] of this.domains) if (members.has(endpoint)) return id
    return undefined
  }

  leave(endpoint: number): void {
    const id = this.of(endpoint)
    if (id === undefined) return
    const domain = this.domains.get(id) as ModelDomain
    domain.members.delete(endpoint)
    if (domain.members.size === 0) this.domains.delete(id)
  }

  attach(id: number, endpoint: number, flags: number, reserved: number): number {
    if (reserved !== 0 || flags > 1) return INVAL
    if (!this.endpoints.includes(endpoint)) return NOENT
    const domain = this.domains.get(id)
    if (domain !== undefined && domain.bypass !== (flags === 1)) return INVAL
    if (this.of(endpoint) === id) return OK
    const region = this.reserved.get(endpoint)
    const clash =
      region !== undefined && domain?.mappings.some(({ start, end }) => start <= region[1] && end >= region[0])
    if (clash === true) return 2
    this.leave(endpoint)
    if (!this.domains.has(id)) this.domains.set(id, { bypass: flags === 1, members: new Set(), mappings: [] })
    this.domains.get(id)?.members.add(endpoint)
    return OK
  }

  detach(id: number, endpoint: number): number {
    if (!this.endpoints.includes(endpoint)) return NOENT
    if (this.of(endpoint) !== id) return INVAL
    this.leave(endpoint)
    return OK
  }

  map(id: number, start: bigint, end: bigint, phys: bigint, flags: number): number {
    if (flags > 3) return INVAL
    const domain = this.domains.get(id)
    if (domain === undefined) return NOENT
    if (domain.bypass) return INVAL
    const { granule, input } = this
    if (start % granule !== 0n || phys % granule !== 0n || (end + 1n) % granule !== 0n) return RANGE
    if (end <= start) return INVAL
    if (start < input.start || end > input.end || phys + end - start >= END_OF_NUMBERS) return RANGE
    if (domain.mappings.some((other) => other.start <= end && other.end >= start)) return INVAL
    for (const member of domain.members) {
      const region = this.reserved.get(member)
      if (region !== undefined && start <= region[1] && end >= region[0]) return INVAL
    }
    if ([...this.domains.values()].reduce((sum, { mappings }) => sum + mappings.length, 0) >= this.maxMappings)
      return NOMEM
    domain.mappings.push({ start, end, phys, flags })
    return OK
  }

  unmap(id: number, start: bigint, end: bigint, reserved: number): number {
    if (reserved !== 0) return INVAL
    const domain = this.domains.get(id)
    if (domain === undefined) return NOENT
    if (domain.bypass || end < start) return INVAL
    const affected = domain.mappings.filter((other) => other.start <= end && other.end >= start)
    if (affected.some((other) => other.start < start || other.end > end)) return RANGE
    domain.mappings = domain.mappings.filter((other) => !affected.includes(other))
    return OK
  }

  access(endpoint: number, address: bigint, length: bigint, kind: 1 | 2): [number, number] | null {
    const id = this.of(endpoint)
    if (id === undefined) return null
    const domain = this.domains.get(id) as ModelDomain
    let granted = length
    let phys = address
    if (!domain.bypass) {
      const found = domain.mappings.find(({ start, end }) => start <= address && end >= address)
      if (found === undefined || (found.flags & kind) === 0) return null
      if (found.end - address + 1n < granted) granted = found.end - address + 1n
      phys = found.phys + address - found.start
    } else {
      const region = this.reserved.get(endpoint)
      if (region !== undefined && address >= region[0] && address <= region[1]) return null
      if (region !== undefined && address < region[0] && region[0] - address < granted) granted = region[0] - address
    }
    const top = RAM + 0x10_0000n
    if (phys < RAM || phys >= top) return null
    return [Number(phys + granted > top ? top - phys : granted), Number(phys)]
  }
}

const ENDPOINTS = [0, 8, 0xffff_ffff]
const endpoint = fc.constantFrom(...ENDPOINTS, 9)
const domain = fc.constantFrom(0, 1, 2, 0xffff_ffff)
const rarely = <T>(usual: fc.Arbitrary<T>, rare: fc.Arbitrary<T>): fc.Arbitrary<T> =>
  fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: rare })
const extreme = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(2n ** 53n, 2n ** 64n - 1n, 2n ** 63n),
)

/** [address, address + length) as elements that end at these places. */
function pieces(address: number, length: number, splits: readonly number[]): { address: number; length: number }[] {
  const ends = [...new Set([...splits.filter((end) => end < length), length])].sort((a, b) => a - b)
  return ends.map((end, i) => {
    const from = i === 0 ? 0 : ends[i - 1]
    return { address: address + from, length: end - from }
  })
}

describe('hostile requests, against a model over bigints (virtio 1.4 §5.13.6)', () => {
  test.each([
    [1, 20n, { start: 0, end: 2 ** 48 - 1 }],
    [64, 15n, { start: 64, end: 1023 }],
    [4096, 30n, { start: 0, end: 2 ** 53 - 1 }],
    [65536, 12n, { start: 0, end: 2 ** 40 }],
  ])('granule %i', (granule, span, input) => {
    const g = BigInt(granule)
    // Few distinct addresses, so that ranges meet; now and then one byte off, or anything in 64 bits.
    const unit = fc.bigInt({ min: 0n, max: span })
    const start = rarely(
      unit.map((n) => n * g),
      extreme,
    )
    const end = rarely(
      fc.oneof(
        unit.map((n) => (n + 1n) * g - 1n),
        unit.map((n) => n * g),
      ),
      extreme,
    )
    const phys = rarely(
      unit.map((n) => RAM + n * g),
      extreme,
    )
    const flags = rarely(fc.constantFrom(0, 1, 2, 3, 3, 3), fc.nat(2 ** 31 - 1))
    const zero = rarely(fc.constant(0), fc.constant(0x100))
    const step = fc.oneof(
      {
        weight: 2,
        arbitrary: fc.tuple(
          fc.constant('attach' as const),
          domain,
          endpoint,
          rarely(fc.constantFrom(0, 0, 0, 1), fc.constant(4)),
          zero,
        ),
      },
      { weight: 1, arbitrary: fc.tuple(fc.constant('detach' as const), domain, endpoint, zero) },
      { weight: 9, arbitrary: fc.tuple(fc.constant('map' as const), domain, start, end, phys, flags) },
      { weight: 5, arbitrary: fc.tuple(fc.constant('unmap' as const), domain, start, end, zero) },
      {
        weight: 9,
        arbitrary: fc.tuple(
          fc.constant('access' as const),
          fc.constantFrom(...ENDPOINTS),
          unit,
          fc.bigInt({ min: 0n, max: g - 1n }),
          fc.constantFrom(1 as const, 2 as const),
          fc.constantFrom(1, 7, 5000),
        ),
      },
      { weight: 1, arbitrary: fc.tuple(fc.constant('reset' as const)) },
    )
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 20, maxLength: 120, size: 'max' }),
        fc.constantFrom(4, 1000),
        (steps, maxMappings) => {
          const m = new IommuMachine({ granule, inputRange: input, maxMappings }).start()
          const region: [bigint, bigint] = [5n * g, 6n * g - 1n]
          const reserved = new Map([[8, region]])
          const model = new Model(granule, input, ENDPOINTS, reserved)
          model.maxMappings = maxMappings
          const ports = new Map<number, IommuPort>()
          for (const id of ENDPOINTS) {
            const regions =
              id === 8 ? [{ start: Number(region[0]), end: Number(region[1]), kind: 'reserved' as const }] : []
            ports.set(id, m.endpoint(id, { reserved: regions }))
          }
          for (const step of steps) {
            if (step[0] === 'attach') {
              const [, d, e, f, r] = step
              expect(m.attach(d, e, f, r)).toBe(model.attach(d, e, f, r))
            } else if (step[0] === 'detach') {
              const [, d, e, r] = step
              expect(m.detach(d, e, r)).toBe(model.detach(d, e))
            } else if (step[0] === 'map') {
              const [, d, s, e, p, f] = step
              expect(m.map(d, s, e, p, f)).toBe(model.map(d, s, e, p, f))
            } else if (step[0] === 'unmap') {
              const [, d, s, e, r] = step
              expect(m.unmap(d, s, e, r)).toBe(model.unmap(d, s, e, r))
            } else if (step[0] === 'access') {
              const [, id, page, into, kind, length] = step
              const address = page * g + into
              for (const from of [address, address + RAM]) {
                const answer = access(ports.get(id) as IommuPort, m.ram, Number(from), length, kind)
                expect(answer).toEqual(model.access(id, from, BigInt(length), kind))
              }
            } else {
              m.start()
              model.domains.clear()
            }
          }
          const all = [...model.domains.values()]
          expect(m.device.counters).toMatchObject({
            domains: all.length,
            mappings: all.reduce((sum, { mappings }) => sum + mappings.length, 0),
          })
          expect(m.device.live).toBe(true)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('any bytes in any framing: answered or not, the device lives and its memory is its own', () => {
    const word = fc.oneof(fc.constantFrom(0, 1, 2, 8, 0xfff, 0x1000, 0xffff_ffff), fc.nat(2 ** 31 - 1))
    const request = fc.record({
      type: fc.oneof(fc.constantFrom(ATTACH, DETACH, MAP, UNMAP, 5), fc.nat(255)),
      words: fc.array(word, { maxLength: 20 }),
      cut: fc.nat(6),
      writable: fc.constantFrom(0, 3, 4, 5, 9, 515, 516, 600),
      splits: fc.array(fc.nat(40), { maxLength: 4 }),
    })
    fc.assert(
      fc.property(fc.array(request, { maxLength: 40 }), (requests) => {
        const m = new IommuMachine({}, 32).start()
        m.endpoint(8, { reserved: [{ start: 0x1000, end: 0x1fff, kind: 'msi' }] })
        m.attach(1, 8)
        const guard = m.ram.put(pattern(4096), 4096)
        for (const { type, words, cut, writable, splits } of requests) {
          const bytes = pack(type, words)
          const kept = bytes.subarray(0, Math.max(0, bytes.length - cut))
          const address = m.ram.put(kept, 16)
          const room = m.ram.put(new Uint8Array(writable).fill(0xee), 1)
          const reads = pieces(address, kept.length, splits)
          const writes = pieces(room, writable, splits).map((piece) => ({ ...piece, w: true }))
          const used = m.raw(...reads, ...writes)
          const answer = m.ram.get(room, writable)
          if (used === 0) expect(answer.every((byte) => byte === 0xee)).toBe(true)
          else {
            expect(used).toBe(writable)
            expect(answer[writable - 4]).toBeLessThanOrEqual(NOMEM)
            expect([...answer.subarray(writable - 3)]).toEqual([0, 0, 0])
            if (type !== 5) expect(answer.subarray(0, writable - 4).every((byte) => byte === 0)).toBe(true)
          }
          if (writable < 4 || type === 0 || type > 5) expect(used).toBe(0)
        }
        expect(m.ram.get(guard, 4096)).toEqual(pattern(4096))
        expect(m.device.live).toBe(true)
      }),
      { numRuns: 200 },
    )
  })

  test('one machine, 10^5 requests and accesses', () => {
    const m = new IommuMachine({ granule: 1, inputRange: { start: 0, end: 4095 } }).start()
    const model = new Model(1, { start: 0, end: 4095 }, [8], new Map())
    const port = m.endpoint(8)
    expect(m.attach(1, 8)).toBe(model.attach(1, 8, 0, 0))
    let x = 0x2545_f491
    const next = (below: number): number => {
      x ^= x << 13
      x ^= x >>> 17
      x ^= x << 5
      return (x >>> 0) % below
    }
    const wrong: unknown[] = []
    for (let i = 0; i < 100_000; i++) {
      m.ram.writes.length = 0
      const start = next(4096)
      const end = start + next(40)
      const got =
        next(5) < 3
          ? [
              m.map(1, start, end, 0x8000_0000 + start),
              model.map(1, BigInt(start), BigInt(end), RAM + BigInt(start), 3),
            ]
          : [m.unmap(1, start, end + 40), model.unmap(1, BigInt(start), BigInt(end + 40), 0)]
      const address = next(4096)
      const reached = access(port, m.ram, address, 8, 1)
      const expected = model.access(8, BigInt(address), 8n, 1)
      if (got[0] !== got[1] || String(reached) !== String(expected)) wrong.push([i, start, end, got, reached, expected])
    }
    expect(wrong).toEqual([])
    expect(m.device.counters.tlbHits).toBeGreaterThan(1000)
    expect(m.request(pack(77, [...halves(0)]))).toBe(NOT_WRITTEN)
  })
})
