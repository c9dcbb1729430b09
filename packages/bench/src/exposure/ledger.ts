import { ForwardingBackend } from '@guestdma/conformance'
import {
  DMA_OK,
  type DmaBackend,
  type DmaDirection,
  type DmaMappings,
  type DmaRegion,
  type DmaStatus,
  FROM_DEVICE,
  TO_DEVICE,
} from '@guestdma/dma'
import { ACCESS_READ, ACCESS_WRITE, type BusPort } from '@guestdma/memory'
import type { Places } from './places.ts'
import { difference, NO_SPANS, type Spans, union } from './spans.ts'

/** What a device was lent in one row of a queue's mappings. */
interface Lent {
  /** The guest's own bytes. */
  readonly guest: Spans
  /** What the device sees in their place: the same, or a copy. Known once the maps were committed. */
  seen: Spans
  readonly device: number
  readonly length: number
  readonly direction: DmaDirection
}

/** Bytes of memory that a device sees all the time, and was told to use. */
export interface Handed {
  readonly spans: Spans
  readonly direction: DmaDirection
}

// How many of the device addresses that were taken back are remembered, at most.
const REMEMBERED = 16_384

/** What the driver's side says of the memory that one device was given. All spans are of places. */
export class Ledger {
  readonly places: Places
  readonly port: BusPort
  /** Whoever made the driver's backend: which granules a device is given whole. */
  granule = 1
  /** Bytes by device address, of all that was taken back, the newest last. */
  readonly takenBack: Map<number, number> = new Map()
  /** Bytes of a completed transfer that their owner reads at the moment. */
  delivered: Spans = NO_SPANS

  private readonly rows = new Map<DmaMappings, (Lent | undefined)[]>()
  private readonly uncommitted = new Set<Lent>()
  private readonly regions = new Map<DmaRegion, { spans: Spans; use: 'ring' | 'payload' }>()
  // Of memory that the device sees all the time: what it was told to use.
  private readonly handed = new Set<Handed>()
  // Of what was taken back, and what is not yet in there.
  private guestEver: Spans = NO_SPANS
  private copiesEver: Spans = NO_SPANS
  private guestSince: number[] = []
  private copiesSince: number[] = []

  constructor(places: Places, port: BusPort) {
    this.places = places
    this.port = port
  }

  /** What the device may access so now, by what it was lent. */
  lent(access: 1 | 2): Spans {
    const parts = [...this.live()].filter(({ direction }) => permits(direction, access)).map(({ seen }) => seen)
    for (const { spans, direction } of this.handed) if (permits(direction, access)) parts.push(spans)
    if (access === ACCESS_READ) return union(...parts)
    // The driver posts all buffers of its receive pool, and again as soon as it has read them.
    for (const [{ direction }, { spans, use }] of this.regions)
      if (use === 'payload' && direction === FROM_DEVICE) parts.push(spans)
    return difference(union(...parts), this.delivered)
  }

  /** The guest's own bytes that are lent, and not for this access. */
  lentOtherwise(access: 1 | 2): Spans {
    const parts = [...this.live()].filter(({ direction }) => !permits(direction, access)).map(({ guest }) => guest)
    for (const { spans, direction } of this.handed) if (!permits(direction, access)) parts.push(spans)
    return union(...parts)
  }

  /** The guest's own bytes that were ever lent, or are. */
  get guest(): Spans {
    this.guestEver = union(this.guestEver, this.guestSince)
    this.guestSince = []
    return union(this.guestEver, ...[...this.live()].map(({ guest }) => guest))
  }

  /** Where the device's copies ever lay, and what it was handed of memory that it sees all the time. */
  get copies(): Spans {
    this.copiesEver = union(this.copiesEver, this.copiesSince)
    this.copiesSince = []
    const parts = [...this.live()].map(({ guest, seen }) => difference(seen, guest))
    return union(this.copiesEver, ...parts, ...[...this.handed].map(({ spans }) => spans))
  }

  allocated(use: 'ring' | 'payload'): Spans {
    return union(...[...this.regions.values()].filter((region) => region.use === use).map(({ spans }) => spans))
  }

  /** All that this device has, had or uses: what another device has no business with. */
  get all(): Spans {
    return union(this.guest, this.copies, this.allocated('ring'), this.allocated('payload'))
  }

