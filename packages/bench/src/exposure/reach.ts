import { BusWindows, IommuPort, PagePort } from '@guestdma/devices'
import { ADDRESS_LIMIT, type BusPort } from '@guestdma/memory'
import type { Random } from '../contract/random.ts'
import type { Ledger } from './ledger.ts'
import type { Places } from './places.ts'
import { type Spans, union } from './spans.ts'

/** Device addresses [device, device + length) lead to places [place, place + length). */
interface Stretch {
  readonly device: number
  readonly place: number
  readonly length: number
}

/** What one device reaches at one moment, by one kind of access. */
export class Reach {
  readonly access: 1 | 2
  readonly places: Spans
  // By place. Several device addresses may lead to one place; any of them will do.
  private readonly stretches: readonly Stretch[]

  constructor(access: 1 | 2, stretches: readonly Stretch[]) {
    this.access = access
    this.stretches = [...stretches].sort((a, b) => a.place - b.place)
    this.places = union(this.stretches.flatMap(({ place, length }) => [place, place + length]))
  }

  /** A device address that leads to `place`, which is in {@link places}. */
  addressOf(place: number): number {
    const { stretches } = this
    let low = 0
    let high = stretches.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (stretches[middle].place <= place) low = middle + 1
      else high = middle
    }
    // The last that begins before it need not be the one that covers it.
    let at = low - 1
    while (stretches[at].place + stretches[at].length <= place) at--
    return stretches[at].device + (place - stretches[at].place)
  }
}

/** Finds out what a device reaches by asking its port, and nothing else. */
export class Prober {
  readonly counts = { tried: 0, read: 0, written: 0, refused: 0 }
  readonly port: BusPort
  private readonly places: Places

  constructor(port: BusPort, places: Places) {
    this.port = port
    this.places = places
  }

  /** All that is reached from the addresses `from`, in both directions, as far as the port goes on granting. */
  reach(from: readonly number[], access: 1 | 2): Reach {
    this.port.refresh()
    const stretches: Stretch[] = []
    let end = 0
    for (const start of [...new Set(from)].sort((a, b) => a - b)) {
      if (start < end || start < 0 || start >= ADDRESS_LIMIT) continue
      const after = this.follow(start, access, stretches)
      if (after === start) continue
      // What lies before it, down to what is known already.
      const first = this.lowest(start, end, access)
      if (first < start) this.follow(first, access, stretches, start)
      end = after
    }
    return new Reach(access, stretches)
  }

  /** Does the port grant one byte? Then its region and offset tell where it is. */
  grants(address: number, access: 1 | 2): boolean {
    return this.ask(address, 1, access) > 0
  }

  private ask(address: number, length: number, access: 1 | 2): number {
    this.counts.tried++
    this.port.request[0] = address
    const granted = this.port.resolve(length, access)
    if (granted > 0) return granted
    this.counts.refused++
    return 0
  }

  // From `start` on, up to the first byte that is refused, or to `stop`. Returns that address.
  private follow(start: number, access: 1 | 2, into: Stretch[] | null, stop: number = ADDRESS_LIMIT): number {
    let at = start
    while (at < stop) {
      const length = this.ask(at, stop - at, access)
      if (length === 0) break
      into?.push({ device: at, place: this.places.of(this.port.region, this.port.offset), length })
      at += length
    }
    return at
  }

  // The lowest address from `floor` on from which all up to `start` is granted.
  private lowest(start: number, floor: number, access: 1 | 2): number {
    const reaches = (from: number): boolean => this.follow(from, access, null, start) === start
    let good = start
    let step = 1
    let bad = floor - 1
    while (good > floor) {
      const next = Math.max(floor, start - step)
      if (!reaches(next)) {
        bad = next
        break
      }
      good = next
      step *= 2
    }
    while (good - bad > 1 && good > floor) {
      const middle = bad + Math.ceil((good - bad) / 2)
      if (reaches(middle)) good = middle
      else bad = middle
    }
    return good
  }
}

// Random addresses of one look, within guest RAM and anywhere.
const RANDOM_IN_RAM = 24
const RANDOM_ANYWHERE = 8
// Of what was taken back, so many of the newest are tried in each look, and so many of all others.
const NEWEST = 128
const OLDER = 32

/**
 * Addresses at which to begin: what the enforcer's tables have, what was ever lent and a granule around it, and guesses.
 * Where the tables are known, some of what was taken back will do.
 */
export function candidates(ledger: Ledger, ramBase: number, ramBytes: number, random: Random): number[] {
  const { addresses, granule, port } = ledger
  const table = tableOf(port)
  const found = table ?? []
  const around = ([address, length]: readonly [number, number]): void => {
    const first = Math.floor(address / granule) * granule
    const last = Math.floor((address + length - 1) / granule) * granule
    found.push(address, first - granule, last + granule)
  }
  for (const one of addresses) around(one)
  const takenBack = [...ledger.takenBack]
  const older = takenBack.length - NEWEST
  if (table === null || older <= 0) for (const one of takenBack) around(one)
  else {
    for (const one of takenBack.slice(older)) around(one)
    for (let i = 0; i < OLDER; i++) around(takenBack[random.below(older)])
  }
  for (let i = 0; i < RANDOM_IN_RAM; i++) found.push(ramBase + random.below(ramBytes))
  for (let i = 0; i < RANDOM_ANYWHERE; i++) found.push(random.below(ADDRESS_LIMIT))
  return found
}

// Where the windows, mappings and pages of a port of ours begin; null for a port of others, whose tables nobody knows.
function tableOf(port: BusPort): number[] | null {
  const found: number[] = []
  if (port instanceof BusWindows) for (const { base } of port.windows) found.push(base)
  else if (port instanceof PagePort) port.forEach((page) => void found.push(page))
  else if (port instanceof IommuPort) {
    // Without a domain, or in one without mappings, what is behind the IOMMU would be reached as it is.
    if (port.domain?.mappings == null) return tableOf(port.downstream)
    port.domain.mappings.forEach((start) => void found.push(start))
  } else return null
  return found
}
