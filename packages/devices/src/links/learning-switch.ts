import { ETHERNET_HEADER_SIZE } from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import type { FifoOptions } from './frame-fifo.ts'
import { FramePath, type PathCounters } from './frame-path.ts'
import type { Frames } from './frames.ts'
import { MacTable } from './mac-table.ts'
import type { FrameReceiver, NetLink } from './net-link.ts'

const DESTINATION = 0
const SOURCE = 6

export interface SwitchOptions extends FifoOptions {
  /** How many ports: 2 to 1024. */
  readonly ports: number
  /**
   * Addresses to remember; the table is bounded, and an address that fell out is flooded to again. Defaults to 1024.
   */
  readonly addresses?: number
  /**
   * True (default): a frame for a port whose queue is full is dropped and counted in that port's `full`, as a switch
   * between tenants does: a guest that posts no buffers costs nobody else anything. False: while any live port's queue is
   * full, all other ports hold their frames back; nothing is lost, and one slow guest stops all.
   */
  readonly dropWhenFull?: boolean
}

/** What a switch port counted, of frames towards its device, and of frames that its device sent. */
export interface PortCounters extends PathCounters {
  /** Dropped because this port's queue was full; 0 where `dropWhenFull` is false. */
  full: number
  /** Sent by the device and not forwarded: shorter than an Ethernet header, or to an address behind the same port. */
  filtered: number
  /** Sent by the device and flooded: broadcast, multicast, or an address that the switch does not know. */
  flooded: number
}

/** One port of a {@link LearningSwitch}. Made by it. */
export class SwitchPort implements NetLink {
  readonly index: number
  private readonly owner: LearningSwitch
  private readonly path: FramePath
  private readonly own = { full: 0, filtered: 0, flooded: 0 }
  private device: FrameReceiver | null = null

  constructor(owner: LearningSwitch, index: number, options: FifoOptions) {
    this.owner = owner
    this.index = index
    this.path = new FramePath(`switch port ${index}`, options, () => owner.room(index))
  }

  get counters(): PortCounters {
    return { ...this.path.counters, ...this.own }
  }

  attach(device: FrameReceiver): void {
    this.path.attach(device)
    this.device = device
  }

  transmit(frames: Frames): number {
    const { count, lengths } = frames
    for (let i = 0; i < count; i++) {
      if (this.owner.blocked(this.index)) return i
      if (lengths[i] < ETHERNET_HEADER_SIZE) this.own.filtered++
      else {
        const how = this.owner.forward(frames, i, this.index)
        if (how === 'filtered') this.own.filtered++
        else if (how === 'flooded') this.own.flooded++
      }
    }
    return count
  }

  deliver(budget: number): number {
    return this.path.deliver(budget)
  }

  unplugged(): void {
    this.path.unplugged()
  }

  /** For the switch: another port has room again. */
  wake(): void {
    this.device?.wake()
  }

  /** For the switch: a frame towards this port's device. */
  output(frames: Frames, i: number): void {
    if (this.path.send(frames, i, i + 1) === 0) this.own.full++
  }

  /** For the switch: whether a device with a live driver is plugged in, and whether its queue is full. */
  get live(): boolean {
    return this.path.live
  }

  get queueFull(): boolean {
    return this.path.full
  }
}

/**
 * An Ethernet switch that learns which address is behind which port: known unicast goes to one port, everything else to
 * all other ports with a live driver. Frames that cannot be delivered at once wait in a bounded queue per port; see
 * `dropWhenFull` for what happens when one is full.
 *
 * @example
 * const network = new LearningSwitch({ ports: 3 })
 * const device = new NetDevice({ name: 'net0', port, mac, link: network.ports[0] })
 *
 * @throws DeviceError `LINK_OPTION`; `LINK_ATTACHED` if a second device is plugged into one port
 */
export class LearningSwitch {
  readonly ports: readonly SwitchPort[]
  private readonly table: MacTable
  private readonly dropWhenFull: boolean

  constructor(options: SwitchOptions) {
    const { ports, addresses = 1024, dropWhenFull = true } = options
    if (!Number.isInteger(ports) || ports < 2 || ports > 1024) {
      throw new DeviceError('LINK_OPTION', 'switch', `ports ${ports} must be an integer from 2 to 1024`, { ports })
    }
    if (!Number.isInteger(addresses) || addresses < 1 || addresses > 65536) {
      throw new DeviceError('LINK_OPTION', 'switch', `addresses ${addresses} must be an integer from 1 to 65536`, {
        addresses,
      })
    }
    this.ports = Array.from({ length: ports }, (_, i) => new SwitchPort(this, i, options))
    this.table = new MacTable(addresses)
    this.dropWhenFull = dropWhenFull
  }

  /** For a port: whether a frame from it might meet a full queue that must not drop. */
  blocked(from: number): boolean {
    if (this.dropWhenFull) return false
    for (let i = 0; i < this.ports.length; i++) if (i !== from && this.ports[i].queueFull) return true
    return false
  }

  /** For a port: its queue was full, and the devices of the others may have been held back. */
  room(from: number): void {
    if (this.dropWhenFull) return
    for (let i = 0; i < this.ports.length; i++) if (i !== from) this.ports[i].wake()
  }

  /** For a port: takes a frame of at least an Ethernet header from it. */
  forward(frames: Frames, i: number, from: number): 'unicast' | 'flooded' | 'filtered' {
    const { ports, table } = this
    const frame = frames.region.u8
    const at = frames.offsets[i]
    // A group address is no sender.
    if ((frame[at + SOURCE] & 1) === 0) table.learn(frame, at + SOURCE, from)
    const to = (frame[at + DESTINATION] & 1) === 0 ? table.find(frame, at + DESTINATION) : -1
    if (to === from) return 'filtered'
    if (to >= 0) {
      ports[to].output(frames, i)
      return 'unicast'
    }
    for (let to = 0; to < ports.length; to++) if (to !== from && ports[to].live) ports[to].output(frames, i)
    return 'flooded'
  }
}
