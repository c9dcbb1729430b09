import { type FeatureSet, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import type { ConfigReader, QueueAreas, VirtioTransport } from '@guestdma/transport'
import { AddressAudit, type AuditOptions } from './address-audit.ts'
import { type PublishedRing, publishedRing } from './published-ring.ts'

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
export class AuditedTransport extends AddressAudit implements VirtioTransport {
  private readonly transport: VirtioTransport
  private readonly rings = new Map<number, PublishedRing>()
  private packed = false

  constructor(transport: VirtioTransport, options: AuditOptions) {
    super(options)
    this.transport = transport
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
    if (ring !== undefined) this.look(queue, ring)
  }
}
