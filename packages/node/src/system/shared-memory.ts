import { NodeError } from './errors.ts'
import { callFailed, checked, libc } from './libc.ts'

const MFD_CLOEXEC = 0x1
const MFD_ALLOW_SEALING = 0x2
const F_ADD_SEALS = 1033
const F_SEAL_SHRINK = 0x2
const O_RDWR = 0x2
const O_CLOEXEC = 0x8_0000
const SEEK_END = 2
const PROT_READ_WRITE = 0x3
const MAP_SHARED = 0x1

/** `transfer` and `detached` are in Node 22, and not yet in the library of types that this project compiles against. */
interface DetachableBuffer extends ArrayBuffer {
  readonly detached: boolean
  transfer(bytes: number): ArrayBuffer
}

interface Mapping {
  readonly at: number
  readonly bytes: number
  readonly fd: number
}

/** Keyed by the buffer: every view holds it, so that nothing can refer to the mapping when it goes. */
const unclosed = new FinalizationRegistry<Mapping>(release)

function release({ at, bytes, fd }: Mapping): void {
  libc().munmap(at, bytes)
  libc().close(fd)
}

/**
 * Memory that other processes can map as well: an `ArrayBuffer` over a file or a memfd. Serves as the `memory` of a
 * range of `GuestMemory`. Linux only.
 *
 * `close()` empties every view and then unmaps. A mapping that nobody closes goes when its buffer is collected. Do not
 * pass `buffer` to `transfer()`, and close nothing that an asynchronous read or write still uses. If another process
 * cuts off the end of the file, an access there ends this process (SIGBUS); what `create` makes cannot be cut.
 *
 * @example
 * using pool = SharedMemory.create('pool', 1 << 20)
 * const memory = new GuestMemory([{ base: 0x8000_0000, length: pool.bytes, memory: pool.buffer }])
 * socket.send(message, [pool.fd])
 */
export class SharedMemory implements Disposable {
  /** What {@link create} or {@link open} was given. */
  readonly name: string
  readonly bytes: number
  /** Length 0 after {@link close}. */
  readonly buffer: ArrayBuffer
  private descriptor: number
  private readonly at: number

  private constructor(name: string, fd: number, bytes: number) {
    const at = libc().mmap(null, bytes, PROT_READ_WRITE, MAP_SHARED, fd, 0)
    // MAP_FAILED is -1; addresses of a process are positive.
    if (at === -1) throw callFailed('mmap', name)
    this.name = name
    this.bytes = bytes
    this.descriptor = fd
    this.at = at
    this.buffer = libc().view(at, bytes)
    unclosed.register(this.buffer, { at, bytes, fd }, this)
  }

  /**
   * Makes `bytes` bytes of zeroes that no file system shows (memfd_create). Nobody can make it shorter.
   *
   * @throws NodeError `NODE_LENGTH`, `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`
   */
  static create(name: string, bytes: number): SharedMemory {
    checkLength(name, bytes)
    const fd = checked(libc().memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), 'memfd_create', name)
    return owning(fd, () => {
      checked(libc().ftruncate(fd, bytes), 'ftruncate', name)
      checked(libc().fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 'fcntl', name)
      return new SharedMemory(name, fd, bytes)
    })
  }

  /**
   * Maps a whole file, such as one in /dev/shm, for reading and writing.
   *
   * @throws NodeError `NODE_LENGTH` for an empty file; `NODE_SYSCALL`, `NODE_PLATFORM`, `NODE_KOFFI`
   */
  static open(path: string): SharedMemory {
    return SharedMemory.from(checked(libc().open(path, O_RDWR | O_CLOEXEC), 'open', path), { name: path })
  }

  /**
   * Maps what a descriptor refers to, the first `bytes` bytes or all, and owns the descriptor from now on: it is closed
   * here, or at once if this throws.
   *
   * @throws NodeError `NODE_LENGTH` for a file that is empty or shorter than `bytes`; `NODE_SYSCALL`,
   *   `NODE_PLATFORM`, `NODE_KOFFI`
   */
  static from(fd: number, options: { readonly bytes?: number; readonly name?: string } = {}): SharedMemory {
    const { name = `descriptor ${fd}` } = options
    return owning(fd, () => {
      const length = checked(libc().lseek(fd, 0, SEEK_END), 'lseek', name)
      const { bytes = length } = options
      checkLength(name, bytes)
      if (bytes > length) {
        throw new NodeError('NODE_LENGTH', name, `${bytes} bytes are more than the file has (${length})`, {
          bytes,
          length,
        })
      }
      return new SharedMemory(name, fd, bytes)
    })
  }

  /** To be passed to other processes; -1 after {@link close}. */
  get fd(): number {
    return this.descriptor
  }

  /** Empties every view, unmaps the memory and closes the descriptor. May be called again. */
  close(): void {
    if (this.descriptor < 0) return
    const { at, bytes, descriptor: fd } = this
    this.descriptor = -1
    unclosed.unregister(this)
    const buffer = this.buffer as DetachableBuffer
    // A buffer that somebody else detached lives on under another name, so its memory stays.
    if (buffer.detached) {
      libc().close(fd)
      return
    }
    buffer.transfer(0)
    release({ at, bytes, fd })
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function checkLength(name: string, bytes: number): void {
  if (Number.isSafeInteger(bytes) && bytes > 0) return
  throw new NodeError('NODE_LENGTH', name, `${String(bytes)} bytes must be a positive integer`, { bytes })
}

function owning<T>(fd: number, make: () => T): T {
  try {
    return make()
  } catch (error) {
    libc().close(fd)
    throw error
  }
}
