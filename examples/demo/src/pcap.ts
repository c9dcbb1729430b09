import { hex } from '@guestdma/memory'
import { DemoInputError } from './errors.ts'

/** One Ethernet frame of a capture, from its destination address to its payload, without frame check sequence. */
interface Frame {
  /** Seconds since 1970-01-01 UTC. */
  readonly seconds: number
  /** The rest of the time stamp, in the capture's resolution. */
  readonly fraction: number
  /** Bytes that the frame had on the wire, by the capture's own account: never more than `data.length`. */
  readonly originalLength: number
  readonly data: Uint8Array<ArrayBuffer>
}

/** A pcap file. Its header is kept as it was read, so that an unchanged capture is written with the same bytes. */
export interface Capture {
  readonly byteOrder: 'little' | 'big'
  readonly resolution: 'microseconds' | 'nanoseconds'
  /** Seconds to add to get UTC; 0 in practice. */
  readonly timeZone: number
  /** Significant figures of the time stamps; 0 in practice. */
  readonly accuracy: number
  /** Bytes kept of each frame at most; 0 says that the file names no limit. */
  readonly snapLength: number
  /** What stands beside the link type in its word, which has 16 bits more; 0 in practice. */
  readonly linkFlags: number
  readonly frames: readonly Frame[]
}

/** The longest record that libpcap reads as well: a longer one is a damaged length, not a frame. */
export const MAX_RECORD_BYTES = 262_144

const FILE_HEADER_BYTES = 24
const RECORD_HEADER_BYTES = 16
const MAGIC_MICROSECONDS = 0xa1b2_c3d4
const MAGIC_NANOSECONDS = 0xa1b2_3c4d
// By the first four bytes read big-endian, so that a little-endian file shows its magic number reversed.
const FORMATS: ReadonlyMap<number, Pick<Capture, 'byteOrder' | 'resolution'>> = new Map([
  [MAGIC_MICROSECONDS, { byteOrder: 'big', resolution: 'microseconds' }],
  [0xd4c3_b2a1, { byteOrder: 'little', resolution: 'microseconds' }],
  [MAGIC_NANOSECONDS, { byteOrder: 'big', resolution: 'nanoseconds' }],
  [0x4d3c_b2a1, { byteOrder: 'little', resolution: 'nanoseconds' }],
])
// A section header block: the same in both byte orders, so it can be told from a pcap before the order is known.
const MAGIC_PCAPNG = 0x0a0d_0d0a
const VERSION_MAJOR = 2
const VERSION_MINOR = 4
const LINKTYPE_ETHERNET = 1
/** The link type has 16 bits; above are how long the frame check sequences are, if bit 26 says that they are known. */
const LINKTYPE_MASK = 0xffff
const FCS_KNOWN = 0x0400_0000
const FCS_LENGTH_MASK = 0xf000_0000

/**
 * Reads a whole pcap file (draft-ietf-opsawg-pcap) of Ethernet frames, in either byte order and resolution.
 *
 * @param bytes the file; the frames are copies, so it may be let go or changed afterwards
 * @param name the file's name, for messages
 * @throws DemoInputError and nothing else, whatever the bytes: `PCAP_NOT_PCAP`, `PCAP_IS_PCAPNG`, `PCAP_VERSION`,
 * `PCAP_TRUNCATED_HEADER`, `PCAP_LINK_TYPE`, `PCAP_TRUNCATED_RECORD`, `PCAP_RECORD_LENGTH`, `PCAP_FRAME_CUT_SHORT`,
 * `PCAP_EMPTY_FRAME`
 */
export function readPcap(bytes: Uint8Array, name: string): Capture {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < 4) throw truncatedHeader(name, bytes.length)
  const magic = view.getUint32(0)
  const format = FORMATS.get(magic)
  if (format === undefined) throw unknownMagic(magic, name)
  if (bytes.length < FILE_HEADER_BYTES) throw truncatedHeader(name, bytes.length)

  const little = format.byteOrder === 'little'
  const version = `${view.getUint16(4, little)}.${view.getUint16(6, little)}`
  if (version !== `${VERSION_MAJOR}.${VERSION_MINOR}`) {
    const advice = `only ${VERSION_MAJOR}.${VERSION_MINOR} is read, convert it: editcap -F pcap ${name} converted.pcap`
    throw new DemoInputError('PCAP_VERSION', name, 'the version', { offset: 4, found: version, advice })
  }
  const linkType = view.getUint32(20, little)
  const checked = (linkType & FCS_KNOWN) !== 0 && (linkType & FCS_LENGTH_MASK) !== 0
  if ((linkType & LINKTYPE_MASK) !== LINKTYPE_ETHERNET || checked) {
    const advice = `only plain Ethernet (${LINKTYPE_ETHERNET}) is read, capture on one interface: tcpdump -i eth0`
    throw new DemoInputError('PCAP_LINK_TYPE', name, 'the link type', { offset: 20, found: linkType, advice })
  }
  const snapLength = view.getUint32(16, little)
  return {
    ...format,
    timeZone: view.getInt32(8, little),
    accuracy: view.getUint32(12, little),
    snapLength,
    linkFlags: (linkType & ~LINKTYPE_MASK) >>> 0,
    frames: readFrames(bytes, view, little, snapLength, name),
  }
}

