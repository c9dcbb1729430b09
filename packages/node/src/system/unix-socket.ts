import { constants as system } from 'node:os'
import { NodeError } from './errors.ts'
import { callFailed, checked, libc, uninterrupted } from './libc.ts'
import { deadlineAfter, POLLIN, POLLOUT, waitFor, waitReadable } from './poll.ts'
import { MAX_DESCRIPTORS, SocketMessage } from './socket-message.ts'

const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_CLOEXEC = 0x8_0000
const SOCK_NONBLOCK = 0x800
const MSG_CTRUNC = 0x8
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
const MSG_CMSG_CLOEXEC = 0x4000_0000

/** struct sockaddr_un: a family of 16 bits and a path that ends with a zero. */
const ADDRESS_BYTES = 110
const PATH_BYTES = 107
const BACKLOG = 16
/** Between two attempts to connect to a path where nobody listens yet. */
const RETRY_MS = 5
const DEFAULT_DEADLINE_MS = 5000

/** What {@link UnixSocket.receive} found. */
export interface Received {
  /** Empty: the other end closed. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** Owned by the caller, who closes them. */
  readonly fds: readonly number[]
}

/** A socket that others connect to. */
export interface UnixListener extends Disposable {
  readonly path: string
  readonly fd: number
  /** Waits for the next connection. Throws `NODE_DEADLINE`, `NODE_SYSCALL`. */
  accept(deadlineMs: number): UnixSocket
  /** Does not remove the file. May be called again. */
  close(): void
}

/**
 * A stream socket between two processes of one machine that also carries file descriptors. Its operations block the
 * thread, each until a deadline: for protocols of short questions and answers. Linux only.
 *
 * @example
 * using socket = UnixSocket.connect('/run/disk.sock', { deadlineMs: 2000 })
 * socket.send(request, [memory.fd])
 * const { bytes, fds } = socket.receive(4096, 2000)
 */
export class UnixSocket implements Disposable {
  /** The path, for messages; `socket pair` where there is none. */
  readonly name: string
  private descriptor: number
  private readonly message: SocketMessage

  private constructor(fd: number, name: string) {
    this.descriptor = fd
    this.name = name
    this.message = new SocketMessage(libc())
  }

  /**
   * Connects to a path. Where nobody listens there yet, it tries again until the deadline.
   *
   * @throws NodeError `NODE_DEADLINE`, `NODE_SOCKET_PATH`, `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`
   */
  static connect(path: string, { deadlineMs }: { readonly deadlineMs: number }): UnixSocket {
    const deadline = deadlineAfter(path, deadlineMs)
    const address = addressOf(path)
    const { ENOENT, ECONNREFUSED, EAGAIN } = system.errno
    for (;;) {
      const fd = newSocket(path)
      if (uninterrupted(() => libc().connect(fd, address, ADDRESS_BYTES)) >= 0) return new UnixSocket(fd, path)
      const errno = libc().errno()
      const error = callFailed('connect', path)
      libc().close(fd)
      if (errno !== ENOENT && errno !== ECONNREFUSED && errno !== EAGAIN) throw error
      if (performance.now() >= deadline) {
        throw new NodeError('NODE_DEADLINE', path, `nobody listened within ${deadlineMs} ms`, {}, { cause: error })
      }
      libc().poll(null, 0, RETRY_MS)
    }
  }

  /**
   * Listens at a path that does not exist yet.
   *
   * @throws NodeError `NODE_SOCKET_PATH`, `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`
   */
  static listen(path: string): UnixListener {
    const address = addressOf(path)
    let fd = newSocket(path)
    const close = (): void => {
      if (fd >= 0) libc().close(fd)
      fd = -1
    }
    if (libc().bind(fd, address, ADDRESS_BYTES) < 0) {
      const error = callFailed('bind', path)
      const inUse = libc().errno() === system.errno.EADDRINUSE
      close()
      if (!inUse) throw error
      throw new NodeError('NODE_SOCKET_PATH', path, 'another file has this path', { path }, { cause: error })
    }
    if (libc().listen(fd, BACKLOG) < 0) {
      const error = callFailed('listen', path)
      close()
      throw error
    }
    return {
      path,
      get fd() {
        return fd
      },
      accept: (deadlineMs) => {
        const deadline = deadlineAfter(path, deadlineMs)
        for (;;) {
          if (waitFor([fd], POLLIN, deadline).length === 0) {
            throw new NodeError('NODE_DEADLINE', path, `nobody connected within ${deadlineMs} ms`)
          }
          const accepted = uninterrupted(() => libc().accept4(fd, null, null, SOCK_CLOEXEC))
          if (accepted >= 0) return new UnixSocket(accepted, path)
          // Whoever connected may be gone again.
          const { EAGAIN, ECONNABORTED } = system.errno
          if (libc().errno() !== EAGAIN && libc().errno() !== ECONNABORTED) throw callFailed('accept', path)
        }
      },
      close,
      [Symbol.dispose]: close,
    }
  }

  /** Two sockets that are connected to each other. Throws `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`. */
  static pair(): [UnixSocket, UnixSocket] {
    const fds = new Int32Array(2)
    checked(libc().socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 'socketpair', 'socket pair')
    return [new UnixSocket(fds[0], 'socket pair'), new UnixSocket(fds[1], 'socket pair')]
  }

