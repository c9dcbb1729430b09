// The packed virtqueue: virtio 1.4 §2.8. All fields are little-endian; offsets and sizes are in bytes. Its largest size,
// and the flags NEXT, WRITE and INDIRECT of a descriptor, are those of the split virtqueue.

// struct pvirtq_desc { le64 addr; le32 len; le16 id; le16 flags }: virtio 1.4 §2.8.13. A descriptor in an indirect table
// has the same layout: §2.8.7.
export const PACKED_DESCRIPTOR_SIZE = 16
export const PACKED_DESCRIPTOR_ADDRESS = 0
export const PACKED_DESCRIPTOR_LENGTH = 8
export const PACKED_DESCRIPTOR_ID = 12
export const PACKED_DESCRIPTOR_FLAGS = 14
/** Equals the driver's wrap counter in an available descriptor, the device's in a used one: virtio 1.4 §2.8.1. */
export const DESCRIPTOR_F_AVAILABLE = 0x80
/** Differs from the driver's wrap counter in an available descriptor, equals the device's in a used one. */
export const DESCRIPTOR_F_USED = 0x8000

// struct pvirtq_event_suppress { le16 desc; le16 flags }: virtio 1.4 §2.8.14
export const EVENT_SUPPRESSION_SIZE = 4
export const EVENT_SUPPRESSION_DESCRIPTOR = 0
export const EVENT_SUPPRESSION_FLAGS = 2
// Values of `flags`, not bits: virtio 1.4 §2.8.10. 3 is reserved, and so are the bits above.
export const RING_EVENT_FLAGS_ENABLE = 0
export const RING_EVENT_FLAGS_DISABLE = 1
/** Only with EVENT_IDX: `desc` says at which descriptor. */
export const RING_EVENT_FLAGS_DESCRIPTOR = 2

/**
 * A place in a packed ring is an offset in descriptors with the wrap counter in this bit: `desc` of the event
 * suppression structures (virtio 1.4 §2.8.14), and the position of a notification (§2.9).
 */
export const PACKED_WRAP_COUNTER = 0x8000

/** Alignment of the three parts: virtio 1.4 §2.8.10.1. */
export const DESCRIPTOR_RING_ALIGN = 16
export const EVENT_SUPPRESSION_ALIGN = 4

/** Bytes of the descriptor ring of a queue of `size` entries, any number from 1 to 32768: virtio 1.4 §2.8.10.1. */
export const descriptorRingBytes = (size: number): number => PACKED_DESCRIPTOR_SIZE * size
