import { QemuError } from './errors.ts'

/** A stream as a blocking protocol uses it; `UnixSocket` is one. */
export interface ByteStream {
  /** Are there bytes, or the end, to be received without waiting? */
  readonly isReadable: boolean
  send(bytes: Uint8Array): void
  /** At least one byte, and at most `max`; none when the stream has ended. Throws at the deadline. */
  receive(max: number, deadlineMs: number, maxFds: number): { readonly bytes: Uint8Array }
  close(): void
}

/** Most answers have 22 bytes, and each call makes a buffer. */
const CHUNK_BYTES = 4096
/** The longest line that is taken: QEMU's description of its own protocol has 200 KB. */
const LINE_LIMIT = 4 << 20

/**
 * Lines of text over a stream that may cut and join them anywhere. The first failure ends the connection: after an
 * answer that was late or wrong, nobody can say which question the next one belongs to. Each later use throws the same
 * error again.
 */
export class LineStream {
  readonly name: string
  private readonly stream: ByteStream
  private readonly deadlineMs: number
  private readonly describe: () => string
  private readonly decoder = new TextDecoder()
  private text = ''
  // A search makes one string of all pieces, so a long line is searched once.
  private mayHaveEnd = false
  /** When the next answer is due, on the clock of `performance.now()`. */
  private due: number
  private failure: QemuError | null = null

  /** `describe`: what the other process printed last. */
  constructor(name: string, stream: ByteStream, deadlineMs: number, describe: () => string = () => '') {
    this.name = name
    this.stream = stream
    this.deadlineMs = deadlineMs
    this.describe = describe
    this.due = performance.now() + deadlineMs
  }

  /** Sends a line; the answer is due when `deadlineMs` have passed. Throws `QEMU_LOST`. */
  send(line: string): void {
    this.due = performance.now() + this.deadlineMs
    this.guard(() => this.stream.send(Buffer.from(`${line}\n`)))
  }

  /**
   * The next line, without its end. However much arrives before the answer does, nobody waits beyond the time when it is
   * due. Throws `QEMU_LOST`.
   */
  next(): string {
    for (;;) {
      const line = this.take()
      if (line !== null) return line
      const left = this.due - performance.now()
      if (left < 0) throw this.fail(`no answer within ${this.deadlineMs} ms`)
      this.fill(left)
    }
  }

  /** As {@link next}, for what has arrived: `null` where no whole line has. Throws `QEMU_LOST`. */
  arrived(): string | null {
    for (;;) {
      const line = this.take()
      if (line !== null || !this.guard(() => this.stream.isReadable)) return line
      this.fill(0)
    }
  }

  /** Ends the connection, for a line that the protocol does not have. Returns the error to throw. */
  fail(what: string, cause?: unknown): QemuError {
    if (this.failure === null) {
      const printed = this.describe()
      const message = printed === '' ? what : `${what}; QEMU printed: ${printed}`
      this.failure = new QemuError('QEMU_LOST', this.name, message, {}, { cause })
      this.stream.close()
    }
    return this.failure
  }

  close(): void {
    this.fail('the connection was closed here')
  }

  private take(): string | null {
    const end = this.mayHaveEnd ? this.text.indexOf('\n') : -1
    if (end < 0) {
      this.mayHaveEnd = false
      if (this.text.length > LINE_LIMIT) throw this.fail(`a line of more than ${LINE_LIMIT} characters`)
      return null
    }
    const line = this.text.slice(0, end)
    this.text = this.text.slice(end + 1)
    return line.endsWith('\r') ? line.slice(0, -1) : line
  }

  private fill(deadlineMs: number): void {
    const { bytes } = this.guard(() => this.stream.receive(CHUNK_BYTES, deadlineMs, 0))
    if (bytes.length === 0) throw this.fail('the connection was closed')
    const piece = this.decoder.decode(bytes, { stream: true })
    this.mayHaveEnd ||= piece.includes('\n')
    this.text += piece
  }

  private guard<T>(use: () => T): T {
    if (this.failure !== null) throw this.failure
    try {
      return use()
    } catch (error) {
      throw this.fail(error instanceof Error ? error.message : String(error), error)
    }
  }
}
