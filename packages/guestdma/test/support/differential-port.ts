import type { BusPort } from '@guestdma/memory'
import type { DeviceReach } from './differential-reach.ts'

/** Forwards to the platform's port and tells what it granted. Without windows a device has to ask for each access. */
export class RecordingPort implements BusPort {
  readonly request: Float64Array
  readonly window: Float64Array
  private readonly inner: BusPort
  private readonly reach: DeviceReach

  constructor(inner: BusPort, reach: DeviceReach, windowed: boolean) {
    this.inner = inner
    this.reach = reach
    reach.watch(inner)
    this.request = inner.request
    this.window = windowed ? inner.window : new Float64Array(4)
  }

  get epoch(): number {
    return this.inner.epoch
  }

  get region(): BusPort['region'] {
    return this.inner.region
  }

  get offset(): number {
    return this.inner.offset
  }

  resolve(length: number, access: 1 | 2): number {
    const granted = this.inner.resolve(length, access)
    if (granted > 0) this.reach.granted(this.request[0], granted, access)
    return granted
  }

  outOfReach(high: number, low: number, length: number, access: 1 | 2): void {
    this.inner.outOfReach?.(high, low, length, access)
  }

  message(data: number): boolean {
    return this.inner.message?.(data) ?? false
  }

  refresh(): void {
    this.inner.refresh()
  }
}