  /** Owns the descriptor of a connected stream socket that another process sent. */
  static from(fd: number, name: string = `socket ${fd}`): UnixSocket {
    return new UnixSocket(fd, name)
  }

  /** -1 after {@link close}. */
  get fd(): number {
    return this.descriptor
  }

  /** Would {@link receive} return at once? Throws `NODE_CLOSED` after {@link close}. */
  get isReadable(): boolean {
    return waitReadable([this.descriptor], 0).length > 0
  }

  /**
   * Sends all of `bytes`, and descriptors with the first of them: at most 253, and none without bytes. They stay open
   * here.
   *
   * @throws NodeError `NODE_CLOSED`, `NODE_DEADLINE`, `NODE_DESCRIPTORS`, `NODE_LENGTH`, `NODE_SYSCALL`
   */
  send(bytes: Uint8Array, fds: readonly number[] = [], deadlineMs: number = DEFAULT_DEADLINE_MS): void {
    const deadline = deadlineAfter(this.name, deadlineMs)
    if (fds.length > MAX_DESCRIPTORS) throw this.tooMany(fds.length, MAX_DESCRIPTORS)
    if (bytes.length === 0 && fds.length > 0) {
      throw new NodeError('NODE_LENGTH', this.name, 'descriptors need at least one byte to travel with', { bytes: 0 })
    }
    for (let sent = 0; sent < bytes.length; ) {
      const rest = bytes.subarray(sent)
      this.message.load(rest, sent === 0 ? fds : [])
      const count = this.transfer('sendmsg', POLLOUT, deadline, deadlineMs)
      if (count < 0) throw this.closed()
      sent += count
    }
  }

  /**
   * Waits for bytes: at most `max`, and as few as one. Descriptors that came with them are closed by programs that this
   * process executes.
   *
   * @throws NodeError `NODE_DEADLINE`; `NODE_DESCRIPTORS` where more than `maxFds` came, or the process may open no
   *   more: those that came are closed then, and the bytes are lost; `NODE_CLOSED`, `NODE_LENGTH`, `NODE_SYSCALL`
   */
  receive(max: number, deadlineMs: number, maxFds: number = MAX_DESCRIPTORS): Received {
    const deadline = deadlineAfter(this.name, deadlineMs)
    if (!Number.isSafeInteger(max) || max <= 0) {
      throw new NodeError('NODE_LENGTH', this.name, `max ${String(max)} must be a positive integer`, { max })
    }
    const buffer = new Uint8Array(max)
    this.message.prepare(buffer, Math.min(maxFds, MAX_DESCRIPTORS))
    const count = this.transfer('recvmsg', POLLIN, deadline, deadlineMs)
    if (count < 0) return { bytes: buffer.subarray(0, 0), fds: [] }
    const fds = this.message.descriptors()
    if ((this.message.flags & MSG_CTRUNC) !== 0) {
      for (const fd of fds) libc().close(fd)
      throw this.tooMany(undefined, maxFds)
    }
    return { bytes: buffer.subarray(0, count), fds }
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

  /** One message, as soon as the socket takes or has one. Returns -1 where the other end is gone. */
  private transfer(call: 'sendmsg' | 'recvmsg', event: number, deadline: number, deadlineMs: number): number {
    if (this.descriptor < 0) throw this.closed()
    const { EAGAIN, EINTR, EPIPE, ECONNRESET } = system.errno
    const flags = MSG_DONTWAIT | (call === 'sendmsg' ? MSG_NOSIGNAL : MSG_CMSG_CLOEXEC)
    for (;;) {
      const count = libc()[call](this.descriptor, this.message.header, flags)
      if (count >= 0) return count
      const errno = libc().errno()
      if (errno === EPIPE || errno === ECONNRESET) return -1
      if (errno === EINTR) continue
      if (errno !== EAGAIN) throw callFailed(call, this.name)
      if (waitFor([this.descriptor], event, deadline).length === 0) {
        const what = call === 'sendmsg' ? 'the other end took nothing' : 'the other end sent nothing'
        throw new NodeError('NODE_DEADLINE', this.name, `${what} within ${deadlineMs} ms`, { deadlineMs })
      }
    }
  }

  private closed(): NodeError {
    const which = this.descriptor < 0 ? 'this end was closed' : 'the other end closed'
    return new NodeError('NODE_CLOSED', this.name, which)
  }

  private tooMany(count: number | undefined, most: number): NodeError {
    const message = `${count ?? 'more'} file descriptors in one message; at most ${most} may be passed`
    return new NodeError('NODE_DESCRIPTORS', this.name, message, { count, most })
  }
}

function newSocket(path: string): number {
  return checked(libc().socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), 'socket', path)
}

function addressOf(path: string): Buffer {
  const bytes = Buffer.byteLength(path)
  if (bytes === 0 || bytes > PATH_BYTES || path.includes('\0')) {
    const message = `a path of ${bytes} bytes must have 1 to ${PATH_BYTES}, and no zero byte`
    throw new NodeError('NODE_SOCKET_PATH', path, message, { bytes })
  }
  const address = Buffer.alloc(ADDRESS_BYTES)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(path, 2)
  return address
}
