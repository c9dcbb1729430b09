import { PackedRingPeer } from './packed-ring-peer.ts'

/** The packed ring of a device that lies: every way in which a used descriptor can be wrong. */
export class HostilePackedRing extends PackedRingPeer {
  /** An id that is none of the queue. */
  returnOutOfRange(id: number): void {
    this.use([{ id, written: 0 }])
  }

  /** The same chain twice. */
  returnTwice(id: number): void {
    this.use([
      { id, written: 0 },
      { id, written: 0 },
    ])
  }

  /** More bytes than were posted: 4 GiB less one. */
  overstate(id: number): void {
    this.use([{ id, written: 0xffff_ffff }])
  }

  /** In the descriptor behind the one that the driver polls. */
  returnAhead(id: number): void {
    this.jump(1)
    this.use([{ id, written: 0 }])
  }

  /** With the wrap counter of the next lap: no used descriptor, for a driver that keeps its own counter. */
  returnWithWrongWrap(id: number): void {
    this.jump(this.setup.size)
    this.use([{ id, written: 0 }])
  }
}
