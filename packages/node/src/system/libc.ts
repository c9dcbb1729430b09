import { createRequire } from 'node:module'
import { endianness, constants as system } from 'node:os'
import { NodeError } from './errors.ts'

/** A buffer in the native signature takes the place of a pointer, and is used during the call only. */
type Bytes = Uint8Array | Int32Array | Uint32Array

/** The functions of the C library that are called. Each returns a negative number where it failed. */
export interface Libc {
  accept4(fd: number, address: null, length: null, flags: number): number
  bind(fd: number, address: Bytes, length: number): number
  close(fd: number): number
  connect(fd: number, address: Bytes, length: number): number
  epoll_create1(flags: number): number
  epoll_ctl(set: number, operation: number, fd: number, event: Bytes): number
  epoll_wait(set: number, events: Bytes, most: number, ms: number): number
  eventfd(initial: number, flags: number): number
  fcntl(fd: number, command: number, argument: number): number
  ftruncate(fd: number, bytes: number): number
  listen(fd: number, backlog: number): number
  lseek(fd: number, offset: number, whence: number): number
  memfd_create(name: string, flags: number): number
  mmap(at: null, bytes: number, protection: number, flags: number, fd: number, offset: number): number
  munmap(at: number, bytes: number): number
  open(path: string, flags: number): number
  poll(fds: Bytes | null, count: number, ms: number): number
  read(fd: number, bytes: Bytes, length: number): number
  recvmsg(fd: number, message: Bytes, flags: number): number
  sendmsg(fd: number, message: Bytes, flags: number): number
  socket(domain: number, type: number, protocol: number): number
  socketpair(domain: number, type: number, protocol: number, fds: Bytes): number
  write(fd: number, bytes: Bytes, length: number): number

  /** The error number of the last call. */
  errno(): number
  /** Where the bytes of a buffer lie, for structures that hold pointers. The caller keeps the buffer alive. */
  addressOf(bytes: Bytes): bigint
  /** Memory of the process as a buffer that does not own it. */
  view(at: number, bytes: number): ArrayBuffer
  /** Calls back from the event loop whenever the descriptor can be read. It must be one that poll() can wait for. */
  onReadable(fd: number, callback: () => void): { ref(): void; unref(): void }
}

type Calls = Exclude<keyof Libc, 'errno' | 'addressOf' | 'view' | 'onReadable'>

const SIGNATURES: Readonly<Record<Calls, string>> = {
  accept4: 'int accept4(int fd, void *address, void *length, int flags)',
  bind: 'int bind(int fd, void *address, uint32_t length)',
  close: 'int close(int fd)',
  connect: 'int connect(int fd, void *address, uint32_t length)',
  epoll_create1: 'int epoll_create1(int flags)',
  epoll_ctl: 'int epoll_ctl(int set, int operation, int fd, void *event)',
  epoll_wait: 'int epoll_wait(int set, void *events, int most, int ms)',
  eventfd: 'int eventfd(uint32_t initial, int flags)',
  fcntl: 'int fcntl(int fd, int command, int argument)',
  ftruncate: 'int ftruncate(int fd, int64_t bytes)',
  listen: 'int listen(int fd, int backlog)',
  lseek: 'int64_t lseek(int fd, int64_t offset, int whence)',
  memfd_create: 'int memfd_create(const char *name, uint32_t flags)',
  mmap: 'intptr_t mmap(void *at, size_t bytes, int protection, int flags, int fd, int64_t offset)',
  munmap: 'int munmap(intptr_t at, size_t bytes)',
  open: 'int open(const char *path, int flags)',
  poll: 'int poll(void *fds, uint64_t count, int ms)',
  read: 'int64_t read(int fd, void *bytes, size_t length)',
  recvmsg: 'int64_t recvmsg(int fd, void *message, int flags)',
  sendmsg: 'int64_t sendmsg(int fd, void *message, int flags)',
  socket: 'int socket(int domain, int type, int protocol)',
  socketpair: 'int socketpair(int domain, int type, int protocol, void *fds)',
  write: 'int64_t write(int fd, void *bytes, size_t length)',
}

/** What of koffi is used. Its own types would make every user of this package install it. */
interface Koffi {
  load(path: null): { func(signature: string): (...values: unknown[]) => number }
  errno(): number
  address(bytes: Bytes): bigint
  view(at: bigint, bytes: number): ArrayBuffer
  node: {
    poll(fd: number, events: { readable: true }, callback: () => void): { ref(): void; unref(): void }
  }
}

const PART = '@guestdma/node'
let loaded: Libc | null = null

/**
 * The C library of this process, loaded at the first use.
 *
 * @throws NodeError `NODE_PLATFORM`, `NODE_KOFFI`
 */
export function libc(): Libc {
  loaded ??= load()
  return loaded
}

function load(): Libc {
  const { platform, arch } = process
  // The layouts of structures and the numbers of constants are those of 64-bit Linux.
  if (platform !== 'linux' || !['x64', 'arm64', 'riscv64', 'loong64'].includes(arch) || endianness() !== 'LE') {
    const message = `shared memory and sockets with file descriptors need 64-bit Linux, not ${platform} on ${arch}`
    throw new NodeError('NODE_PLATFORM', PART, message, { platform, arch })
  }
  let koffi: Koffi
  try {
    const require = createRequire(import.meta.url)
    koffi = require('koffi') as Koffi
  } catch (cause) {
    const message = 'system calls need the package koffi, which cannot be loaded; install it (npm install koffi)'
    throw new NodeError('NODE_KOFFI', PART, message, {}, { cause })
  }
  const own = koffi.load(null)
  const calls = Object.entries(SIGNATURES).map(([name, signature]) => [name, own.func(signature)] as const)
  return {
    ...(Object.fromEntries(calls) as unknown as Pick<Libc, Calls>),
    errno: () => koffi.errno(),
    addressOf: (bytes) => koffi.address(bytes),
    view: (at, bytes) => koffi.view(BigInt(at), bytes),
    onReadable: (fd, callback) => koffi.node.poll(fd, { readable: true }, callback),
  }
}

/** Calls again what a signal interrupted. */
export function uninterrupted(call: () => number): number {
  for (;;) {
    const result = call()
    if (result >= 0 || libc().errno() !== system.errno.EINTR) return result
  }
}

/**
 * Passes a result on.
 *
 * @throws NodeError `NODE_SYSCALL` where it is negative
 */
export function checked(result: number, call: string, part: string): number {
  if (result < 0) throw callFailed(call, part)
  return result
}

/** The error for a call that just failed. */
export function callFailed(call: string, part: string): NodeError {
  const errno = libc().errno()
  const name = Object.entries(system.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`
  return new NodeError('NODE_SYSCALL', part, `${call} failed: ${name}`, { call, errno })
}
