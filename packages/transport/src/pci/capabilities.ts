import { ADDRESS_HIGH_LIMIT, ADDRESS_LIMIT, hex, type RegisterBus } from '@guestdma/memory'
import {
  MSIX_BAR_MASK,
  MSIX_CAP_BYTES,
  MSIX_CONTROL,
  MSIX_CONTROL_SIZE_MASK,
  MSIX_TABLE,
  PCI_BARS,
  PCI_CAP_BAR,
  PCI_CAP_BYTES,
  PCI_CAP_CFG_TYPE,
  PCI_CAP_ID,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_VENDOR,
  PCI_CAP_INSTANCE,
  PCI_CAP_LENGTH,
  PCI_CAP_NEXT,
  PCI_CAP_OFFSET,
  PCI_CAP_SIZE,
  PCI_CAP64_BYTES,
  PCI_CAP64_OFFSET_HIGH,
  PCI_CAP64_SIZE_HIGH,
  PCI_CAPABILITY_POINTER,
  PCI_CFG_CAP_BYTES,
  PCI_COMMON_MIN_BYTES,
  PCI_CONFIG_SIZE,
  PCI_HEADER_SIZE,
  PCI_NOTIFY_CAP_BYTES,
  PCI_NOTIFY_CAP_MULTIPLIER,
  PCI_STATUS,
  PCI_STATUS_CAPABILITIES,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SWIOTLB,
  VIRTIO_PCI_CAP_VENDOR_CFG,
} from '@guestdma/spec'
import type { AddressSpan } from '../devicetree/devicetree.ts'
import type { PciBar } from './bars.ts'

/** One struct virtio_pci_cap, as it was read (virtio 1.4 §4.1.4). */
export interface PciCapability {
  /** Where in configuration space it lies. */
  readonly at: number
  /** cfg_type */
  readonly type: number
  /** 0 to 5 */
  readonly bar: number
  readonly id: number
  /** Bytes from the start of the BAR; exact, 64 bits of it for shared memory. Infinity where it is 2^53 or more. */
  readonly offset: number
  /** Bytes; Infinity where it is 2^53 or more. */
  readonly length: number
  /** notify_off_multiplier of a notification capability, otherwise 0. */
  readonly multiplier: number
}

/** The MSI-X capability: PCI 3.0 §6.8.2. */
export interface MsixCapability {
  /** Where in configuration space it lies. */
  readonly at: number
  /** Entries of the table: 1 to 2048. */
  readonly entries: number
  /** The BAR that the table lies in: 0 to 7, of which 6 and 7 are reserved. */
  readonly bar: number
  /** Bytes from the start of the BAR. */
  readonly offset: number
}

/** A capability that was passed over. */
export interface IgnoredCapability {
  /** Where in configuration space it lies. */
  readonly offset: number
  /** cfg_type; null where the list itself breaks off. */
  readonly type: number | null
  readonly why: string
}

/** What a function's capability list says. */
export interface PciCapabilities {
  /** Those of known types with all their fields, in the order of the list. Not yet compared with the BARs. */
  readonly virtio: readonly PciCapability[]
  readonly msix: MsixCapability | null
  readonly ignored: readonly IgnoredCapability[]
  /** Is there any vendor-specific capability, usable or not? A legacy device has none (virtio 1.4 §4.1.5.1.1). */
  readonly modern: boolean
}

/** The SWIOTLB RFC leaves alignment open; ours is the page of every platform here. */
const SWIOTLB_ALIGN = 4096

// Bytes that a capability of each type has at least. A type that is not here is reserved.
const CAP_BYTES: ReadonlyMap<number, number> = new Map([
  [VIRTIO_PCI_CAP_COMMON_CFG, PCI_CAP_BYTES],
  [VIRTIO_PCI_CAP_NOTIFY_CFG, PCI_NOTIFY_CAP_BYTES],
  [VIRTIO_PCI_CAP_ISR_CFG, PCI_CAP_BYTES],
  [VIRTIO_PCI_CAP_DEVICE_CFG, PCI_CAP_BYTES],
  [VIRTIO_PCI_CAP_PCI_CFG, PCI_CFG_CAP_BYTES],
  [VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, PCI_CAP64_BYTES],
  [VIRTIO_PCI_CAP_SWIOTLB, PCI_CAP_BYTES],
])

