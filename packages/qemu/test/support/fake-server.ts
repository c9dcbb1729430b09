import { NodeError } from '@guestdma/node'
import type { ByteStream } from '../../src/protocol/lines.ts'

/** The other end of a stream, in this process: it answers each line at once, in pieces of any size. */
export class FakeServer implements ByteStream {
  readonly received: string[] = []
  closed = false
  private readonly answer: (line: string) => string
  private readonly pieces: Uint8Array<ArrayBuffer>[] = []
  private readonly cut: () => number
  private ended = false

  /** `cut`: how long the next piece is. Default: all that there is. */
  constructor(answer: (line: string) => string = () => '', cut: () => number = () => Infinity) {
    this.answer = answer
    this.cut = cut
  }

  /** Sends without being asked. */
  say(text: string): this {
    this.pieces.push(new Uint8Array(Buffer.from(text)))
    return this
  }

  /** Closes its end once all was read. */
  end(): this {
    this.ended = true
    return this
  }

  get isReadable(): boolean {
    return this.pieces.length > 0 || this.ended
  }

  send(bytes: Uint8Array): void {
    const line = Buffer.from(bytes).toString().trimEnd()
    this.received.push(line)
    const answer = this.answer(line)
    if (answer !== '') this.say(answer)
  }

  receive(max: number, deadlineMs: number): { readonly bytes: Uint8Array } {
    const piece = this.pieces.shift()
    if (piece === undefined) {
      if (this.ended) return { bytes: new Uint8Array(0) }
      throw new NodeError('NODE_DEADLINE', 'fake server', `the other end sent nothing within ${deadlineMs} ms`)
    }
    const length = Math.max(1, Math.min(max, this.cut(), piece.length))
    if (length < piece.length) this.pieces.unshift(piece.subarray(length))
    return { bytes: piece.subarray(0, length) }
  }

  close(): void {
    this.closed = true
  }
}
