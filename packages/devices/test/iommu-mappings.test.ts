import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MAPPING_CHUNK, MAPPING_CHUNK_MASK, MAPPING_NODE, MappingPool } from '../src/iommu/mapping-pool.ts'
import { Mappings } from '../src/iommu/mappings.ts'

type Mapping = [start: number, end: number, phys: number, flags: number]

/** The same, as a plain array that is searched from end to end. */
class Model {
  all: Mapping[] = []

  overlaps(start: number, end: number): boolean {
    return this.all.some(([s, e]) => s <= end && e >= start)
  }

  insert(mapping: Mapping): boolean {
    if (this.overlaps(mapping[0], mapping[1])) return false
    this.all.push(mapping)
    return true
  }

  remove(start: number, end: number): number {
    const affected = this.all.filter(([s, e]) => s <= end && e >= start)
    if (affected.some(([s, e]) => s < start || e > end)) return -1
    this.all = this.all.filter((mapping) => !affected.includes(mapping))
    return affected.length
  }

  find(address: number): Mapping | undefined {
    return this.all.find(([s, e]) => s <= address && e >= address)
  }

  sorted(): Mapping[] {
    return [...this.all].sort((a, b) => a[0] - b[0])
  }
}

/** Of a chunk of nodes. */
const CHUNK_BYTES = (MAPPING_CHUNK_MASK + 1) * 8

function keys(tree: Mappings, ...values: readonly number[]): Mappings {
  tree.keys.set(values)
  return tree
}

function contents(tree: Mappings): Mapping[] {
  const all: Mapping[] = []
  tree.forEach((...mapping) => {
    all.push(mapping)
  })
  return all
}

function find(tree: Mappings, address: number): Mapping | undefined {
  const at = keys(tree, address).find()
  return at < 0 ? undefined : ([...cells(tree, at).slice(0, 4)] as Mapping)
}

function cells(tree: Mappings, at: number): Float64Array {
  return tree.pool.cells[at >> MAPPING_CHUNK].subarray(at & MAPPING_CHUNK_MASK)
}

// xorshift32: the same numbers at every run, from the seed.
function random(seed: number): (below: number) => number {
  let x = seed
  return (below) => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) % below
  }
}