/**
 * Walks the capability list of a function. Reads every field once, in its own width, and nothing that a capability does
 * not have: a read of pci_cfg_data is an access to a BAR (virtio 1.4 §4.1.4.9), and others' fields may have effects of
 * their own. Never fails: what is wrong with the list is in `ignored`.
 *
 * `swiotlbRfc`: type 10 is that of the SWIOTLB RFC 3/3; otherwise it is reserved, as in virtio 1.4.
 */
export function readCapabilities(config: RegisterBus, swiotlbRfc: boolean): PciCapabilities {
  const virtio: PciCapability[] = []
  const ignored: IgnoredCapability[] = []
  const seen = new Set<number>()
  let msix: MsixCapability | null = null
  let modern = false
  if ((config.read(PCI_STATUS, 2) & PCI_STATUS_CAPABILITIES) === 0) return { virtio, msix, ignored, modern }
  // The two low bits of every pointer are reserved and masked by software: PCI 3.0 §6.7.
  let at = config.read(PCI_CAPABILITY_POINTER, 1) & 0xfc
  for (; at !== 0; at = config.read(at + PCI_CAP_NEXT, 1) & 0xfc) {
    if (at < PCI_HEADER_SIZE || seen.has(at)) {
      const why = seen.has(at) ? 'the list returns to where it was' : 'the list points into the header'
      ignored.push({ offset: at, type: null, why })
      break
    }
    seen.add(at)
    const id = config.read(at + PCI_CAP_ID, 1) & 0xff
    if (id === PCI_CAP_ID_MSIX && msix === null && at + MSIX_CAP_BYTES <= PCI_CONFIG_SIZE) msix = readMsix(config, at)
    if (id !== PCI_CAP_ID_VENDOR) continue
    modern = true
    const capability = readCapability(config, at, swiotlbRfc)
    if (capability === null) continue
    if ('why' in capability) ignored.push(capability)
    else virtio.push(capability)
  }
  return { virtio, msix, ignored, modern }
}

/**
 * Why a structure cannot be where its capability says, given the BARs; null where it can. It may be longer than it need
 * be (virtio 1.4 §4.1.4.1), but not longer than its BAR: nothing answers there. A SWIOTLB region lies in `memory`, the
 * bus addresses that have memory behind them, where the platform says so.
 */
export function misplaced(
  capability: PciCapability,
  bars: readonly PciBar[],
  memory: AddressSpan | undefined,
): string | null {
  const { type, offset, length } = capability
  const bar = bars.find(({ index }) => index === capability.bar)
  if (bar === undefined) return `BAR ${capability.bar} does not exist`
  if (length < minimum(type)) return `${hex(length)} bytes are too few, ${hex(minimum(type))} are needed`
  // Compared by a difference, because a sum at or above 2^53 would be rounded.
  if (offset >= ADDRESS_LIMIT || length > ADDRESS_LIMIT - offset) return 'it ends at or beyond 2^53'
  if (offset + length > bar.size)
    return `${hex(offset)} + ${hex(length)} lies outside the ${hex(bar.size)} bytes of BAR ${bar.index}`
  const align = alignment(type)
  if (offset % align !== 0) return `offset ${hex(offset)} is not a multiple of ${align}`
  if (type !== VIRTIO_PCI_CAP_SWIOTLB) return null
  if (bar.kind !== 'memory') return `BAR ${bar.index} is I/O, not memory`
  if (length % align !== 0) return `length ${hex(length)} is not a multiple of ${align}`
  if (bar.place !== 'assigned') return `BAR ${bar.index} is ${bar.place}`
  if (memory === undefined) return null
  const into = bar.address + offset - memory.base
  return into >= 0 && length <= memory.length - into
    ? null
    : `${hex(length)} bytes at ${hex(bar.address + offset)} are not all memory: ` +
        `there are ${hex(memory.length)} bytes at ${hex(memory.base)}`
}

