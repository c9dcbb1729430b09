import { GuestDmaError } from '@guestdma/memory'

/** A device that cannot be reached or brought up, or a devicetree that does not say how. */
export class TransportError extends GuestDmaError<keyof typeof TRANSPORT_CODES> {}

/**
 * The other end of a transport is gone: a process that ended, a socket that closed. Code `TRANSPORT_LOST`; `cause` is
 * what the access failed with. A driver treats it as a device that needs a reset, which it can no longer have.
 */
export class TransportLostError extends TransportError {
  constructor(device: string, cause: unknown) {
    super('TRANSPORT_LOST', device, `the connection to the device is lost: ${textOf(cause)}`, {}, { cause })
  }
}

/**
 * A device did not confirm a reset: in time, or at all, since an access to it failed (`cause`). `details.quarantined`:
 * its memory stays out of use, since nothing can revoke it.
 */
export class DeviceStuckError extends TransportError {
  constructor(device: string, waitedMs: number, quarantined: boolean, cause?: unknown) {
    const what =
      cause === undefined
        ? `the device did not answer a reset within ${waitedMs} ms`
        : `the device could not be reset: ${textOf(cause)}`
    const memory = quarantined ? 'its memory stays out of use' : 'it was detached from memory'
    super('TRANSPORT_DEVICE_STUCK', device, `${what}; ${memory}`, { waitedMs, quarantined }, { cause })
  }
}

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}