/**
 * Writes a capture as a pcap file, in its own byte order and resolution: what `readPcap` read comes out byte for byte.
 * Frames that are not empty and not longer than the snap length can be read back.
 */
export function writePcap(capture: Capture): Uint8Array<ArrayBuffer> {
  const little = capture.byteOrder === 'little'
  const length = capture.frames.reduce((sum, { data }) => sum + RECORD_HEADER_BYTES + data.length, FILE_HEADER_BYTES)
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)

  view.setUint32(0, capture.resolution === 'nanoseconds' ? MAGIC_NANOSECONDS : MAGIC_MICROSECONDS, little)
  view.setUint16(4, VERSION_MAJOR, little)
  view.setUint16(6, VERSION_MINOR, little)
  view.setInt32(8, capture.timeZone, little)
  view.setUint32(12, capture.accuracy, little)
  view.setUint32(16, capture.snapLength, little)
  view.setUint32(20, (capture.linkFlags | LINKTYPE_ETHERNET) >>> 0, little)

  let at = FILE_HEADER_BYTES
  for (const frame of capture.frames) {
    view.setUint32(at, frame.seconds, little)
    view.setUint32(at + 4, frame.fraction, little)
    view.setUint32(at + 8, frame.data.length, little)
    view.setUint32(at + 12, frame.originalLength, little)
    bytes.set(frame.data, at + RECORD_HEADER_BYTES)
    at += RECORD_HEADER_BYTES + frame.data.length
  }
  return bytes
}

function unknownMagic(magic: number, name: string): DemoInputError {
  const fault = { offset: 0, found: hex(magic) }
  if (magic === MAGIC_PCAPNG) {
    const advice = `that is pcapng, convert it: editcap -F pcap ${name} converted.pcap`
    return new DemoInputError('PCAP_IS_PCAPNG', name, 'the magic number', { ...fault, advice })
  }
  const advice = `pcap has ${hex(MAGIC_MICROSECONDS)} or ${hex(MAGIC_NANOSECONDS)}, in either order; see tcpdump -w`
  return new DemoInputError('PCAP_NOT_PCAP', name, 'the magic number', { ...fault, advice })
}

function readFrames(bytes: Uint8Array, view: DataView, little: boolean, snapLength: number, name: string): Frame[] {
  const limit = snapLength === 0 ? MAX_RECORD_BYTES : Math.min(snapLength, MAX_RECORD_BYTES)
  const frames: Frame[] = []
  let at = FILE_HEADER_BYTES
  while (at < bytes.length) {
    if (bytes.length - at < RECORD_HEADER_BYTES) {
      throw truncatedRecord(name, at, 'the rest of the file', bytes.length - at, RECORD_HEADER_BYTES)
    }
    // Counted from 1, as Wireshark and tcpdump --number do.
    const number = frames.length + 1
    const captured = view.getUint32(at + 8, little)
    const originalLength = view.getUint32(at + 12, little)
    if (captured > limit) {
      const advice = `at most ${limit} bytes can be kept of a frame here, so the file is damaged; capture it again`
      const fault = { offset: at + 8, found: captured, advice }
      throw new DemoInputError('PCAP_RECORD_LENGTH', name, `the length of frame ${number}`, fault)
    }
    if (captured < originalLength) {
      const found = `${captured} of ${originalLength} bytes`
      const advice = 'a frame must be whole to be sent, capture again with tcpdump -s 0'
      const fault = { offset: at + 8, found, advice }
      throw new DemoInputError('PCAP_FRAME_CUT_SHORT', name, `what was kept of frame ${number}`, fault)
    }
    if (captured === 0) {
      const fault = { offset: at + 8, found: 0, advice: 'a frame has at least one byte, so the file is damaged' }
      throw new DemoInputError('PCAP_EMPTY_FRAME', name, `the length of frame ${number}`, fault)
    }
    const start = at + RECORD_HEADER_BYTES
    if (bytes.length - start < captured) {
      throw truncatedRecord(name, start, `what is there of frame ${number}`, bytes.length - start, captured)
    }
    frames.push({
      seconds: view.getUint32(at, little),
      fraction: view.getUint32(at + 4, little),
      originalLength,
      data: new Uint8Array(bytes.subarray(start, start + captured)),
    })
    at = start + captured
  }
  return frames
}

function truncatedHeader(name: string, length: number): DemoInputError {
  const advice = `the header has ${FILE_HEADER_BYTES}, so the file was cut short; copy or capture it again`
  return new DemoInputError('PCAP_TRUNCATED_HEADER', name, 'the end of the file', {
    offset: length,
    found: `after ${length} bytes`,
    advice,
  })
}

function truncatedRecord(name: string, offset: number, what: string, length: number, needed: number): DemoInputError {
  const advice = `${needed} are needed, so the file was cut short; copy or capture it again`
  return new DemoInputError('PCAP_TRUNCATED_RECORD', name, what, { offset, found: `${length} bytes`, advice })
}