describe('the mapping store', () => {
  test.each([
    ['ranges of a few bytes', 1, 3000, 12],
    ['pages, dense', 4096, 400 * 4096, 3 * 4096],
    ['wide, with long removals', 1, 1_000_000, 2000],
    ['around 2^53', -1, 4000, 9],
  ])('10^5 operations agree with a plain array: %s', (_, unit, space, longest) => {
    const next = random(space + longest)
    const tree = new Mappings(new MappingPool())
    const model = new Model()
    const step = Math.abs(unit)
    const base = unit < 0 ? 2 ** 53 - space - longest - 1 : 0
    for (let i = 0; i < 100_000; i++) {
      const start = base + Math.floor(next(space) / step) * step
      // Phases of growing and of shrinking.
      const growing = next(10) < (Math.floor(i / 5000) % 2 === 0 ? 7 : 3)
      const long = !growing && next(20) === 0 ? 20 : 1
      const end = start + (1 + Math.floor((next(longest) * long) / step)) * step - 1 + (step === 1 ? 1 : 0)
      const known = model.all.length > 0 && next(2) === 0 ? model.all[next(model.all.length)] : undefined
      if (growing) {
        expect(keys(tree, start, end, i, i & 3).insert()).toBe(model.insert([start, end, i, i & 3]))
      } else {
        const [s, e] = known ?? [start, end]
        expect(keys(tree, s, e).remove()).toBe(model.remove(s, e))
      }
      const address = base + next(space)
      expect(find(tree, address)).toEqual(model.find(address))
      if (i % 7 === 0) expect(keys(tree, start, end).overlaps()).toBe(model.overlaps(start, end))
      if (i % 5000 === 0) expect(contents(tree)).toEqual(model.sorted())
    }
    expect(tree.count).toBe(model.all.length)
    expect(contents(tree)).toEqual(model.sorted())
    expect(keys(tree, 0, 2 ** 53 - 1).remove()).toBe(model.all.length)
    expect(contents(tree)).toEqual([])
    expect(tree.pool.used).toBe(1)
    tree.dispose()
    expect(tree.pool.used).toBe(0)
  })

  test('any sequence of a few operations', () => {
    const operation = fc.tuple(fc.constantFrom('insert', 'remove'), fc.nat(300), fc.nat(40))
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 300, size: 'max' }), (operations) => {
        const tree = new Mappings(new MappingPool())
        const model = new Model()
        for (const [what, start, more] of operations) {
          if (what === 'insert') {
            const end = start + 1 + (more % 4)
            expect(keys(tree, start, end, 0, 3).insert()).toBe(model.insert([start, end, 0, 3]))
          } else expect(keys(tree, start, start + more).remove()).toBe(model.remove(start, start + more))
        }
        expect(contents(tree)).toEqual(model.sorted())
      }),
      { numRuns: 100 },
    )
  })

  test('waves over 65536 pages, several levels deep: inner nodes split, thin out and merge', () => {
    const PAGES = 65_536
    const tree = new Mappings(new MappingPool())
    const mapped = new Int32Array(PAGES).fill(-1)
    const next = random(7)
    let count = 0
    let wrong = 0
    for (let wave = 0; wave < 60; wave++) {
      // A stretch is filled or emptied, upwards, downwards or at random, and not completely.
      const first = next(PAGES)
      const length = Math.min(PAGES - first, 1 + next(30_000))
      const order = next(3)
      const fills = wave < 6 || next(2) === 0
      for (let i = 0; i < length; i++) {
        const page = first + (order === 0 ? i : order === 1 ? length - 1 - i : next(length))
        if (next(25) === 0) continue
        keys(tree, page * 4096, page * 4096 + 4095, wave, 3)
        if (fills) {
          if (tree.insert() !== mapped[page] < 0) wrong++
          if (mapped[page] < 0) {
            mapped[page] = wave
            count++
          }
        } else {
          if (tree.remove() !== (mapped[page] < 0 ? 0 : 1)) wrong++
          if (mapped[page] >= 0) count--
          mapped[page] = -1
        }
      }
      for (let page = 0; page < PAGES; page++) {
        const at = keys(tree, page * 4096 + 5).find()
        if ((at < 0 ? -1 : cells(tree, at)[2]) !== mapped[page]) wrong++
      }
      expect([wave, wrong, tree.count]).toEqual([wave, 0, count])
    }
  })

  test('what lies between the key of an inner node and its first child outlives a merge of that node', () => {
    const tree = new Mappings(new MappingPool())
    const page = (n: number): Mappings => keys(tree, n * 4096, n * 4096 + 4095, n, 3)
    // Ascending: leaves of 16, and 16 of them to an inner node but for the last.
    for (let n = 0; n < 2048; n++) expect(page(n).insert()).toBe(true)
    // The second inner node loses its first leaf, and gets mappings below the next one.
    expect(keys(tree, 256 * 4096, 272 * 4096 - 1).remove()).toBe(16)
    for (let n = 260; n > 256; n--) expect(page(n).insert()).toBe(true)
    // The first one becomes sparse.
    for (let n = 0; n < 240; n++) {
      expect(page(n).remove()).toBe(1)
      for (const kept of [250, 257, 260, 272, 500]) expect(find(tree, kept * 4096)?.[2]).toBe(kept)
    }
  })

  // What a driver may do on purpose: many leaves, each with little in it.
  test.each([
    ['ascending', (i: number, n: number) => (i * 7) % (7 * n)],
    ['descending', (i: number, n: number) => 7 * (n - i)],
    ['descending behind every 16th', (i: number, n: number) => (i % 16) * n * 8 + 7 * (n - Math.floor(i / 16))],
    ['outwards from the middle', (i: number, n: number) => 7 * (i % 2 === 0 ? n + i : n - i)],
  ])('an average mapping takes at most 150 bytes: %s, thinned out, and refilled', (_, address) => {
    const tree = new Mappings(new MappingPool())
    const count = 20_000
    const bytes = (): number => (tree.pool.used * MAPPING_NODE * 8) / tree.count
    for (let i = 0; i < count; i++) {
      const at = address(i, count)
      expect(keys(tree, at, at + 6).insert()).toBe(true)
    }
    expect(bytes()).toBeLessThan(150)
    // Every mapping but one in 16.
    contents(tree).forEach(([start, end], i) => {
      if (i % 16 !== 5) expect(keys(tree, start, end).remove()).toBe(1)
    })
    expect(tree.count).toBe(count / 16)
    expect(bytes()).toBeLessThan(150)
  })

  test('domains share nodes: what one frees serves the next', () => {
    const pool = new MappingPool()
    const fill = (): Mappings => {
      const tree = new Mappings(pool)
      for (let i = 0; i < 5000; i++) keys(tree, i * 4, i * 4 + 3).insert()
      return tree
    }
    const first = fill()
    const { bytes, used } = pool
    for (let i = 0; i < 5000; i++) {
      keys(first, i * 4, i * 4 + 3).remove()
      if (i % 1000 === 0) expect(pool.bytes).toBeLessThanOrEqual(bytes)
    }
    const second = fill()
    expect(pool.used).toBe(used + 1)
    expect(pool.bytes).toBeLessThanOrEqual(bytes + CHUNK_BYTES)
    first.dispose()
    second.dispose()
    expect(pool.used).toBe(0)
  })

  test('domains that come and go share one pool, and none sees what another one holds', () => {
    const pool = new MappingPool()
    const next = random(99)
    const trees = Array.from({ length: 4 }, () => ({ tree: new Mappings(pool), mapped: new Map<number, number>() }))
    for (let round = 0; round < 400; round++) {
      const at = next(trees.length)
      const { tree, mapped } = trees[at]
      const first = next(20_000)
      const length = 1 + next(2000)
      const action = next(5)
      if (action < 3) {
        for (let page = first; page < first + length; page++) {
          expect(keys(tree, page * 2, page * 2 + 1, round, 3).insert()).toBe(!mapped.has(page))
          if (!mapped.has(page)) mapped.set(page, round)
        }
      } else if (action === 3) {
        let expected = 0
        for (let page = first; page < first + 4 * length; page++) if (mapped.delete(page)) expected++
        expect(keys(tree, first * 2, (first + 4 * length) * 2 - 1).remove()).toBe(expected)
      } else if (next(4) === 0) {
        tree.dispose()
        trees[at] = { tree: new Mappings(pool), mapped: new Map() }
      }
      if (round % 20 === 0)
        for (const other of trees)
          expect(contents(other.tree).map(([start, , phys]) => [start / 2, phys])).toEqual(
            [...other.mapped].sort((a, b) => a[0] - b[0]),
          )
    }
    for (const { tree } of trees) tree.dispose()
    expect(pool.used).toBe(0)
  })

  test('memory is given back: what mappings took goes with them, in whatever order', () => {
    const pool = new MappingPool()
    const empty = new Mappings(pool)
    const least = pool.bytes
    const COUNT = 100_000
    const orders: readonly ((i: number) => number)[] = [(i) => i, (i) => COUNT - 1 - i, (i) => (i * 7919) % COUNT]
    for (const order of orders) {
      const tree = new Mappings(pool)
      for (let i = 0; i < COUNT; i++) keys(tree, i * 4, i * 4 + 3).insert()
      const most = pool.bytes
      expect(most).toBeGreaterThan(COUNT * 32)
      for (let i = 0; i < COUNT; i++) expect(keys(tree, order(i) * 4, order(i) * 4 + 3).remove()).toBe(1)
      // Tables of some bytes for each chunk may stay.
      expect(pool.bytes).toBeLessThanOrEqual(least + 2 * CHUNK_BYTES + most / 20)
      for (let i = 0; i < COUNT; i++) keys(tree, i * 4, i * 4 + 3).insert()
      tree.dispose()
      // Tables of some bytes for each chunk may stay.
      expect(pool.bytes).toBeLessThanOrEqual(least + 2 * CHUNK_BYTES + most / 20)
    }
    empty.dispose()
  })

  test('growing copies no mappings: a chunk stays where it is until it is given back', () => {
    const tree = new Mappings(new MappingPool())
    keys(tree, 0, 3).insert()
    const [first] = tree.pool.cells
    let chunks = 1
    for (let i = 1; i < 200_000; i++) {
      keys(tree, i * 4, i * 4 + 3).insert()
      expect(tree.pool.cells.length - chunks).toBeLessThanOrEqual(1)
      chunks = tree.pool.cells.length
    }
    expect(tree.pool.cells[0]).toBe(first)
    expect(chunks).toBeGreaterThan(100)
  })

  test('a removal may be done in parts, and each removes no more than it is told', () => {
    const next = random(11)
    for (let round = 0; round < 30; round++) {
      const tree = new Mappings(new MappingPool())
      const model = new Model()
      for (let i = 0; i < 1500; i++) {
        const start = next(4000) * 4
        expect(keys(tree, start, start + 3, i, 3).insert()).toBe(model.insert([start, start + 3, i, 3]))
      }
      const [start, end] = [next(2000) * 4, 15_999 - next(200) * 4]
      const most = 1 + next(70)
      const expected = model.remove(start, end)
      let removed = 0
      for (;;) {
        const n = keys(tree, start, end).remove(most)
        expect(n).toBeLessThanOrEqual(most)
        removed += n
        if (n < most) break
      }
      expect(removed).toBe(expected)
      expect(contents(tree)).toEqual(model.sorted())
    }
  })

  test('10^6 mappings: found, removed in one go', () => {
    const tree = new Mappings(new MappingPool())
    // All pages, in an order that is neither ascending nor random: 7919 is prime.
    for (let i = 0; i < 1_000_000; i++) {
      const page = (i * 7919) % 1_000_000
      keys(tree, page * 4096, page * 4096 + 4095, page, 3).insert()
    }
    expect(tree.count).toBe(1_000_000)
    for (let i = 0; i < 1_000_000; i += 997) expect(find(tree, i * 4096 + 17)?.[2]).toBe(i)
    expect(keys(tree, 4096, 2 ** 53 - 1).remove()).toBe(999_999)
    expect(tree.pool.used).toBe(1)
    expect(contents(tree)).toEqual([[0, 4095, 0, 3]])
  })
})
