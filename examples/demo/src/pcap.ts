import { hex } from '@guestdma/memory'
import { DemoInputError } from './errors.ts'

/** One Ethernet frame of a capture, from its destination address to its payload, without frame check sequence. */
export interface Frame {
  /** Seconds since 1970-01-01 UTC. */
  readonly seconds: number
  /** The rest of the time stamp, in the capture's resolution. */
  readonly fraction: number
  /** Bytes that the frame had on the wire, by the capture's own account: never more than `data.length`. */
  readonly originalLength: number
  readonly data: Uint8Array
}

/** The header of a pcap file, as it was read, so that an unchanged capture is written with the same bytes. */
export interface CaptureHeader {
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
}

/** Bytes of a file, in pieces of any size. */
export type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>

/** The longest record that libpcap reads as well: a longer one is a damaged length, not a frame. */
export const MAX_RECORD_BYTES = 262_144

const FILE_HEADER_BYTES = 24
export const RECORD_HEADER_BYTES = 16
const MAGIC_MICROSECONDS = 0xa1b2_c3d4
const MAGIC_NANOSECONDS = 0xa1b2_3c4d
// By the first four bytes read big-endian, so that a little-endian file shows its magic number reversed.
const FORMATS: ReadonlyMap<number, Pick<CaptureHeader, 'byteOrder' | 'resolution'>> = new Map([
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
 * Reads the header of a pcap file (draft-ietf-opsawg-pcap) of Ethernet frames, in either byte order and resolution.
 *
 * @param bytes the first bytes of the file, 24 or more where it has so many
 * @param name the file's name, for messages
 * @throws DemoInputError `PCAP_NOT_PCAP`, `PCAP_IS_PCAPNG`, `PCAP_VERSION`, `PCAP_TRUNCATED_HEADER`, `PCAP_LINK_TYPE`
 */
export function readHeader(bytes: Uint8Array, name: string): CaptureHeader {
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
  return {
    ...format,
    timeZone: view.getInt32(8, little),
    accuracy: view.getUint32(12, little),
    snapLength: view.getUint32(16, little),
    linkFlags: (linkType & ~LINKTYPE_MASK) >>> 0,
  }
}

/**
 * Reads the frames of a pcap file piece by piece. No more of it is in memory than one piece and the longest frame.
 *
 * @param chunks the whole file, from its header on
 * @returns the frames that end in each piece: views of its memory, or of a copy of it
 * @throws DemoInputError and nothing else of its own, whatever the bytes: what {@link readHeader} throws,
 * `PCAP_TRUNCATED_RECORD`, `PCAP_RECORD_LENGTH`, `PCAP_FRAME_CUT_SHORT`, `PCAP_EMPTY_FRAME`
 */
export async function* readFrames(chunks: Chunks, name: string): AsyncGenerator<readonly Frame[], void> {
  let bytes: Uint8Array = new Uint8Array()
  // Of the first byte of `bytes`, in the file.
  let offset = 0
  let number = 0
  let header: CaptureHeader | undefined
  for await (const chunk of chunks) {
    const joined = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
    bytes = new Uint8Array(joined.buffer, joined.byteOffset, joined.length)
    if (header === undefined) {
      if (bytes.length < FILE_HEADER_BYTES) continue
      header = readHeader(bytes, name)
      bytes = bytes.subarray(FILE_HEADER_BYTES)
      offset = FILE_HEADER_BYTES
    }
    const frames: Frame[] = []
    for (let found = firstFrame(bytes, offset, header, number + 1, name); found !== undefined; ) {
      frames.push(found)
      number++
      const length = RECORD_HEADER_BYTES + found.data.length
      bytes = bytes.subarray(length)
      offset += length
      found = firstFrame(bytes, offset, header, number + 1, name)
    }
    if (frames.length > 0) yield frames
  }
  if (header === undefined) readHeader(bytes, name)
  else if (bytes.length > 0) throw truncated(bytes, offset, header, number + 1, name)
}

/** The header of a pcap file, to be followed by records of {@link putFrame}. */
export function headerBytes(header: CaptureHeader): Uint8Array<ArrayBuffer> {
  const little = header.byteOrder === 'little'
  const bytes = new Uint8Array(FILE_HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, header.resolution === 'nanoseconds' ? MAGIC_NANOSECONDS : MAGIC_MICROSECONDS, little)
  view.setUint16(4, VERSION_MAJOR, little)
  view.setUint16(6, VERSION_MINOR, little)
  view.setInt32(8, header.timeZone, little)
  view.setUint32(12, header.accuracy, little)
  view.setUint32(16, header.snapLength, little)
  view.setUint32(20, (header.linkFlags | LINKTYPE_ETHERNET) >>> 0, little)
  return bytes
}

/** Writes one record at `target[at]`, header and frame: what {@link readFrames} read comes out byte for byte. */
export function putFrame({ byteOrder }: CaptureHeader, frame: Frame, target: Uint8Array, at: number): void {
  const little = byteOrder === 'little'
  const view = new DataView(target.buffer, target.byteOffset + at, RECORD_HEADER_BYTES)
  view.setUint32(0, frame.seconds, little)
  view.setUint32(4, frame.fraction, little)
  view.setUint32(8, frame.data.length, little)
  view.setUint32(12, frame.originalLength, little)
  target.set(frame.data, at + RECORD_HEADER_BYTES)
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

// The frame at the start of the bytes, or undefined where it is not all there. Counted from 1, as Wireshark and
// tcpdump --number do.
function firstFrame(
  bytes: Uint8Array,
  offset: number,
  { byteOrder, snapLength }: CaptureHeader,
  number: number,
  name: string,
): Frame | undefined {
  if (bytes.length < RECORD_HEADER_BYTES) return undefined
  const little = byteOrder === 'little'
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const limit = snapLength === 0 ? MAX_RECORD_BYTES : Math.min(snapLength, MAX_RECORD_BYTES)
  const captured = view.getUint32(8, little)
  const originalLength = view.getUint32(12, little)
  if (captured > limit) {
    const advice = `at most ${limit} bytes can be kept of a frame here, so the file is damaged; capture it again`
    const fault = { offset: offset + 8, found: captured, advice }
    throw new DemoInputError('PCAP_RECORD_LENGTH', name, `the length of frame ${number}`, fault)
  }
  if (captured < originalLength) {
    const found = `${captured} of ${originalLength} bytes`
    const advice = 'a frame must be whole to be sent, capture again with tcpdump -s 0'
    const fault = { offset: offset + 8, found, advice }
    throw new DemoInputError('PCAP_FRAME_CUT_SHORT', name, `what was kept of frame ${number}`, fault)
  }
  if (captured === 0) {
    const fault = { offset: offset + 8, found: 0, advice: 'a frame has at least one byte, so the file is damaged' }
    throw new DemoInputError('PCAP_EMPTY_FRAME', name, `the length of frame ${number}`, fault)
  }
  const end = RECORD_HEADER_BYTES + captured
  if (bytes.length < end) return undefined
  return {
    seconds: view.getUint32(0, little),
    fraction: view.getUint32(4, little),
    originalLength,
    data: bytes.subarray(RECORD_HEADER_BYTES, end),
  }
}

function truncatedHeader(name: string, length: number): DemoInputError {
  const advice = `the header has ${FILE_HEADER_BYTES}, so the file was cut short; copy or capture it again`
  return new DemoInputError('PCAP_TRUNCATED_HEADER', name, 'the end of the file', {
    offset: length,
    found: `after ${length} bytes`,
    advice,
  })
}

function truncated(
  bytes: Uint8Array,
  offset: number,
  { byteOrder }: CaptureHeader,
  number: number,
  name: string,
): DemoInputError {
  const inHeader = bytes.length < RECORD_HEADER_BYTES
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const needed = inHeader ? RECORD_HEADER_BYTES : view.getUint32(8, byteOrder === 'little')
  const there = inHeader ? bytes.length : bytes.length - RECORD_HEADER_BYTES
  const advice = `${needed} are needed, so the file was cut short; copy or capture it again`
  const what = inHeader ? 'the rest of the file' : `what is there of frame ${number}`
  return new DemoInputError('PCAP_TRUNCATED_RECORD', name, what, {
    offset: inHeader ? offset : offset + RECORD_HEADER_BYTES,
    found: `${there} bytes`,
    advice,
  })
}
