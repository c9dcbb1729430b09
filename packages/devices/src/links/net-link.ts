import type { Frames } from './frames.ts'

/** What a link hands frames to: a `NetDevice`, seen from its link. */
export interface FrameReceiver {
  /** Whether a driver has set the device going. A frame for one that is not live has nowhere to go. */
  readonly live: boolean
  /**
   * Offers a frame: an Ethernet frame without its check sequence. It is copied before the call returns.
   *
   * False: there is no receive buffer now; the caller keeps the frame and may offer it again. True: the device is done
   * with it: it was delivered, or it can never be (empty, too long, link down) and was counted as dropped.
   */
  receive(frame: Uint8Array<ArrayBuffer>): boolean
  /** Offers frames `from` to `to` - 1 of a batch, in order, as {@link receive} does. Returns with how many it is done. */
  receiveEach(frames: Frames, from: number, to: number): number
  /**
   * Tells the device that a poll is due: a frame waits for it that it did not refuse before, or the link that held it
   * back has room again. A device that nobody wakes sleeps.
   */
  wake(): void
}

/**
 * What a network device is plugged into. The device hands over what its driver sends from within `poll`.
 */
export interface NetLink {
  /**
   * Takes frames of a batch, from frame 0 on, and returns how many. What it did not take stays in the device's transmit
   * queue: back-pressure instead of loss. Once there is room the link calls {@link FrameReceiver.wake}, or the device
   * would sleep on them. The bytes are valid until return: a link that needs them later copies them.
   */
  transmit(frames: Frames): number
  /**
   * Called at the head of each poll of the device: hands over up to `budget` frames that had to wait. Returns how many.
   */
  deliver?(budget: number): number
  /** Called when the device stopped taking frames (reset, failed or broken): what waits for it has nowhere to go. */
  unplugged?(): void
  /** Called once by the device that is plugged in. Throws `LINK_ATTACHED` if another one is. */
  attach?(device: FrameReceiver): void
}

/**
 * Bytes of the longest frame that the links of this package queue: the largest MTU, an Ethernet header and two
 * VLAN tags.
 */
export const MAX_FRAME_BYTES: number = 65535 + 14 + 8
