import { DMA_EXHAUSTED, DMA_OK, DMA_TOO_LONG, DMA_UNMAPPABLE } from '@guestdma/dma'
import { type BouncePool, type ClearPolicy, SLOT_BYTES } from '../../src/index.ts'
import { map, newPool, POOL_DEVICE, RAM, type Rig, rig, table } from './pool-rig.ts'

/** One step: what to do, and three numbers that say to what. */
export type Step = readonly [kind: number, a: number, b: number, c: number]

interface Lent {
  readonly at: number
  readonly length: number
  readonly direction: number
  /** What the device sees, and what it made of it. */
  readonly device: Uint8Array
}

const ROWS = 24
const AREA = 8192

/** Backends of one pool against arrays of bytes. Returns what is wrong, or `undefined`. */
export function runBounce(
  slots: number,
  reserve: number,
  clear: ClearPolicy,
  users: number,
  steps: readonly Step[],
): string | undefined {
  const { pool } = newPool(slots, reserve)
  const sides = Array.from({ length: users }, (_, u) => new Side(pool, rig(slots, { pool, clear }), u))
  for (const [i, [kind, a, b, c]] of steps.entries()) {
    const side = sides[a % users]
    const problem = side.step(kind, b, c) ?? overlap(sides, slots) ?? accounts(pool, sides)
    if (problem !== undefined) return `step ${i} (${kind}, ${a}, ${b}, ${c}): ${problem}`
  }
  for (const side of sides) side.close()
  return pool.inUse === 0 ? undefined : `${pool.inUse} slots are still in use`
}

class Side {
  readonly lent: (Lent | undefined)[] = new Array<Lent | undefined>(2 * ROWS).fill(undefined)
  private readonly pool: BouncePool
  private readonly rig: Rig
  private readonly model = new Uint8Array(RAM)
  private readonly tables = [table(ROWS), table(ROWS, true)]
  private seed: number

  constructor(pool: BouncePool, own: Rig, seed: number) {
    this.pool = pool
    this.rig = own
    this.seed = seed * 17
  }

  step(kind: number, b: number, c: number): string | undefined {
    const row = b % (2 * ROWS)
    if (this.lent[row] === undefined) return this.map(row, b, c)
    if (kind % 4 === 0) return this.sync(row, b, c)
    if (kind % 4 === 1) return this.write(row, c)
    return this.unmap(row, c)
  }

  close(): void {
    this.rig.backend.dispose()
  }

  /** Slots of each live mapping, as device addresses. */
  spans(): [number, number][] {
    return this.lent.flatMap((lent, row) => {
      if (lent === undefined) return []
      const { m, i } = this.at(row)
      return [[m.device[i], m.device[i] + lent.length] as [number, number]]
    })
  }

  slots(): number {
    return this.lent.reduce(
      (sum, lent) => sum + (lent === undefined ? 0 : Math.ceil(((lent.at & 7) + lent.length) / SLOT_BYTES)),
      0,
    )
  }

  private at(row: number): { m: ReturnType<typeof table>; i: number } {
    return { m: this.tables[row < ROWS ? 0 : 1], i: row % ROWS }
  }

  private map(row: number, b: number, c: number): string | undefined {
    const { m, i } = this.at(row)
    const at = AREA * row + ((b >>> 5) % 64)
    const length = 1 + (c % (c % 3 === 0 ? 6000 : 200))
    const direction = 1 + (c % 3)
    const before = this.pool.inUse
    const status = map(this.rig.backend, m, i, at, length, direction)
    const needed = Math.ceil(((at & 7) + length) / SLOT_BYTES)
    if (status === DMA_TOO_LONG) return needed > this.pool.maxRun ? undefined : 'TooLong for what fits'
    if (status === DMA_EXHAUSTED) return this.pool.inUse === before ? undefined : 'Exhausted, and yet slots were taken'
    if (status !== DMA_OK) return `map: ${status === DMA_UNMAPPABLE ? 'Unmappable' : status}`
    if (this.pool.inUse !== before + needed) return `${this.pool.inUse - before} slots for ${needed}`
    const device = (direction & 1) !== 0 ? this.model.slice(at, at + length) : new Uint8Array(length)
    this.lent[row] = { at, length, direction, device }
    return this.compare(this.slot(row), device, 'what the device sees')
  }