// Null for what is well formed and of no use to a driver: vendor data, which has none of the common fields (§4.1.4.8).
function readCapability(
  config: RegisterBus,
  at: number,
  swiotlbRfc: boolean,
): PciCapability | IgnoredCapability | null {
  const bytes = config.read(at + PCI_CAP_LENGTH, 1) & 0xff
  const type = config.read(at + PCI_CAP_CFG_TYPE, 1) & 0xff
  if (type === VIRTIO_PCI_CAP_VENDOR_CFG) return null
  const needed = type === VIRTIO_PCI_CAP_SWIOTLB && !swiotlbRfc ? undefined : CAP_BYTES.get(type)
  if (needed === undefined) return { offset: at, type, why: `type ${type} is reserved` }
  if (bytes < needed) return { offset: at, type, why: `${bytes} bytes are too short, ${needed} are needed` }
  // Only what is read has to be there: a larger cap_len is accepted, whatever it says (§4.1.4.1).
  if (at + needed > PCI_CONFIG_SIZE) return { offset: at, type, why: 'it runs over the end of configuration space' }
  const bar = config.read(at + PCI_CAP_BAR, 1) & 0xff
  if (bar >= PCI_BARS) return { offset: at, type, why: `BAR ${bar} is reserved` }
  const low = config.read(at + PCI_CAP_OFFSET, 4) >>> 0
  const size = config.read(at + PCI_CAP_SIZE, 4) >>> 0
  const wide = type === VIRTIO_PCI_CAP_SHARED_MEMORY_CFG
  return {
    at,
    type,
    bar,
    id: config.read(at + PCI_CAP_INSTANCE, 1) & 0xff,
    offset: wide ? exact(config.read(at + PCI_CAP64_OFFSET_HIGH, 4) >>> 0, low) : low,
    length: wide ? exact(config.read(at + PCI_CAP64_SIZE_HIGH, 4) >>> 0, size) : size,
    multiplier: type === VIRTIO_PCI_CAP_NOTIFY_CFG ? config.read(at + PCI_NOTIFY_CAP_MULTIPLIER, 4) >>> 0 : 0,
  }
}

function readMsix(config: RegisterBus, at: number): MsixCapability {
  const control = config.read(at + MSIX_CONTROL, 2)
  const table = config.read(at + MSIX_TABLE, 4)
  const bar = table & MSIX_BAR_MASK
  return { at, entries: (control & MSIX_CONTROL_SIZE_MASK) + 1, bar, offset: (table & ~MSIX_BAR_MASK) >>> 0 }
}

function exact(high: number, low: number): number {
  return high < ADDRESS_HIGH_LIMIT ? high * 2 ** 32 + low : Number.POSITIVE_INFINITY
}

// §4.1.4.3 to §4.1.4.7. Notification structures need 4 where NOTIFICATION_DATA is agreed: known with the queue only.
function minimum(type: number): number {
  if (type === VIRTIO_PCI_CAP_COMMON_CFG) return PCI_COMMON_MIN_BYTES
  return type === VIRTIO_PCI_CAP_NOTIFY_CFG ? 2 : 1
}

function alignment(type: number): number {
  if (type === VIRTIO_PCI_CAP_COMMON_CFG || type === VIRTIO_PCI_CAP_DEVICE_CFG) return 4
  if (type === VIRTIO_PCI_CAP_SWIOTLB) return SWIOTLB_ALIGN
  return type === VIRTIO_PCI_CAP_NOTIFY_CFG ? 2 : 1
}
