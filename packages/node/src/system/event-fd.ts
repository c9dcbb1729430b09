import { constants as system } from 'node:os'
import { callFailed, checked, libc } from './libc.ts'

const EFD_CLOEXEC = 0x8_0000
const EFD_NONBLOCK = 0x800
const F_GETFL = 3
const F_SETFL = 4
const O_NONBLOCK = 0x800
const COUNTER_BYTES = 8

// Shared by all: a call is over before the next one begins.
const ONE = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0)
const taken = new Uint32Array(2)

/**
 * A counter that one process raises and another one waits for (eventfd): doorbells and interrupts of vhost-user. Wait
 * for it by `waitReadable([event.fd], ms)`. Linux only.
 */
export class EventFd implements Disposable {
  private descriptor: number

  private constructor(fd: number) {
    this.descriptor = fd
  }

  /** Makes one that was not signalled. Throws `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`. */
  static create(): EventFd {
    return new EventFd(checked(libc().eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), 'eventfd', 'eventfd'))
  }

  /**
   * Owns a descriptor that was received. It is made non-blocking, for every process that has it. The descriptor is
   * closed if this throws `NODE_SYSCALL`.
   */
  static from(fd: number): EventFd {
    const flags = libc().fcntl(fd, F_GETFL, 0)
    if (flags < 0 || libc().fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
      const error = callFailed('fcntl', `eventfd ${fd}`)
      libc().close(fd)
      throw error
    }
    return new EventFd(fd)
  }

  /** To be passed to other processes; -1 after {@link close}. */
  get fd(): number {
    return this.descriptor
  }

  /** Adds one to the counter. Allocates nothing. Throws `NODE_SYSCALL` after {@link close}. */
  signal(): void {
    const { write, errno } = libc()
    // A full counter refuses: whoever waits for it is being woken already.
    while (write(this.descriptor, ONE, COUNTER_BYTES) < 0) {
      if (errno() === system.errno.EAGAIN) return
      if (errno() !== system.errno.EINTR) throw callFailed('write', `eventfd ${this.descriptor}`)
    }
  }

  /**
   * How often it was signalled since the last call; 0 where it was not. Never waits. Allocates nothing. Throws
   * `NODE_SYSCALL` after {@link close}.
   */
  take(): number {
    const { read, errno } = libc()
    for (;;) {
      const bytes = read(this.descriptor, taken, COUNTER_BYTES)
      // Fewer come from a pipe whose other end was closed, say: somebody passed it in the place of an eventfd.
      if (bytes >= 0) return bytes === COUNTER_BYTES ? taken[0] + taken[1] * 2 ** 32 : 0
      if (errno() === system.errno.EAGAIN) return 0
      if (errno() !== system.errno.EINTR) throw callFailed('read', `eventfd ${this.descriptor}`)
    }
  }

  /** May be called again. */
  close(): void {
    if (this.descriptor < 0) return
    libc().close(this.descriptor)
    this.descriptor = -1
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
