import { ACCESS_READ, ACCESS_WRITE } from '@guestdma/memory'
import type { Random } from '../contract/random.ts'
import type { ExposureClass } from '../contract/result.ts'
import { type Amounts, noAmounts } from './classes.ts'
import type { Ledger } from './ledger.ts'
import { candidates, Prober, type Reach } from './reach.ts'
import { isOf, type Secrets } from './secrets.ts'
import { blocks, difference, intersection, NO_SPANS, type Spans, union } from './spans.ts'

/** Bytes within reach and not lent, at one moment. */
export interface Look {
  readonly readable: Amounts
  readonly writable: Amounts
}

// Each block of so many bytes is tried by itself: large ones where nothing changes, small ones where each buffer has a
// state of its own. In at most so many places, and in so many bytes each, since one could be right by chance.
const BLOCK = 4096
const SMALL_BLOCK = 512
const TRIES = 4
const RUN = 4
// One of so many blocks is tried again in each look, of memory whose contents do not change.
const AGAIN = 256

/** Whether what is found at a place proves that the place is within reach. */
type Proof = (place: number) => boolean

/** A device that owns its port and nothing else, and uses it as it likes. */
export class Attacker {
  readonly prober: Prober
  private readonly own: Ledger
  private readonly others: readonly Ledger[]
  private readonly secrets: Secrets
  private readonly random: Random
  private readonly ramBase: number
  // By access and block of guest RAM: whether the guest's secret was reached there.
  private readonly known: readonly Map<number, boolean>[] = [new Map(), new Map(), new Map()]

  constructor(own: Ledger, others: readonly Ledger[], secrets: Secrets, random: Random, ramBase: number) {
    this.own = own
    this.others = others
    this.secrets = secrets
    this.random = random
    this.ramBase = ramBase
    this.prober = new Prober(own.port, own.places)
  }

  /** Finds out what is within reach now, by what the ledgers say of it, and leaves memory as it was. */
  look(): Look {
    const { own, prober, random, ramBase, secrets } = this
    const from = candidates(own, ramBase, secrets.ram.length, random)
    const others = union(...this.others.map((ledger) => ledger.all))
    return {
      readable: this.reads(prober.reach(from, ACCESS_READ), others),
      writable: this.writes(prober.reach(from, ACCESS_WRITE), others),
    }
  }

  private reads(reach: Reach, others: Spans): Amounts {
    const { own, secrets } = this
    const rest = new Rest(difference(reach.places, own.lent(ACCESS_READ)))
    const amounts = noAmounts()
    const count = (name: ExposureClass, spans: Spans, isProof: (byte: number, place: number) => boolean): void => {
      amounts[name] = this.count(reach, spans, name === 'foreign', (place) => isProof(this.read(reach, place), place))
    }
    const planted = (byte: number, place: number): boolean => byte !== 0 && byte === secrets.plantedAt(place)
    count('metadata', rest.take(own.allocated('ring')), () => true)
    // What another device holds for itself has no marks, but for what it was lent.
    const theirs = rest.take(others)
    const rings = union(...this.others.map((ledger) => ledger.allocated('ring')))
    count('other-devices', theirs, (byte, place) => isOf('another', byte) || covers(rings, place))
    // What the device wrote itself is in `delivered`.
    const had = rest.take(union(own.delivered, own.copies, own.allocated('payload')))
    count('own-residue', had, (byte) => isOf('attacked', byte))
    rest.spans = intersection(rest.spans, own.places.ram)
    count('direction', rest.take(own.lentOtherwise(ACCESS_READ)), planted)
    count('stale', rest.take(own.guest), planted)
    count('slack', rest.take(blocks(own.guest, own.granule)), planted)
    count('foreign', rest.spans, planted)
    return amounts
  }

