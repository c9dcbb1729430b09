import { constants as system } from 'node:os'
import { NodeError } from './errors.ts'
import { callFailed, libc } from './libc.ts'

export const POLLIN = 0x1
export const POLLOUT = 0x4
const POLLNVAL = 0x20

/** struct pollfd: a descriptor, 16 bits of what is asked, 16 bits of what was found. */
const POLLFD_WORDS = 2

/** The end of a wait that begins now, on the clock of `performance.now()`. */
export function deadlineAfter(part: string, ms: number): number {
  if (Number.isFinite(ms) && ms >= 0) return performance.now() + ms
  throw new NodeError('NODE_DEADLINE', part, `deadlineMs ${String(ms)} must be a finite number, 0 or more`, { ms })
}

/**
 * Blocks the thread until one of the descriptors can be read (an end of stream and an error count), or until the
 * deadline. Returns those that can be read; none at the deadline.
 *
 * @throws NodeError `NODE_SYSCALL` for what is no open descriptor; `NODE_DEADLINE` for a deadline that is no number
 */
export function waitReadable(fds: readonly number[], deadlineMs: number): number[] {
  return waitFor(fds, POLLIN, deadlineAfter('waitReadable', deadlineMs))
}

/** As {@link waitReadable}, for any event, until `deadline` on the clock of `performance.now()`. */
export function waitFor(fds: readonly number[], events: number, deadline: number): number[] {
  const asked = new Int32Array(POLLFD_WORDS * Math.max(fds.length, 1))
  const found = (index: number): number => asked[POLLFD_WORDS * index + 1] >>> 16
  fds.forEach((fd, index) => {
    // poll() passes over negative numbers in silence.
    if (fd < 0) throw new NodeError('NODE_CLOSED', 'poll', `descriptor ${fd} is closed`, { fd })
    asked[POLLFD_WORDS * index] = fd
    asked[POLLFD_WORDS * index + 1] = events
  })
  for (;;) {
    const left = Math.max(0, deadline - performance.now())
    const ready = libc().poll(asked, fds.length, Math.min(Math.ceil(left), 0x7fff_ffff))
    if (ready < 0 && libc().errno() !== system.errno.EINTR) throw callFailed('poll', `descriptors ${fds.join(', ')}`)
    if (ready > 0) break
    if (performance.now() >= deadline) return []
  }
  fds.forEach((fd, index) => {
    if ((found(index) & POLLNVAL) !== 0) {
      throw new NodeError('NODE_SYSCALL', 'poll', `${fd} is no open descriptor`, { fd, errno: system.errno.EBADF })
    }
  })
  return fds.filter((_, index) => found(index) !== 0)
}