  // The device writes some bytes of a buffer that is lent to it for that.
  private write(row: number, c: number): string | undefined {
    const lent = this.lent[row] as Lent
    if ((lent.direction & 2) === 0) return undefined
    const from = c % lent.length
    const to = Math.min(lent.length, from + 1 + (c % 500))
    for (let i = from; i < to; i++) lent.device[i] = this.byte()
    this.slot(row).set(lent.device)
    return undefined
  }

  private sync(row: number, b: number, c: number): string | undefined {
    const lent = this.lent[row] as Lent
    const { m, i } = this.at(row)
    const from = c % lent.length
    const length = b % (lent.length - from + 1)
    if (b % 2 === 0) {
      const status = this.rig.backend.syncForCpu(m, i, from, length)
      if (status !== DMA_OK) return `syncForCpu: ${status}`
      if ((lent.direction & 2) !== 0) this.model.set(lent.device.subarray(from, from + length), lent.at + from)
    } else {
      this.rig.ram[lent.at + from] = this.model[lent.at + from] = this.byte()
      const status = this.rig.backend.syncForDevice(m, i, from, length)
      if (status !== DMA_OK) return `syncForDevice: ${status}`
      if ((lent.direction & 1) !== 0)
        lent.device.set(this.model.subarray(lent.at + from, lent.at + from + length), from)
    }
    return this.compare(this.slot(row), lent.device, 'what the device sees after a sync') ?? this.guest(lent)
  }

  private unmap(row: number, c: number): string | undefined {
    const lent = this.lent[row] as Lent
    const { m, i } = this.at(row)
    const written = c % (lent.length + 2)
    const status = this.rig.backend.unmap(m, i, written)
    if (status !== DMA_OK) return `unmap: ${status}`
    if ((lent.direction & 2) !== 0) this.model.set(lent.device.subarray(0, written), lent.at)
    this.lent[row] = undefined
    return this.guest(lent)
  }

  private guest({ at, length }: Lent): string | undefined {
    const from = Math.max(0, at - 32)
    return this.compare(
      this.rig.ram.subarray(from, at + length + 32),
      this.model.subarray(from, at + length + 32),
      'the guest’s bytes',
    )
  }

  private slot(row: number): Uint8Array {
    const { m, i } = this.at(row)
    const from = m.device[i] - POOL_DEVICE
    return this.rig.slots.subarray(from, from + m.length[i])
  }

  private compare(is: Uint8Array, should: Uint8Array, what: string): string | undefined {
    for (let i = 0; i < should.length; i++)
      if (is[i] !== should[i]) return `${what}: byte ${i} is ${is[i]} and not ${should[i]}`
    return undefined
  }

  private byte(): number {
    this.seed = (this.seed + 1) % 250
    return 1 + this.seed
  }
}

function overlap(sides: readonly Side[], slots: number): string | undefined {
  const spans = sides.flatMap((side) => side.spans()).sort((a, b) => a[0] - b[0])
  const end = POOL_DEVICE + slots * SLOT_BYTES
  for (const [i, span] of spans.entries()) {
    if (span[0] < POOL_DEVICE || span[1] > end) return 'a mapping outside the pool'
    if (i > 0 && spans[i - 1][1] > span[0]) return 'two mappings share bytes'
  }
  return undefined
}

function accounts(pool: BouncePool, sides: readonly Side[]): string | undefined {
  const held = sides.reduce((sum, side) => sum + side.slots(), 0)
  return pool.inUse === held ? undefined : `${pool.inUse} slots in use, ${held} held`
}