  private writes(reach: Reach, others: Spans): Amounts {
    const { own, secrets } = this
    const rest = new Rest(difference(reach.places, own.lent(ACCESS_WRITE)))
    const amounts = noAmounts()
    const count = (name: ExposureClass, spans: Spans, isTheirs: (place: number) => boolean): void => {
      amounts[name] = this.count(
        reach,
        spans,
        name === 'foreign',
        (place) => isTheirs(place) && this.write(reach, place),
      )
    }
    const any = (): boolean => true
    // Memory that a scheme set aside or cleared for itself holds nothing that was planted.
    const planted = (place: number): boolean =>
      secrets.ram[place] !== 0 && secrets.ram[place] === secrets.plantedAt(place)
    count('metadata', rest.take(own.allocated('ring')), any)
    count('other-devices', rest.take(others), any)
    count('mutable', rest.take(own.delivered), any)
    count('direction', rest.take(own.lentOtherwise(ACCESS_WRITE)), any)
    const stale = rest.take(own.guest)
    count('own-residue', rest.take(union(own.copies, own.allocated('payload'))), any)
    rest.spans = intersection(rest.spans, own.places.ram)
    count('stale', stale, any)
    count('slack', rest.take(blocks(own.guest, own.granule)), planted)
    count('foreign', rest.spans, planted)
    return amounts
  }

  // Bytes of the spans, without blocks in which nothing proves that they are within reach.
  private count(reach: Reach, spans: Spans, still: boolean, proves: Proof): number {
    const known = this.known[reach.access]
    const size = still ? BLOCK : SMALL_BLOCK
    let bytes = 0
    for (let i = 0; i < spans.length; i += 2) {
      for (let at = spans[i]; at < spans[i + 1]; ) {
        const block = Math.floor(at / size)
        const end = Math.min(spans[i + 1], (block + 1) * size)
        let reached = still && this.random.below(AGAIN) > 0 ? known.get(block) : undefined
        if (reached === undefined) {
          reached = this.anyOf(at, end, proves)
          if (still) known.set(block, reached)
        }
        if (reached) bytes += end - at
        at = end
      }
    }
    return bytes
  }

  // Both edges first, then places in between.
  private anyOf(begin: number, end: number, proves: Proof): boolean {
    const run = Math.min(RUN, end - begin)
    const last = end - run
    for (let i = 0; i < TRIES; i++) {
      const first = i === 0 ? begin : i === 1 ? last : begin + this.random.below(last - begin + 1)
      let proved = 0
      while (proved < run && proves(first + proved)) proved++
      if (proved === run) return true
    }
    return false
  }

  private read(reach: Reach, place: number): number {
    const { port } = this.prober
    if (!this.prober.grants(reach.addressOf(place), ACCESS_READ)) return 0
    this.prober.counts.read++
    return port.region.u8[port.offset]
  }

  // Changes a byte, looks whether the CPU sees it, and puts it back.
  private write(reach: Reach, place: number): boolean {
    const { own, prober, secrets } = this
    if (!prober.grants(reach.addressOf(place), ACCESS_WRITE)) return false
    const { region, offset } = prober.port
    const before = region.u8[offset]
    const seenBy = covers(own.places.ram, place) ? secrets.ram : region.u8
    const at = seenBy === secrets.ram ? place : offset
    region.u8[offset] = before ^ 0xff
    const seen = seenBy[at] === (before ^ 0xff)
    region.u8[offset] = before
    prober.counts.written++
    return seen
  }
}

/** What is left once each class took its part. */
class Rest {
  spans: Spans

  constructor(spans: Spans) {
    this.spans = spans
  }

  take(part: Spans): Spans {
    if (this.spans.length === 0) return NO_SPANS
    const taken = intersection(this.spans, part)
    this.spans = difference(this.spans, part)
    return taken
  }
}

function covers(spans: Spans, place: number): boolean {
  for (let i = 0; i < spans.length; i += 2) if (place >= spans[i] && place < spans[i + 1]) return true
  return false
}
