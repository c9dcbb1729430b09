import type { FifoOptions } from './frame-fifo.ts'
import { FramePath, type PathCounters } from './frame-path.ts'
import type { Frames } from './frames.ts'
import type { FrameReceiver, NetLink } from './net-link.ts'

/**
 * A link that gives every frame back to the device that sent it: at once while it has receive buffers, otherwise from a
 * bounded queue. While that is full the device holds its frames back; nothing is lost.
 *
 * @throws DeviceError `LINK_OPTION`; `LINK_ATTACHED` if a second device is plugged in
 */
export class LoopbackLink implements NetLink {
  private readonly path: FramePath
  private device: FrameReceiver | null = null

  constructor(options: FifoOptions = {}) {
    this.path = new FramePath('loopback link', options, () => this.device?.wake())
  }

  get counters(): Readonly<PathCounters> {
    return this.path.counters
  }

  attach(device: FrameReceiver): void {
    this.path.attach(device)
    this.device = device
  }

  transmit(frames: Frames): number {
    return this.path.send(frames, 0, frames.count)
  }

  deliver(budget: number): number {
    return this.path.deliver(budget)
  }

  unplugged(): void {
    this.path.unplugged()
  }
}
