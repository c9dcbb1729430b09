import { EventFd, type Watch, waitReadable, watchReadable } from '@guestdma/node'
import type { VringAddress } from '../protocol/payload.ts'

/** One vring as a front end describes it (vhost-user, "Ring states"), and its three events. */
export class Vring {
  readonly index: number
  /** 0 before it is told. */
  size = 0
  /** Where the ring goes on: the next available entry. */
  next = 0
  address: VringAddress | null = null
  enabled = false
  /** The device works on it, or does so from its next turn on. */
  state: 'stopped' | 'due' | 'running' = 'stopped'
  call: EventFd | null = null
  private error: EventFd | null = null
  private kick: EventFd | null = null
  private watch: Watch | null = null

  constructor(index: number) {
    this.index = index
  }

  /** There is a kick, so the front end started the ring. */
  get started(): boolean {
    return this.kick !== null
  }

  /** Owns the descriptor. Throws NodeError `NODE_SYSCALL` for one that cannot be waited for. */
  setKick(descriptor: number, onKick: () => void): void {
    this.dropKick()
    const kick = EventFd.from(descriptor)
    try {
      this.watch = watchReadable(kick.fd, () => {
        if (kick.take() > 0) onKick()
        else if (waitReadable([kick.fd], 0).length > 0) {
          // It was signalled since, or it can be read and gives nothing, as a pipe without its other end: that would call
          // back for ever.
          if (kick.take() > 0) onKick()
          else this.watch?.close()
        }
      })
    } catch (error) {
      kick.close()
      throw error
    }
    this.kick = kick
  }

  /** Owns the descriptor; `undefined` for none. */
  setCall(descriptor: number | undefined): void {
    this.call?.close()
    this.call = descriptor === undefined ? null : EventFd.from(descriptor)
  }

  /** Owns the descriptor; `undefined` for none. */
  setError(descriptor: number | undefined): void {
    this.error?.close()
    this.error = descriptor === undefined ? null : EventFd.from(descriptor)
  }

  /** The front end stopped the ring. */
  dropKick(): void {
    this.watch?.close()
    this.kick?.close()
    this.watch = this.kick = null
  }

  /** Tells the front end that the ring is broken. Throws NodeError. */
  signalError(): void {
    this.error?.signal()
  }

  close(): void {
    this.dropKick()
    this.setCall(undefined)
    this.setError(undefined)
  }
}