  /** Device addresses that are lent or allocated now: [address, bytes]. */
  get addresses(): (readonly [address: number, length: number])[] {
    const found: (readonly [number, number])[] = [...this.live()].map(({ device, length }) => [device, length])
    for (const { device, length } of this.regions.keys()) found.push([device, length])
    return found
  }

  /** Of memory that the device sees all the time: it may use these bytes until {@link takeBack}. */
  hand(spans: readonly number[], direction: DmaDirection): Handed {
    const handed = { spans: union(spans), direction }
    this.handed.add(handed)
    return handed
  }

  takeBack(handed: Handed): void {
    this.copiesSince.push(...handed.spans)
    this.handed.delete(handed)
  }

  mapped(m: DmaMappings, row: number): void {
    const from = this.places.ofGuest(m.guest[row])
    const lent: Lent = {
      guest: [from, from + m.length[row]],
      seen: NO_SPANS,
      device: m.device[row],
      length: m.deviceLength[row],
      direction: m.direction[row] as DmaDirection,
    }
    const rows = this.rows.get(m) ?? []
    this.rows.set(m, rows)
    rows[row] = lent
    this.uncommitted.add(lent)
  }

  /** The maps count: the port now tells where what was lent lies. */
  committed(): void {
    for (const lent of this.uncommitted) lent.seen = this.placesAt(lent)
    this.uncommitted.clear()
  }

  unmapped(m: DmaMappings, row: number): void {
    const lent = this.rows.get(m)?.[row]
    if (lent === undefined) return
    this.guestSince.push(...lent.guest)
    this.copiesSince.push(...difference(lent.seen, lent.guest))
    delete (this.rows.get(m) as (Lent | undefined)[])[row]
    this.uncommitted.delete(lent)
    const { takenBack } = this
    takenBack.delete(lent.device)
    takenBack.set(lent.device, lent.length)
    if (takenBack.size > REMEMBERED) for (const [oldest] of takenBack) return void takenBack.delete(oldest)
  }

  alloc(region: DmaRegion, use: 'ring' | 'payload'): void {
    const from = this.places.of(region.region, region.offset)
    this.regions.set(region, { spans: [from, from + region.length], use })
  }

  free(region: DmaRegion): void {
    this.regions.delete(region)
  }

  private *live(): Generator<Lent> {
    for (const rows of this.rows.values()) for (const lent of rows) if (lent !== undefined) yield lent
  }

  private placesAt({ device, length, direction }: Lent): Spans {
    const { port, places } = this
    const found: number[] = []
    const access = (direction & TO_DEVICE) === 0 ? ACCESS_WRITE : ACCESS_READ
    for (let done = 0; done < length; ) {
      port.request[0] = device + done
      const granted = port.resolve(length - done, access)
      if (granted <= 0) break
      const at = places.of(port.region, port.offset)
      found.push(at, at + granted)
      done += granted
    }
    return union(found)
  }
}

// Directions and access kinds have the same bits: what goes to the device is what it may read.
function permits(direction: DmaDirection, access: 1 | 2): boolean {
  return (direction & access) !== 0
}

/** A backend that does what another one does, and tells a ledger of it. */
export class RecordingBackend extends ForwardingBackend {
  private readonly ledger: Ledger

  constructor(inner: DmaBackend, ledger: Ledger) {
    super(inner)
    this.ledger = ledger
    ledger.granule = inner.limits.granule
  }

  override alloc(length: number, align: number, direction: DmaDirection, use: 'ring' | 'payload'): DmaRegion {
    const region = super.alloc(length, align, direction, use)
    this.ledger.alloc(region, use)
    return region
  }

  override free(region: DmaRegion): void {
    super.free(region)
    this.ledger.free(region)
  }

  override map(m: DmaMappings, row: number): DmaStatus {
    const status = super.map(m, row)
    if (status === DMA_OK) this.ledger.mapped(m, row)
    return status
  }

  override unmap(m: DmaMappings, row: number, written: number): DmaStatus {
    const status = super.unmap(m, row, written)
    this.ledger.unmapped(m, row)
    return status
  }

  override commitMaps(): DmaStatus {
    const status = super.commitMaps()
    if (status === DMA_OK) this.ledger.committed()
    return status
  }
}
