import type { DriverQueue } from '@guestdma/virtqueue'

// Words of a chain and of a row as `ChainAccount` and `QueueRows` describe them.
const STATE = 3
const OUTSTANDING = 1
const PREPARED = 4
const MANY = 32
const COUNT_SHIFT = 8
const LISTED_NEXT = 1 << 16
const ROWS = 2
const TABLE = 3
const MARKS = 0x8080_0000 | 0
const AVAILABLE = 0x80 << 16
const WRAP_16 = 0x1_0000

interface Account {
  readonly chains: Int32Array
  readonly order: Uint16Array
  readonly orderMask: number
  readonly outstanding: number
  readonly oldest: number
  readonly inOrder: boolean
}

// The state of a queue is private, and is looked at here alone.
function field<T>(object: object, name: string): T {
  return Reflect.get(object, name) as T
}

/** What always holds between two calls of the driver's half, as its docstrings say. Throws where it does not. */
export function checkQueue(queue: DriverQueue): void {
  const must = (holds: boolean, what: string): void => {
    if (!holds) throw new Error(`between two calls: ${what}`)
  }
  const { size, free } = queue
  const batch = field<object>(queue, 'batch')
  const rows = field<object>(queue, 'rows')
  const { chains, inOrder, order, orderMask, outstanding, oldest } = field<Account>(queue, 'account')
  const [pending, pendingRows, descriptors] = ['count', 'rowsTaken', 'descriptors'].map((name) =>
    field<number>(batch, name),
  )
  const [recyclable, freeAt, freeMask, freeTableCount] = ['recyclable', 'freeAt', 'freeMask', 'freeTableCount'].map(
    (name) => field<number>(rows, name),
  )
  const info = (id: number): number => chains[4 * id]

  // Chains that were added and not published are those that the list of descriptors begins.
  const listed = [...field<Int32Array>(batch, 'listed').subarray(0, descriptors)]
  const added = listed.filter((_, k) => k === 0 || (listed[k - 1] & LISTED_NEXT) === 0).map((entry) => entry & 0xffff)
  const live = Array.from({ length: size }, (_, id) => id).filter((id) => (info(id) & STATE) === OUTSTANDING)
  must(oldest >= 0 && oldest < WRAP_16, `the oldest chain is ${oldest}`)
  must(live.length === outstanding + pending, `chains ${live} are outstanding, ${outstanding} and ${pending} in number`)
  must(added.length === pending && new Set(added).size === pending, `chains ${added} were added, ${pending} in number`)
  must(
    added.every((id) => live.includes(id)),
    `chains ${added} were added, and ${live} are outstanding`,
  )
  if (inOrder) {
    const ordered = Array.from({ length: outstanding + pending }, (_, i) => order[(oldest + i) & orderMask])
    must(new Set(ordered).size === ordered.length, `chains ${ordered} are in order`)
    must(
      ordered.every((id) => live.includes(id)),
      `chains ${ordered} are in order, and ${live} outstanding`,
    )
    must(ordered.slice(outstanding).join() === added.join(), `chains ${added} were added, ${ordered} are in order`)
  }
  const published = live.filter((id) => !added.includes(id))

  // Every row of the ring is in one place.
  const places = new Map<number, string>()
  const put = (row: number, place: string): void => {
    must(row >= 0 && row < size, `row ${row} in ${place}`)
    must(!places.has(row), `row ${row} in ${place} and in ${places.get(row)}`)
    places.set(row, place)
  }
  const freeRows = field<Uint16Array>(rows, 'freeRows')
  for (let i = 0; i < free + recyclable; i++) put(freeRows[(freeAt + i) & freeMask], i < free ? 'free' : 'recyclable')
  const links = field<Int32Array>(rows, 'links')
  const rowsOf = (id: number): number[] => {
    const list = [id]
    const several = (info(id) & MANY) !== 0 && chains[4 * id + TABLE] < 0
    for (let i = 1; several && i < chains[4 * id + ROWS]; i++) list.push(links[2 * list[list.length - 1]])
    return list
  }
  const prepared = Array.from({ length: size }, (_, id) => id).filter((id) => (info(id) & PREPARED) !== 0)
  for (const id of new Set([...live, ...prepared])) for (const row of rowsOf(id)) put(row, `chain ${id}`)
  must(places.size === size, `${places.size} of ${size} rows are somewhere`)
  const taken = (ids: readonly number[]): number => ids.reduce((sum, id) => sum + (info(id) >> COUNT_SHIFT), 0)
  for (const id of live) must(info(id) >> COUNT_SHIFT === rowsOf(id).length, `chain ${id} takes its rows`)
  must(pendingRows === taken(added.filter((id) => !prepared.includes(id))), `${pendingRows} rows are added`)
  must(descriptors === taken(added), `${descriptors} descriptors are added`)

  // So is every indirect table.
  const tables = field<Uint32Array>(rows, 'freeTables')
  const inUse = live.filter((id) => (info(id) & MANY) !== 0 && chains[4 * id + TABLE] >= 0)
  const all = [...tables.subarray(0, freeTableCount), ...inUse.map((id) => chains[4 * id + TABLE])]
  must(new Set(all).size === tables.length && all.length === tables.length, `tables ${all} of ${tables.length}`)

  checkRing(field<object>(queue, 'ring'), size, outstanding, taken(published), must)
}

function checkRing(
  ring: object,
  size: number,
  outstanding: number,
  descriptors: number,
  must: (holds: boolean, what: string) => void,
): void {
  if (Reflect.has(ring, 'collected')) {
    const [collected, published, position] = ['collected', 'published', 'position'].map((name) =>
      field<number>(ring, name),
    )
    const indices = `collected ${collected}, published ${published}, position ${position}`
    must(
      [collected, published, position].every((i) => Number.isInteger(i) && i >= 0 && i < WRAP_16),
      indices,
    )
    must(published === position, `nothing is written that is not published: ${indices}`)
    must(((published - collected) & 0xffff) === outstanding, `${outstanding} chains are outstanding: ${indices}`)
    return
  }
  const [at, marks, usedAt, usedMarks, heldAt] = ['at', 'marks', 'usedAt', 'usedMarks', 'heldAt'].map((name) =>
    field<number>(ring, name),
  )
  must(at >= 0 && at < size && usedAt >= 0 && usedAt < size, `at ${at} and ${usedAt} of ${size}`)
  must(marks === AVAILABLE || marks === (MARKS ^ AVAILABLE), `marks ${marks} make a descriptor available`)
  must(usedMarks === MARKS || usedMarks === 0, `marks ${usedMarks} make a descriptor used`)
  const sameLap = (marks === AVAILABLE) === (usedMarks === MARKS)
  const between = at - usedAt + (sameLap ? 0 : size)
  must(between === descriptors, `${between} descriptors lie from ${usedAt} to ${at}, and chains have ${descriptors}`)
  must(heldAt === -1, `a descriptor is held back at ${heldAt}, and nothing is written that is not published`)
}
