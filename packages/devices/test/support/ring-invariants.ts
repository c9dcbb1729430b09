import { ROW, ROW_FETCHED } from '../../src/ring/chain-table.ts'
import type { RingWalker } from '../../src/ring.ts'

const MARKS = 0x8080_0000 | 0
const AVAILABLE = 0x80 << 16
const WRAP_16 = 0x1_0000

// The state of a ring is private, and is looked at here alone.
function field<T>(object: object, name: string): T {
  return Reflect.get(object, name) as T
}

/** What always holds between two calls of the device's half, as its docstrings say. Throws where it does not. */
export function checkRing(walker: RingWalker): void {
  const must = (holds: boolean, what: string): void => {
    if (!holds) throw new Error(`between two calls: ${what}`)
  }
  const ring = field<object>(walker, 'ring')
  const size = field<number>(ring, 'size')
  const { chains } = walker
  const { columns, next, row0, segments, to } = chains
  const [loaded, number] = [field<number>(chains, 'loaded'), field<number>(chains, 'number')]
  const rows = `rows ${row0} to ${next} were taken, and those to ${to} loaded, of a queue of ${size}`
  must(next >= 0 && next <= to && to - next <= size, rows)
  // A chain that was taken again stands behind all others, alone.
  must(row0 <= next ? next - row0 <= size : row0 === to, rows)
  must(to * ROW < columns.length, `${rows}, and ${columns.length} words`)
  const begins = Array.from({ length: to - next }, (_, i) => columns[(next + i) * ROW + ROW_FETCHED])
  must(
    begins.every((begin, i) => begin >= 0 && begin < (begins[i + 1] ?? loaded)),
    `chains begin at ${begins}, and ${loaded} descriptors are loaded`,
  )
  must(loaded <= segments && segments <= chains.regions.length, `${loaded} are loaded, ${segments} are in use`)
  const completed = field<number>(walker, 'completed')
  must(Number.isInteger(number) && number >= 0 && number < WRAP_16, `a chain has the number ${number}`)
  must(completed >= 0 && completed < WRAP_16, `chain ${completed} completes next`)
  const [get, flag] = [(name: string) => field<number>(ring, name), (name: string) => field<boolean>(ring, name)]
  if (!flag('attached')) return
  if (field<object>(walker, 'split') === ring) {
    const [published, used, after, available] = ['published', 'used', 'next', 'available'].map(get)
    const all = `published ${published}, used ${used}, next ${after}, available ${available}, size ${size}`
    must(
      [published, used, after, available].every((i) => Number.isInteger(i) && i >= 0 && i < WRAP_16),
      all,
    )
    const behind = (index: number): number => (index - published) & 0xffff
    must(behind(used) <= behind(after) && behind(after) <= behind(available) && behind(available) <= size, all)
    must(to - next <= behind(after) - behind(used), `${to - next} chains wait, ${all}`)
    return
  }
  const [at, marks, usedAt, usedMarks, heldAt, passed] = ['at', 'marks', 'usedAt', 'usedMarks', 'heldAt', 'passed'].map(
    get,
  )
  const counts = [...field<Uint16Array>(ring, 'counts')]
  must(at >= 0 && at < size && usedAt >= 0 && usedAt < size, `at ${at} and ${usedAt} of ${size}`)
  must(marks === AVAILABLE || marks === (MARKS ^ AVAILABLE), `marks ${marks} make a descriptor available`)
  must(usedMarks === MARKS || usedMarks === 0, `marks ${usedMarks} make a descriptor used`)
  const sameLap = (marks === AVAILABLE) === (usedMarks === MARKS)
  const between = at - usedAt + (sameLap ? 0 : size)
  const taken = counts.reduce((sum, count) => sum + count, 0)
  must(between === taken, `${between} descriptors lie from ${usedAt} to ${at}, and chains have ${taken}`)
  must(between + passed <= size, `${between} descriptors are the device's and ${passed} were passed, of ${size}`)
  must(heldAt < 0 ? passed === 0 : (heldAt + passed) % size === usedAt, `${passed} were passed from ${heldAt} on`)
  if (heldAt < 0) return
  const area = field<{ region: { u32: Uint32Array }; offset: number; scattered: boolean }>(ring, 'ringArea')
  if (area.scattered) return
  const last = area.region.u32[area.offset / 4 + 4 * heldAt + 3] & MARKS
  const lap = heldAt < usedAt ? usedMarks : usedMarks ^ MARKS
  must(last !== lap, `descriptor ${heldAt} is used before the flush`)
}
