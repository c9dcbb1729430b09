import { DMA_EXHAUSTED, DMA_OK, type DmaMappings, type DmaRegion } from '@guestdma/dma'
import { DOMAIN_READ, DOMAIN_WRITE } from '../../src/index.ts'
import { lend, peek, poke, type Rig, rig, samples, table } from './model-domain.ts'

/** One step: what to do, and two numbers that say to what. */
export type Step = readonly [kind: number, a: number, b: number]

interface Lent {
  readonly at: number
  readonly length: number
  readonly direction: number
  committed: boolean
  /** What the device wrote, by offset. */
  readonly wrote: Map<number, number>
}

const ROWS = 12
const MAX_STALE = 5
const STALE_MS = 7

/** What a run is about. */
export interface Kind {
  readonly granule: number
  readonly mode: 'strict' | 'lazy'
  readonly subGranule: 'share' | 'bounce'
}

/** A backend against arrays of bytes and the exact list of mappings. Returns what is wrong, or `undefined`. */
export function runBackend(kind: Kind, steps: readonly Step[]): string | undefined {
  const side = new Side(kind)
  for (const [i, step] of steps.entries()) {
    const problem = side.step(step) ?? side.check()
    if (problem !== undefined) return `step ${i} (${step.join(', ')}): ${problem}`
  }
  return side.close()
}

class Side {
  private readonly kind: Kind
  private readonly r: Rig
  private readonly tables: readonly [DmaMappings, DmaMappings] = [table(ROWS), table(ROWS, true)]
  private readonly lent: (Lent | undefined)[] = new Array<Lent | undefined>(2 * ROWS).fill(undefined)
  private readonly guest: Uint8Array
  // Bytes of guest RAM for each row, so that neighbours share granules and buffers do not overlap.
  private readonly area: number
  private readonly regions: DmaRegion[] = []
  // Addresses of what was unmapped, until the device cannot reach them.
  private readonly takenBack = new Set<number>()
  private value = 0

  constructor(kind: Kind) {
    this.kind = kind
    this.r = rig({
      space: { granule: kind.granule },
      mode: kind.mode,
      subGranule: kind.subGranule,
      lazy: { entries: MAX_STALE, ms: STALE_MS },
    })
    this.area = kind.granule * 2 + 24
    const used = this.area * 2 * ROWS + kind.granule
    for (let i = 0; i < used; i++) this.r.bytes[i] = 1 + (i % 127)
    this.guest = this.r.bytes.slice(0, used)
  }

  step([what, a, b]: Step): string | undefined {
    const row = a % (2 * ROWS)
    const lent = this.lent[row]
    if (what === 0) return this.commitMaps()
    if (what === 1) return this.commitUnmaps()
    if (what === 2)
      this.r.domain.answer = b % 3 === 0 ? ({ kind }) => (kind === 'map' ? DMA_EXHAUSTED : DMA_OK) : () => DMA_OK
    else if (what === 3) this.turn(b)
    else if (what === 4) return this.allocate(b)
    else if (lent === undefined) return this.map(row, a, b)
    else if (what < 8) return this.write(row, lent, b)
    else if (lent.committed) return this.unmap(row, lent, b)
    return undefined
  }

  check(): string | undefined {
    const { domain, backend } = this.r
    if (domain.violations.length > 0) return domain.violations.join('; ')
    const live = this.lent.filter((lent) => lent !== undefined).length
    const { maps, unmaps } = backend.counters
    return maps - unmaps === live ? undefined : `${maps - unmaps} mappings counted, ${live} live`
  }

  close(): string | undefined {
    this.r.domain.answer = () => DMA_OK
    let problem = this.commitMaps()
    for (const [row, lent] of this.lent.entries()) if (lent !== undefined) problem ??= this.unmap(row, lent, 0)
    problem ??= this.commitUnmaps()
    for (const region of this.regions) this.r.backend.free(region)
    this.r.clock.now += STALE_MS
    this.r.backend.poll()
    if (this.r.domain.mapped.length > 0) problem ??= `${this.r.domain.mapped.length} mappings are left`
    return problem ?? this.check() ?? this.compare()
  }

  private at(row: number): readonly [DmaMappings, number] {
    return [this.tables[row < ROWS ? 0 : 1], row % ROWS]
  }

  private map(row: number, a: number, b: number): string | undefined {
    const { granule } = this.kind
    const from = (a >>> 5) % (granule + 8)
    const length = 1 + (b % (this.area - from - 1))
    const at = this.area * row + from
    const direction = 1 + (b % 3)
    const [m, i] = this.at(row)
    const status = lend(this.r, m, i, at, length, direction)
    if (status !== DMA_OK && status !== DMA_EXHAUSTED) return `map: ${status}`
    if (status === DMA_OK) this.lent[row] = { at, length, direction, committed: false, wrote: new Map() }
    return undefined
  }