export const TRANSPORT_CODES = {
  TRANSPORT_CONFIG_RANGE: {
    meaning: 'An access to the configuration is not an aligned field within its length.',
    advice: 'Check the offset and the size against the structure of the device type.',
  },
  TRANSPORT_CONFIG_UNSTABLE: {
    meaning: 'The configuration changed during each attempt to read it.',
    advice: 'Mend the device: its generation must stay the same while nothing changes.',
  },
  TRANSPORT_DEVICE_STUCK: {
    meaning: 'A device did not confirm a reset.',
    advice:
      'Read details.quarantined: true means that its memory stays out of use; raise deadlineMs for a slow device.',
  },
  TRANSPORT_FDT_ADDRESS: {
    meaning: 'An address of a devicetree is missing, too large, or not passed on by the bus above it.',
    advice: "Mend the property 'reg' or 'ranges' of the node that the message names.",
  },
  TRANSPORT_FDT_CELLS: {
    meaning: 'A devicetree uses a number of cells that is not supported, or does not fit its property.',
    advice: "Mend the '#…-cells' property of the node that the message names.",
  },
  TRANSPORT_FDT_DEPTH: {
    meaning: 'The nodes of a devicetree lie too deep inside each other.',
    advice: 'Check the blob: it is probably damaged.',
  },
  TRANSPORT_FDT_MAGIC: {
    meaning: 'The bytes do not begin with the magic number of a devicetree blob.',
    advice: 'Pass a compiled devicetree (.dtb), not its source.',
  },
  TRANSPORT_FDT_NAME: {
    meaning: 'A name in a devicetree is not legal, or is used twice.',
    advice: 'Mend the source, or check the blob: it may be damaged.',
  },
  TRANSPORT_FDT_OFFSET: {
    meaning: 'A block of a devicetree blob lies outside the blob or is not aligned.',
    advice: 'Check the blob: it is probably damaged.',
  },
  TRANSPORT_FDT_PHANDLE: {
    meaning: 'A phandle of a devicetree is used twice, is no legal number, or names no node.',
    advice: 'Mend the property that the message names.',
  },
  TRANSPORT_FDT_POOL_ALIGNMENT: {
    meaning: 'A restricted DMA pool does not consist of whole pages.',
    advice: "Align the base and the length of its 'reg' to pages.",
  },
  TRANSPORT_FDT_POOL_DYNAMIC: {
    meaning: 'The place of a restricted DMA pool was left to the operating system.',
    advice: "Give the pool a 'reg'.",
  },
  TRANSPORT_FDT_POOL_EMPTY: {
    meaning: 'A restricted DMA pool has no bytes.',
    advice: "Give its 'reg' a length.",
  },
  TRANSPORT_FDT_POOL_OVERLAP: {
    meaning: 'A restricted DMA pool overlaps another reservation.',
    advice: 'Move or shorten one of the two.',
  },
  TRANSPORT_FDT_POOL_PLACE: {
    meaning: 'A restricted DMA pool is not a child of a well-formed /reserved-memory.',
    advice: "Put it there, with an empty 'ranges' and the cells of the root.",
  },
  TRANSPORT_FDT_POOL_USE: {
    meaning: 'A restricted DMA pool is marked for another use.',
    advice: 'Remove the property that the message names.',
  },
  TRANSPORT_FDT_PROPERTY: {
    meaning: 'A property of a devicetree is missing, or does not have the form of its type.',
    advice: 'Mend the property that the message names.',
  },
  TRANSPORT_FDT_REQUESTER: {
    meaning: 'A PCI requester ID is no number of 16 bits.',
    advice: 'Pass bus, device and function as one number from 0 to 65535.',
  },
  TRANSPORT_FDT_STRUCTURE: {
    meaning: 'The tokens of a devicetree blob are in an order that makes no tree.',
    advice: 'Check the blob: it is probably damaged.',
  },
  TRANSPORT_FDT_TRUNCATED: {
    meaning: 'A devicetree blob ends before its contents do.',
    advice: 'Pass the whole blob.',
  },
  TRANSPORT_FDT_VERSION: {
    meaning: 'A devicetree blob has a version that cannot be read as version 17.',
    advice: 'Compile the source with a current dtc.',
  },
  TRANSPORT_FEATURES: {
    meaning: 'The device did not keep the feature bits that were written.',
    advice: 'Mend the device, or offer only features that it can agree to.',
  },
  TRANSPORT_LEGACY: {
    meaning: 'The device is a legacy device, without VERSION_1.',
    advice: 'Use a modern or transitional device (virtio 1.0 or later).',
  },
  TRANSPORT_LOST: {
    meaning: 'The other end of the transport is gone.',
    advice: 'Look at the cause; connect again and make another driver.',
  },
  TRANSPORT_MAGIC: {
    meaning: 'The registers do not begin with the magic number of virtio over MMIO.',
    advice: 'Check the address of the register file.',
  },
  TRANSPORT_MSIX_VECTOR: {
    meaning: 'The device could not map its interrupts to an MSI-X message.',
    advice: 'Use fewer vectors, or one for all queues.',
  },
  TRANSPORT_PCI_BAR: {
    meaning: 'The address of a BAR does not suit its size or its kind of space.',
    advice: 'Assign an address that is aligned to the size of the BAR.',
  },
  TRANSPORT_PCI_CAPABILITY: {
    meaning: 'No usable capability names a structure that the driver needs.',
    advice: 'Read in details.ignored why capabilities were left out.',
  },
  TRANSPORT_PCI_HEADER: {
    meaning: 'The configuration space does not have the header of a device.',
    advice: 'Check the address of the function; a bridge is no device.',
  },
  TRANSPORT_PCI_NOTIFY: {
    meaning: 'The doorbell of a queue lies outside the notification structure.',
    advice: 'Mend the device: queue_notify_off and the multiplier must stay within the structure.',
  },
  TRANSPORT_QUEUE: {
    meaning: 'A queue was to be reset alone, which the device cannot do.',
    advice: 'Reset the device instead, or negotiate RING_RESET.',
  },
  TRANSPORT_QUEUE_BUSY: {
    meaning: 'A queue was to be enabled that is enabled already.',
    advice: 'Reset the device or the queue first.',
  },
  TRANSPORT_QUEUE_SIZE: {
    meaning: 'A queue has a size that the device does not allow, or that is no power of two.',
    advice: 'Take at most the maximum that the device names.',
  },
  TRANSPORT_VERSION: {
    meaning: 'The register file has a version other than 2.',
    advice: 'Use a device with the modern register layout.',
  },
  TRANSPORT_WAIT: {
    meaning: 'The deadline of a wait is no finite number from 0 on.',
    advice: 'Pass milliseconds.',
  },
} as const
