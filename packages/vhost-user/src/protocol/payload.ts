import { FeatureSet } from '@guestdma/spec'

/**
 * One kind of payload (vhost-user, "Payload"): how many bytes it takes, and both directions of its encoding.
 *
 * Numbers are little-endian, as the machine is. An address or a size of 64 bits is a number: above 2^53 it is rounded,
 * and so lies outside of everything.
 */
export interface Payload<T> {
  /** Fewest and most bytes. */
  readonly least: number
  readonly most: number
  encode(value: T): Uint8Array<ArrayBuffer>
  /** `view` has from `least` to `most` bytes. `undefined`: a length inside of it does not fit. */
  decode(view: DataView): T | undefined
}

/** Regions that a table holds at most. */
export const MAX_REGIONS = 8
/** Bytes of configuration that one message carries at most. */
export const MAX_CONFIG = 256

export interface VringState {
  readonly index: number
  readonly num: number
}

/** Ring addresses: user addresses, or I/O virtual ones where ACCESS_PLATFORM was agreed. */
export interface VringAddress {
  readonly index: number
  readonly flags: number
  readonly descriptor: number
  readonly used: number
  readonly available: number
  readonly log: number
}

/** One region of the memory table. Its descriptor comes with the message. */
export interface MemoryRegion {
  readonly guest: number
  readonly length: number
  readonly user: number
  readonly offset: number
}

/** A part of the device's configuration space. */
export interface ConfigSpace {
  readonly offset: number
  readonly flags: number
  readonly bytes: Uint8Array
}

export const IOTLB_MISS = 1
export const IOTLB_UPDATE = 2
export const IOTLB_INVALIDATE = 3
export const IOTLB_ACCESS_FAIL = 4

export interface IotlbMessage {
  readonly iova: number
  readonly length: number
  readonly user: number
  /** 1: read, 2: write. */
  readonly permission: number
  readonly type: number
}

/** No payload. */
export const NONE: Payload<null> = {
  ...fixed(0),
  encode: () => new Uint8Array(0),
  decode: () => null,
}

/** A single 64-bit integer. */
export const U64: Payload<number> = {
  ...fixed(8),
  encode: (value) => encoded(8, (view) => setU64(view, 0, value)),
  decode: (view) => getU64(view, 0),
}

/** A single 64-bit integer whose bits are features, of the device or of the protocol. */
export const FEATURES: Payload<FeatureSet> = {
  ...fixed(8),
  encode: (value) =>
    encoded(8, (view) => {
      view.setUint32(0, value.word(0), true)
      view.setUint32(4, value.word(1), true)
    }),
  decode: (view) => FeatureSet.fromWords([view.getUint32(0, true), view.getUint32(4, true)]),
}

export const VRING_STATE: Payload<VringState> = {
  ...fixed(8),
  encode: ({ index, num }) =>
    encoded(8, (view) => {
      view.setUint32(0, index, true)
      view.setUint32(4, num, true)
    }),
  decode: (view) => ({ index: view.getUint32(0, true), num: view.getUint32(4, true) }),
}

export const VRING_ADDRESS: Payload<VringAddress> = {
  ...fixed(40),
  encode: ({ index, flags, descriptor, used, available, log }) =>
    encoded(40, (view) => {
      view.setUint32(0, index, true)
      view.setUint32(4, flags, true)
      setU64(view, 8, descriptor)
      setU64(view, 16, used)
      setU64(view, 24, available)
      setU64(view, 32, log)
    }),
  decode: (view) => ({
    index: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    descriptor: getU64(view, 8),
    used: getU64(view, 16),
    available: getU64(view, 24),
    log: getU64(view, 32),
  }),
}

const REGION_BYTES = 32

export const MEMORY_TABLE: Payload<readonly MemoryRegion[]> = {
  least: 8,
  most: 8 + REGION_BYTES * MAX_REGIONS,
  encode: (regions) =>
    encoded(8 + REGION_BYTES * regions.length, (view) => {
      view.setUint32(0, regions.length, true)
      for (const [i, { guest, length, user, offset }] of regions.entries()) {
        const at = 8 + REGION_BYTES * i
        setU64(view, at, guest)
        setU64(view, at + 8, length)
        setU64(view, at + 16, user)
        setU64(view, at + 24, offset)
      }
    }),
  decode: (view) => {
    const count = view.getUint32(0, true)
    if (view.byteLength !== 8 + REGION_BYTES * count) return undefined
    return Array.from({ length: count }, (_, i) => {
      const at = 8 + REGION_BYTES * i
      return {
        guest: getU64(view, at),
        length: getU64(view, at + 8),
        user: getU64(view, at + 16),
        offset: getU64(view, at + 24),
      }
    })
  },
}

const CONFIG_HEADER = 12

export const CONFIG_SPACE: Payload<ConfigSpace> = {
  least: CONFIG_HEADER,
  most: CONFIG_HEADER + MAX_CONFIG,
  encode: ({ offset, flags, bytes }) =>
    encoded(CONFIG_HEADER + bytes.length, (view) => {
      view.setUint32(0, offset, true)
      view.setUint32(4, bytes.length, true)
      view.setUint32(8, flags, true)
      new Uint8Array(view.buffer).set(bytes, CONFIG_HEADER)
    }),
  decode: (view) => {
    if (view.byteLength < CONFIG_HEADER) return undefined
    const length = view.getUint32(4, true)
    if (view.byteLength !== CONFIG_HEADER + length) return undefined
    const bytes = new Uint8Array(view.buffer, view.byteOffset + CONFIG_HEADER, length).slice()
    return { offset: view.getUint32(0, true), flags: view.getUint32(8, true), bytes }
  },
}

/** What answers GET_CONFIG: without any payload where the back end refuses, which is read as no bytes. */
export const CONFIG_ANSWER: Payload<ConfigSpace> = {
  ...CONFIG_SPACE,
  least: 0,
  decode: (view) =>
    view.byteLength === 0 ? { offset: 0, flags: 0, bytes: new Uint8Array(0) } : CONFIG_SPACE.decode(view),
}

export const IOTLB: Payload<IotlbMessage> = {
  ...fixed(32),
  encode: ({ iova, length, user, permission, type }) =>
    encoded(32, (view) => {
      setU64(view, 0, iova)
      setU64(view, 8, length)
      setU64(view, 16, user)
      view.setUint8(24, permission)
      view.setUint8(25, type)
    }),
  decode: (view) => ({
    iova: getU64(view, 0),
    length: getU64(view, 8),
    user: getU64(view, 16),
    permission: view.getUint8(24),
    type: view.getUint8(25),
  }),
}

function fixed(bytes: number): { least: number; most: number } {
  return { least: bytes, most: bytes }
}

function encoded(bytes: number, fill: (view: DataView) => void): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(bytes)
  fill(new DataView(payload.buffer))
  return payload
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true)
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value, true)
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
}