  // The device writes a byte of what is lent to it for that.
  private write(row: number, lent: Lent, b: number): string | undefined {
    if (!lent.committed || (lent.direction & 2) === 0) return undefined
    const near = samples(lent.at, lent.length, this.kind.granule)
    const i = near[b % near.length]
    this.value = (this.value + 1) % 100
    const [m, at] = this.at(row)
    if (!poke(this.r, m.device[at] + i, 128 + this.value)) return `byte ${i} of row ${row} cannot be written`
    lent.wrote.set(i, 128 + this.value)
    if (this.inPlace(lent, i)) this.guest[lent.at + i] = 128 + this.value
    return this.reach(row, lent)
  }

  private unmap(row: number, lent: Lent, b: number): string | undefined {
    const written = b % (lent.length + 2)
    const [m, at] = this.at(row)
    const status = this.r.backend.unmap(m, at, written)
    if (status !== DMA_OK) return `unmap: ${status}`
    if ((lent.direction & 2) !== 0)
      for (let i = 0; i < Math.min(written, lent.length); i++) {
        // What was posted for writing only and not written comes back as zeros.
        if (this.inPlace(lent, i)) continue
        const before = (lent.direction & 1) !== 0 ? this.guest[lent.at + i] : 0
        this.guest[lent.at + i] = lent.wrote.get(i) ?? before
      }
    this.takenBack.add(this.iova(row, lent))
    this.lent[row] = undefined
    const problem = this.compare(lent)
    return problem === undefined ? undefined : `unmap of row ${row}, ${written} of ${lent.length} written: ${problem}`
  }

  private commitMaps(): string | undefined {
    if (this.r.backend.commitMaps() === DMA_OK) {
      for (const [row, lent] of this.lent.entries()) {
        if (lent === undefined || lent.committed) continue
        lent.committed = true
        const problem = this.reach(row, lent)
        if (problem !== undefined) return problem
      }
      return undefined
    }
    for (const [row, lent] of this.lent.entries()) {
      if (lent === undefined || lent.committed) continue
      const [m, at] = this.at(row)
      this.r.backend.unmap(m, at, 0)
      this.takenBack.add(this.iova(row, lent))
      this.lent[row] = undefined
    }
    return this.commitUnmaps()
  }

  private commitUnmaps(): string | undefined {
    const status = this.r.backend.commitUnmaps()
    if (status !== DMA_OK) return `commitUnmaps: ${status}`
    const held = new Set<number>()
    for (const [row, lent] of this.lent.entries()) if (lent !== undefined) held.add(this.iova(row, lent))
    for (const iova of this.takenBack) {
      // Whoever has these addresses now has them by right.
      const gone = this.r.domain.translate(iova, 0) < 0
      if (gone || held.has(iova) || this.regions.some(({ device }) => device === iova)) this.takenBack.delete(iova)
    }
    const { size } = this.takenBack
    if (this.kind.mode === 'strict' && size > 0) return `${size} spans are reachable after they were taken back`
    return size < MAX_STALE ? undefined : `${size} spans are stale`
  }

  private iova(row: number, { at }: Lent): number {
    const [m, i] = this.at(row)
    return m.device[i] - (at % this.kind.granule)
  }

  private allocate(b: number): string | undefined {
    const { backend, domain } = this.r
    if (this.regions.length > 2) {
      const [region] = this.regions.splice(b % this.regions.length, 1)
      backend.free(region)
      return domain.translate(region.device, DOMAIN_READ) < 0 ? undefined : 'freed, and yet reachable'
    }
    // Maps that are refused make it fail, which other tests are about.
    if (this.lent.some((lent) => lent !== undefined && !lent.committed)) return undefined
    const refusing = domain.answer
    domain.answer = () => DMA_OK
    this.regions.push(backend.alloc(1 + (b % 200), 8, 3, 'payload'))
    domain.answer = refusing
    return undefined
  }

  private turn(b: number): void {
    this.r.clock.now += b % 5
    this.r.backend.poll()
  }

  private inPlace({ at, length }: Lent, i: number): boolean {
    const { granule, subGranule } = this.kind
    if (granule === 1) return length > 1
    const first = Math.floor((at + i) / granule) * granule
    return subGranule === 'share' || (first >= at && first + granule <= at + length)
  }

  // Everything that is lent is reachable, as its direction says, and shows what it should.
  private reach(row: number, lent: Lent): string | undefined {
    const [m, at] = this.at(row)
    for (const i of samples(lent.at, lent.length, this.kind.granule)) {
      const iova = m.device[at] + i
      if (this.r.domain.translate(iova, DOMAIN_WRITE) >= 0 !== ((lent.direction & 2) !== 0)) return `write to byte ${i}`
      const should = (lent.direction & 1) === 0 ? -1 : (lent.wrote.get(i) ?? this.guest[lent.at + i])
      const is = peek(this.r, iova)
      if (is !== should) return `row ${row}, byte ${i}: the device reads ${is} and not ${should}`
    }
    return undefined
  }

  private compare({ at, length } = { at: 0, length: this.guest.length }): string | undefined {
    const to = Math.min(this.guest.length, at + length + 16)
    for (let i = Math.max(0, at - 16); i < to; i++)
      if (this.r.bytes[i] !== this.guest[i]) return `guest byte ${i} is ${this.r.bytes[i]} and not ${this.guest[i]}`
    return undefined
  }
}
