import type { FifoOptions } from './frame-fifo.ts'
import { FramePath, type PathCounters } from './frame-path.ts'
import type { Frames } from './frames.ts'
import type { FrameReceiver, NetLink } from './net-link.ts'

/** One end of a {@link Wire}. Made by it. */
export class WireEnd implements NetLink {
  declare private readonly out: FramePath
  declare private readonly into: FramePath
  private device: FrameReceiver | null = null

  constructor(out: FramePath, into: FramePath) {
    this.out = out
    this.into = into
  }

  /** What was sent from this end. */
  get counters(): Readonly<PathCounters> {
    return this.out.counters
  }

  attach(device: FrameReceiver): void {
    this.into.attach(device)
    this.device = device
  }

  transmit(frames: Frames): number {
    return this.out.send(frames, 0, frames.count)
  }

  deliver(budget: number): number {
    return this.into.deliver(budget)
  }

  unplugged(): void {
    this.into.unplugged()
  }

  /** For the wire: there is room again for what is sent from this end. */
  room(): void {
    this.device?.wake()
  }
}

/**
 * A cable between two devices. A frame goes straight into the peer's receive buffers, or into a bounded queue per
 * direction while there are none; when that is full, the sender holds its frames back. Frames for a peer that is not
 * live are dropped and counted.
 *
 * @example
 * const wire = new Wire()
 * const left = new NetDevice({ name: 'left', port: leftPort, mac: leftMac, link: wire.a })
 * const right = new NetDevice({ name: 'right', port: rightPort, mac: rightMac, link: wire.b })
 *
 * @throws DeviceError `LINK_OPTION`; `LINK_ATTACHED` if a second device is plugged into one end
 */
export class Wire {
  declare readonly a: WireEnd
  declare readonly b: WireEnd

  constructor(options: FifoOptions = {}) {
    const toA = new FramePath('wire end a', options, () => this.b.room())
    const toB = new FramePath('wire end b', options, () => this.a.room())
    this.a = new WireEnd(toB, toA)
    this.b = new WireEnd(toA, toB)
  }
}
