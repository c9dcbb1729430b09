import { observe } from '@guestdma/memory'
import { callFailed, checked, libc } from './libc.ts'
import { deadlineAfter, POLLIN, waitFor } from './poll.ts'

const EPOLL_CLOEXEC = 0x8_0000
const EPOLL_CTL_ADD = 1
const EPOLL_CTL_DEL = 2
const EPOLLIN = 1
/** Callbacks of one turn at most; the rest follows in the next. */
const TURN = 32

/** A descriptor that is watched. Close it before the descriptor, which stays its owner's. */
export interface Watch extends Disposable {
  /** Its callback is not called any more. May be called again. */
  close(): void
}

/**
 * All watches of this process: one epoll descriptor, which the event loop waits for. The process stays alive while
 * there is a watch.
 */
class Watches {
  private readonly set: number
  private readonly handle: { ref(): void; unref(): void }
  private readonly callbacks = new Map<number, () => void>()
  private last = 0
  // struct epoll_event is packed on x86-64 alone: 32 bits of events, then 64 bits of ours.
  private readonly eventWords = process.arch === 'x64' ? 3 : 4
  private readonly dataWord = this.eventWords - 2
  private readonly ready = new Uint32Array(this.eventWords)

  constructor() {
    this.set = checked(libc().epoll_create1(EPOLL_CLOEXEC), 'epoll_create1', 'watch')
    // koffi calls back without running microtasks, so that a promise which a callback settles would wait for some later
    // event. An immediate runs in the same turn of the loop, and its microtasks with it.
    this.handle = libc().onReadable(this.set, () => void setImmediate(() => this.turn()))
    this.handle.unref()
  }

  add(fd: number, callback: () => void): Watch {
    // Numbers and not descriptors: one that is closed and opened again within a turn is another one.
    const id = ++this.last
    const event = new Uint32Array(this.eventWords)
    event[0] = EPOLLIN
    event[this.dataWord] = id
    if (libc().epoll_ctl(this.set, EPOLL_CTL_ADD, fd, event) < 0) throw callFailed('epoll_ctl', `descriptor ${fd}`)
    this.callbacks.set(id, callback)
    this.handle.ref()
    const close = (): void => {
      if (!this.callbacks.delete(id)) return
      libc().epoll_ctl(this.set, EPOLL_CTL_DEL, fd, event)
      if (this.callbacks.size === 0) this.handle.unref()
    }
    return { close, [Symbol.dispose]: close }
  }

  wait(ms: number): boolean {
    if (waitFor([this.set], POLLIN, deadlineAfter('watch', ms)).length === 0) return false
    this.turn()
    return true
  }

  // One event at a time: a callback may wait, and what is served meanwhile has nothing to read any more.
  private turn(): void {
    const { ready, dataWord } = this
    for (let i = 0; i < TURN && libc().epoll_wait(this.set, ready, 1, 0) > 0; i++) {
      const callback = this.callbacks.get(ready[dataWord])
      if (callback !== undefined) observe(callback, undefined)
    }
  }
}

let watches: Watches | null = null

/**
 * Calls back, from the event loop, whenever a descriptor can be read (an end of stream and an error count), until the
 * watch is closed. What the callback throws surfaces in a microtask. It is called again as long as it leaves something
 * to read. Linux only.
 *
 * @throws NodeError `NODE_SYSCALL` for what cannot be watched: a descriptor that is closed, or a file on a disk, or one
 *   that is watched already; `NODE_PLATFORM`, `NODE_KOFFI`
 */
export function watchReadable(fd: number, callback: () => void): Watch {
  watches ??= new Watches()
  return watches.add(fd, callback)
}

/**
 * Blocks the thread until one of the watched descriptors can be read, and calls back for those that can; or until the
 * deadline, and then returns false. For code that must wait and must not keep the rest of the process from answering.
 *
 * @throws NodeError `NODE_DEADLINE` for a deadline that is no number; `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`
 */
export function serveWatched(deadlineMs: number): boolean {
  watches ??= new Watches()
  return watches.wait(deadlineMs)
}
