import { BusWindows } from '@guestdma/devices'
import { IotlbPort, type MappedWindow } from '@guestdma/vhost-user'

const WRITE = 2
/** In `window`. A port that tells no window is asked for each access. */
const LENGTH = 1
const READ_PERMISSION = 1

/** Device addresses from `base` on. */
export interface Span {
  readonly base: number
  readonly length: number
}

/** What the port of a guest's device saw. */
interface Watched {
  /** Accesses that were granted, to rings, tables and buffers. Those of a chain that waits are granted anew after it. */
  readonly granted: number
  /** Granted accesses that were not wholly inside of what the scheme promises. */
  readonly outside: number
  /** Messages that changed what the device reaches: translations that came, and that were taken back. */
  readonly messages: number
  /**
   * Bytes of the secret in what the guest handed over, at that moment, where the device may read it: in buffers that it
   * is to write, or, behind an IOMMU, in the pages that came into reach.
   */
  readonly handedOver: number
  /** Bytes of the secret in everything that the device could read now. */
  secretInReach(): number
}

export type WatchedPort = (BusWindows | IotlbPort) & Watched

/** A port that reaches one span of the guest's memory, whatever the front end passes. */
export class ConfinedPort extends BusWindows {
  protected readonly span: Span

  constructor(name: string, span: Span) {
    super(name)
    this.span = span
  }

  override setWindows(windows: readonly MappedWindow[]): void {
    super.setWindows(windows.flatMap((window) => cut(window, this.span)))
  }
}

/** The same, which watches what is asked for. */
export class SpanPort extends ConfinedPort implements Watched {
  granted = 0
  outside = 0
  readonly messages = 0
  handedOver = 0
  private readonly secret: Buffer

  constructor(name: string, span: Span, secret: string) {
    super(name, span)
    this.secret = Buffer.from(secret)
  }

  override resolve(length: number, access: 1 | 2): number {
    const address = this.request[0]
    const granted = super.resolve(length, access)
    this.window[LENGTH] = 0
    if (granted === 0) return 0
    this.granted++
    const { base, length: reach } = this.span
    if (address < base || address + granted > base + reach) this.outside++
    if (access === WRITE) this.handedOver += count(this.region.u8.buffer, this.offset, granted, this.secret)
    return granted
  }

  secretInReach(): number {
    let found = 0
    for (const { region, offset, length } of this.windows) found += count(region.u8.buffer, offset, length, this.secret)
    return found
  }
}

interface Translation {
  readonly iova: number
  readonly length: number
  readonly user: number
  readonly permission: number
}

/** A port behind a guest's IOMMU: reaches what the front end translates, of which it keeps a list of its own. */
export class TranslatedPort extends IotlbPort implements Watched {
  granted = 0
  outside = 0
  messages = 0
  handedOver = 0
  private readonly secret: Buffer
  private translations: Translation[] = []
  private passed: readonly MappedWindow[] = []

  constructor(name: string, secret: string) {
    super(name)
    this.secret = Buffer.from(secret)
  }

  override setWindows(windows: readonly MappedWindow[]): void {
    super.setWindows(windows)
    this.passed = windows
    this.translations = []
  }

  override update(iova: number, length: number, user: number, permission: number): boolean {
    const messages = this.messages + 1
    const taken = super.update(iova, length, user, permission)
    this.messages = messages
    if (!taken) return false
    // A front end answers each of the questions that were asked meanwhile.
    const repeated = this.translations.some((one) => one.iova === iova && one.length === length && one.user === user)
    this.drop(iova, length)
    const translation = { iova, length, user, permission }
    this.translations.push(translation)
    if (!repeated) this.handedOver += this.secretIn(translation)
    return true
  }

  override invalidate(iova: number, length: number): void {
    this.messages++
    this.drop(iova, length)
    super.invalidate(iova, length)
  }

  override resolve(length: number, access: 1 | 2): number {
    const address = this.request[0]
    const granted = super.resolve(length, access)
    this.window[LENGTH] = 0
    if (granted === 0) return 0
    this.granted++
    const known = this.translations.some(
      ({ iova, length: reach, permission }) =>
        address >= iova && address + granted <= iova + reach && (permission & access) !== 0,
    )
    if (!known) this.outside++
    return granted
  }

  secretInReach(): number {
    let found = 0
    for (const translation of this.translations) found += this.secretIn(translation)
    return found
  }

  private secretIn({ user, length, permission }: Translation): number {
    const window = this.passed.find((one) => user >= one.user && user + length <= one.user + one.length)
    if (window === undefined || (permission & READ_PERMISSION) === 0) return 0
    return count(window.region.u8.buffer, window.offset + (user - window.user), length, this.secret)
  }

  private drop(iova: number, length: number): void {
    this.translations = this.translations.filter((one) => one.iova >= iova + length || iova >= one.iova + one.length)
  }
}

/** The part of a window that lies in a span. */
function cut(window: MappedWindow, { base, length }: Span): MappedWindow[] {
  const from = Math.max(window.base, base)
  const to = Math.min(window.base + window.length, base + length)
  if (from >= to) return []
  const skipped = from - window.base
  return [{ ...window, base: from, length: to - from, offset: window.offset + skipped, user: window.user + skipped }]
}

/** Bytes of whole copies of the secret. */
function count(buffer: ArrayBufferLike, offset: number, length: number, secret: Buffer): number {
  const bytes = Buffer.from(buffer, offset, length)
  let found = 0
  for (let at = bytes.indexOf(secret); at >= 0; at = bytes.indexOf(secret, at + secret.length)) found += secret.length
  return found
}
