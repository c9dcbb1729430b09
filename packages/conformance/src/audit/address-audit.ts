import type { DeviceMemoryLookup, PublishedPart, PublishedRing } from './published-ring.ts'

/** Device addresses that a device may be told of. */
export interface AuditSpan {
  readonly base: number
  readonly length: number
}

/** A span that a device was told of and that lies in no allowed one. */
export interface AuditFinding {
  readonly queue: number
  readonly part: PublishedPart
  readonly address: number
  readonly length: number
}

export interface AuditOptions {
  /** Asked for at each span: a getter serves where they move. */
  readonly allowed: readonly AuditSpan[]
  /** Finds rings and indirect tables; those that it does not find are reported by their own span and not read. */
  readonly lookup: DeviceMemoryLookup
  /** Called for each buffer that the device was told of; `writable` where it is to fill it. */
  readonly onBuffer?: (address: number, length: number, writable: boolean) => void
}

/** Findings that are kept; all are counted. */
const FINDINGS_KEPT = 100

/** Counts the device addresses that a device was told of, and those of them that lie outside of what is allowed. */
export class AddressAudit {
  /** Spans that the device was told of. */
  passed = 0
  /** Those of them that were indirect tables. */
  indirect = 0
  /** Those of them that lie outside of what is allowed. */
  outside = 0
  /** Chains that were published and overwritten before they were looked at. */
  missed = 0
  /** The first of those outside, at most 100. */
  readonly findings: AuditFinding[] = []
  protected readonly options: AuditOptions

  constructor(options: AuditOptions) {
    this.options = options
  }

  /** Looks at what was published in `ring` since the last look. */
  protected look(queue: number, ring: PublishedRing): void {
    this.missed += ring.walk((part, address, length, writable) => {
      this.passed++
      if (part === 'indirect table') this.indirect++
      if (part === 'buffer') this.options.onBuffer?.(address, length, writable)
      const inside = this.options.allowed.some(
        (span) => address >= span.base && address + length <= span.base + span.length,
      )
      if (inside) return
      this.outside++
      if (this.findings.length < FINDINGS_KEPT) this.findings.push({ queue, part, address, length })
    })
  }
}
