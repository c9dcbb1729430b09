import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { ETHERNET_HEADER_SIZE, NET_MTU_MAX } from '@guestdma/spec'
import { DemoInputError } from './errors.ts'
import { type CaptureHeader, type Frame, readFrames, readHeader } from './pcap.ts'

/** What is known of a capture after it was read once. Its frames are read anew each time that they are needed. */
export interface Capture {
  readonly name: string
  readonly header: CaptureHeader
  readonly frames: number
  /** Of all frames, without the file's own headers. */
  readonly bytes: number
  readonly longest: number
  /** The first frames, for what is repeated many times. */
  readonly sample: readonly Frame[]
  /** Reads the frames once more, some at a time. */
  read(): AsyncIterable<readonly Frame[]>
}

/** How much of a capture is repeated. */
const SAMPLE_FRAMES = 2048
const SAMPLE_BYTES = 2 << 20
const CHUNK_BYTES = 64 << 10
const HEADER_BYTES = 24

/** Reads the header of a capture file and nothing else. Throws what `readHeader` throws. */
export async function peekCapture(path: string, name: string): Promise<CaptureHeader> {
  await using file = await open(path)
  const { buffer, bytesRead } = await file.read(Buffer.alloc(HEADER_BYTES), 0, HEADER_BYTES, 0)
  return readHeader(buffer.subarray(0, bytesRead), name)
}

/** The frames of a capture file, some at a time. Throws what `readFrames` throws. */
export function framesOf(path: string, name: string): AsyncIterable<readonly Frame[]> {
  return readFrames(createReadStream(path, { highWaterMark: CHUNK_BYTES }), name)
}

/**
 * Reads and checks all frames of a capture once.
 *
 * @param onFrames called with the bytes of the frames so far; what it throws passes through
 * @throws DemoInputError what `readFrames` throws, `PCAP_NO_FRAMES`, `PCAP_FRAME_TOO_LONG`
 */
export async function scanCapture(
  name: string,
  header: CaptureHeader,
  read: () => AsyncIterable<readonly Frame[]>,
  onFrames: (bytes: number) => void = () => {},
): Promise<Capture> {
  let frames = 0
  let bytes = 0
  let longest = 0
  const sample: Frame[] = []
  let sampled = 0
  for await (const some of read()) {
    for (const frame of some) {
      const { length } = frame.data
      frames++
      bytes += length
      if (length > longest) longest = length
      if (sample.length < SAMPLE_FRAMES && sampled < SAMPLE_BYTES) {
        sample.push(frame)
        sampled += length
      }
    }
    onFrames(bytes)
  }
  if (frames === 0) {
    const advice = 'there is nothing to send, capture for longer: tcpdump -c 100'
    throw new DemoInputError('PCAP_NO_FRAMES', name, 'the number of frames', { offset: HEADER_BYTES, found: 0, advice })
  }
  const most = NET_MTU_MAX + ETHERNET_HEADER_SIZE
  if (longest > most) {
    const advice = `at most ${most} can be sent, capture with segmentation offload off: ethtool -K eth0 tso off gso off`
    const fault = { offset: HEADER_BYTES, found: longest, advice }
    throw new DemoInputError('PCAP_FRAME_TOO_LONG', name, 'the length of the longest frame', fault)
  }
  return { name, header, frames, bytes, longest, sample, read }
}
