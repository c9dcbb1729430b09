import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { type CaptureHeader, type Frame, headerBytes, MAX_RECORD_BYTES, putFrame, RECORD_HEADER_BYTES } from './pcap.ts'

const NOTHING_SENT: Frame = { seconds: 0, fraction: 0, originalLength: 0, data: new Uint8Array() }

/** Compares frames with those that were sent, in order, and writes them to a capture file if there is to be one. */
export class Arrivals {
  frames = 0
  bytes = 0
  /** False once a frame came that is not the next one that was sent. */
  identical = true
  private readonly header: CaptureHeader
  private readonly path: string | undefined
  private file: number | undefined
  private sent: Frame[] = []
  private taken = 0
  // Room for the longest record, so that it is written in few pieces.
  private readonly buffer = new Uint8Array(2 * (RECORD_HEADER_BYTES + MAX_RECORD_BYTES))
  private buffered = 0

  /** Creates `path` with a name that says it is partial, until {@link finish}. */
  constructor(header: CaptureHeader, path: string | undefined) {
    this.header = header
    this.path = path
    if (path !== undefined) {
      this.file = openSync(partial(path), 'w')
      writeSync(this.file, headerBytes(header))
    }
  }

  /** What is sent next. */
  expect(frames: readonly Frame[]): void {
    this.sent = [...this.sent.slice(this.taken), ...frames]
    this.taken = 0
  }

  /** The bytes are read before this returns. */
  arrived(data: Uint8Array): void {
    const frame = this.sent[this.taken] ?? NOTHING_SENT
    this.taken++
    this.frames++
    this.bytes += data.length
    if (Buffer.compare(data, frame.data) !== 0) this.identical = false
    if (this.file === undefined) return
    const length = RECORD_HEADER_BYTES + data.length
    if (this.buffered + length > this.buffer.length) this.flush()
    putFrame(this.header, { ...frame, data }, this.buffer, this.buffered)
    this.buffered += length
  }

  /** All has arrived that will: the file gets its name. */
  finish(): void {
    if (this.path === undefined || this.file === undefined) return
    this.flush()
    closeSync(this.file)
    this.file = undefined
    renameSync(partial(this.path), this.path)
  }

  /** Removes what was written, unless it is finished. */
  [Symbol.dispose](): void {
    if (this.path === undefined || this.file === undefined) return
    closeSync(this.file)
    this.file = undefined
    rmSync(partial(this.path), { force: true })
  }

  private flush(): void {
    if (this.file !== undefined) writeSync(this.file, this.buffer, 0, this.buffered)
    this.buffered = 0
  }
}

function partial(path: string): string {
  return `${path}.partial`
}
