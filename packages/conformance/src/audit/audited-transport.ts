import { type FeatureSet, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import type { ConfigReader, QueueAreas, VirtioTransport } from '@guestdma/transport'
import { type DeviceMemoryLookup, type PublishedPart, type PublishedRing, publishedRing } from './published-ring.ts'

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
  readonly allowed: readonly AuditSpan[]
  /** Finds rings and indirect tables; those that it does not find are reported by their own span and not read. */
  readonly lookup: DeviceMemoryLookup
}

/** Findings that are kept; all are counted. */
const FINDINGS_KEPT = 100

/**
 * A transport that passes everything on and looks at what the driver tells the device: at each doorbell it walks the
 * ring as the device would, and records every address outside of the allowed spans. It shares no code with the drivers'
 * or the devices' rings, in either format.
 *
 * A driver may publish chains without a doorbell. Call {@link audit} before its memory is used again, after each poll
 * say; what could no longer be read is counted in `missed`. The device overwrites a packed ring where it used it: what
 * such a device used before the walk is missed, too.
 *
 * @example
 * const audited = new AuditedTransport(transport, {
 *   allowed: [{ base: pool.device, length: pool.window.length }],
 *   lookup: (address, length) => lookupPool(address, length),
 * })
 */
export class AuditedTransport implements VirtioTransport {
  /** Spans that the device was told of. */
  passed = 0
  /** Those of them that were indirect tables. */
  indirect = 0
  /** Those of them that lie outside of what is allowed. */
  outside = 0
  /** Chains, or descriptors of a packed ring, that were published and overwritten before they were looked at. */
  missed = 0
  /** The first of those outside, at most 100. */
  readonly findings: AuditFinding[] = []
  private readonly transport: VirtioTransport
  private readonly options: AuditOptions
  private readonly rings = new Map<number, PublishedRing>()
  private packed = false

  constructor(transport: VirtioTransport, options: AuditOptions) {
    this.transport = transport
    this.options = options
  }

  /** Walks all rings. */
  audit(): void {
    for (const queue of this.rings.keys()) this.walk(queue)
  }

  get name(): string {
    return this.transport.name
  }

  get kind(): VirtioTransport['kind'] {
    return this.transport.kind
  }

  get deviceId(): number {
    return this.transport.deviceId
  }

  get transitional(): boolean {
    return this.transport.transitional
  }

  async settle(): Promise<void> {
    await this.transport.settle?.()
  }

  readStatus(): number {
    return this.transport.readStatus()
  }

  writeStatus(status: number): void {
    if (status === 0) {
      this.audit()
      this.rings.clear()
    }
    this.transport.writeStatus(status)
  }

  readFeatures(): FeatureSet {
    return this.transport.readFeatures()
  }

  writeFeatures(features: FeatureSet): void {
    this.packed = features.has(VIRTIO_F_RING_PACKED)
    this.transport.writeFeatures(features)
  }

  maxQueueSize(index: number): number {
    return this.transport.maxQueueSize(index)
  }

  enableQueue(index: number, size: number, areas: QueueAreas): void {
    this.rings.set(index, publishedRing(size, areas, this.options.lookup, this.packed))
    this.walk(index)
    this.transport.enableQueue(index, size, areas)
  }

  resetQueue(index: number): void {
    this.walk(index)
    this.rings.delete(index)
    this.transport.resetQueue(index)
  }

  queueResetDone(index: number): boolean {
    return this.transport.queueResetDone(index)
  }

  notify(index: number, position: number): void {
    this.walk(index)
    this.transport.notify(index, position)
  }

  readConfig<T>(read: (config: ConfigReader) => T): T {
    return this.transport.readConfig(read)
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.transport.writeConfig(offset, size, value)
  }

  takeInterrupts(): number {
    this.audit()
    return this.transport.takeInterrupts()
  }

  private walk(queue: number): void {
    const ring = this.rings.get(queue)
    if (ring === undefined) return
    this.missed += ring.walk((part, address, length) => {
      this.passed++
      if (part === 'indirect table') this.indirect++
      const inside = this.options.allowed.some(
        (span) => address >= span.base && address + length <= span.base + span.length,
      )
      if (inside) return
      this.outside++
      if (this.findings.length < FINDINGS_KEPT) this.findings.push({ queue, part, address, length })
    })
  }
}
