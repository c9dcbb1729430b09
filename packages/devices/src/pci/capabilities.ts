import {
  MSIX_CAP_BYTES,
  MSIX_CONTROL,
  MSIX_PENDING,
  MSIX_TABLE,
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
  PCI_CONFIG_SIZE,
  PCI_HEADER_SIZE,
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SWIOTLB,
} from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'

/** One capability of a function, before it has a place in the configuration space. */
export interface PciCapability {
  /** The bytes from the capability ID on. Byte 1, the link, is set when the list is laid out. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** The link, where it is not to be the capability that follows: for tests of hostile functions. */
  readonly next?: number
}

/** The fields of a {@link virtioCapability}. All have 32 bits at most but where they say otherwise. */
export interface VirtioCapabilityFields {
  /** `cfg_type`; 8 bits. */
  readonly type: number
  /** 8 bits. Defaults to 0. */
  readonly bar?: number
  /** 8 bits. Defaults to 0. */
  readonly id?: number
  readonly offset?: number
  readonly length?: number
  /** What follows `struct virtio_pci_cap`. */
  readonly extra?: ArrayLike<number>
  /** `cap_len`, where it is not to be the number of bytes. */
  readonly capLength?: number
  readonly next?: number
}

/** Bytes [offset, offset + length) of a BAR. */
export interface BarSpan {
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** A `struct virtio_pci_cap` with what may follow it: virtio 1.4 §4.1.4. Nothing is checked: a test may want it so. */
export function virtioCapability(fields: VirtioCapabilityFields): PciCapability {
  const { type, bar = 0, id = 0, offset = 0, length = 0, extra = [], next } = fields
  const bytes = new Uint8Array(PCI_CAP_BYTES + extra.length)
  bytes[PCI_CAP_ID] = PCI_CAP_ID_VENDOR
  bytes[PCI_CAP_LENGTH] = fields.capLength ?? bytes.length
  bytes[PCI_CAP_CFG_TYPE] = type
  bytes[PCI_CAP_BAR] = bar
  bytes[PCI_CAP_INSTANCE] = id
  bytes.set(word(offset), PCI_CAP_OFFSET)
  bytes.set(word(length), PCI_CAP_SIZE)
  bytes.set(extra, PCI_CAP_BYTES)
  return next === undefined ? { bytes } : { bytes, next }
}

/** A `struct virtio_pci_cap64`: offset and length below 2^53. */
export function virtioCapability64(fields: VirtioCapabilityFields): PciCapability {
  const { offset = 0, length = 0 } = fields
  return virtioCapability({ ...fields, extra: [...word(offset / 2 ** 32), ...word(length / 2 ** 32)] })
}

/** The MSI-X capability: PCI 3.0 §6.8.2. The offsets are multiples of 8. */
export function msixCapability(vectors: number, bar: number, table: number, pending: number): PciCapability {
  const bytes = new Uint8Array(MSIX_CAP_BYTES)
  bytes[PCI_CAP_ID] = PCI_CAP_ID_MSIX
  bytes.set(word(vectors - 1).slice(0, 2), MSIX_CONTROL)
  bytes.set(word(table | bar), MSIX_TABLE)
  bytes.set(word(pending | bar), MSIX_PENDING)
  return { bytes }
}

/** The four bytes of a 32-bit field; fractions and what exceeds it are cut off. */
export function word(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff)
}

/**
 * Copies capabilities into a configuration space, one after the other, and links them. Returns where each one is.
 *
 * @throws DeviceError `DEVICE_OPTION` where they do not fit
 */
export function layOut(
  capabilities: readonly PciCapability[],
  space: Uint8Array<ArrayBuffer>,
  part: string,
): readonly number[] {
  let end = PCI_HEADER_SIZE
  const positions = capabilities.map(({ bytes }) => {
    const at = end
    end = Math.ceil((at + bytes.length) / 4) * 4
    return at
  })
  if (end > PCI_CONFIG_SIZE || capabilities.some(({ bytes }) => bytes.length < 2)) {
    const room = PCI_CONFIG_SIZE - PCI_HEADER_SIZE
    const message = `capabilities take ${end - PCI_HEADER_SIZE} of ${room} bytes, each at least 2; give fewer`
    throw new DeviceError('DEVICE_OPTION', part, message, { end })
  }
  capabilities.forEach(({ bytes, next }, i) => {
    space.set(bytes, positions[i])
    space[positions[i] + PCI_CAP_NEXT] = next ?? positions[i + 1] ?? 0
  })
  return positions
}

/** Structures that a BAR holds: what the access window of §4.1.4.9 may reach. */
const PLACED: ReadonlySet<number> = new Set([
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SWIOTLB,
])

/** Whether these are the bytes of a virtio capability of type `type`, complete as far as `length`. */
export function isVirtioCapability({ bytes }: PciCapability, type: number, length: number = PCI_CAP_BYTES): boolean {
  return bytes[PCI_CAP_ID] === PCI_CAP_ID_VENDOR && bytes[PCI_CAP_CFG_TYPE] === type && bytes.length >= length
}

/** Where the structures of a list of capabilities are. */
export function structureSpans(capabilities: readonly PciCapability[]): readonly BarSpan[] {
  return capabilities.flatMap((capability) => {
    const { bytes } = capability
    const type = bytes[PCI_CAP_CFG_TYPE]
    if (!PLACED.has(type) || !isVirtioCapability(capability, type)) return []
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const wide = type === VIRTIO_PCI_CAP_SHARED_MEMORY_CFG && bytes.length >= PCI_CAP64_BYTES
    const high = (at: number): number => (wide ? view.getUint32(at, true) * 2 ** 32 : 0)
    return {
      bar: bytes[PCI_CAP_BAR],
      offset: view.getUint32(PCI_CAP_OFFSET, true) + high(PCI_CAP64_OFFSET_HIGH),
      length: view.getUint32(PCI_CAP_SIZE, true) + high(PCI_CAP64_SIZE_HIGH),
    }
  })
}
