// The split virtqueue: virtio 1.4 §2.7. All fields are little-endian; offsets and sizes are in bytes.

/** The largest queue size: virtio 1.4 §2.7 and §2.8. Split queue sizes are powers of two. */
export const MAX_QUEUE_SIZE = 32768
/** A chain may not describe more bytes than this: virtio 1.4 §2.7.5.2. */
export const MAX_CHAIN_BYTES = 0x1_0000_0000

// struct virtq_desc { le64 addr; le32 len; le16 flags; le16 next }: virtio 1.4 §2.7.5
export const DESCRIPTOR_SIZE = 16
export const DESCRIPTOR_ADDRESS = 0
export const DESCRIPTOR_LENGTH = 8
export const DESCRIPTOR_FLAGS = 12
export const DESCRIPTOR_NEXT = 14
export const DESCRIPTOR_F_NEXT = 1
export const DESCRIPTOR_F_WRITE = 2
export const DESCRIPTOR_F_INDIRECT = 4

// struct virtq_avail { le16 flags; le16 idx; le16 ring[]; le16 used_event }: virtio 1.4 §2.7.6
export const AVAILABLE_FLAGS = 0
export const AVAILABLE_INDEX = 2
export const AVAILABLE_RING = 4
export const AVAILABLE_F_NO_INTERRUPT = 1

// struct virtq_used { le16 flags; le16 idx; struct { le32 id; le32 len } ring[]; le16 avail_event }: virtio 1.4 §2.7.8
export const USED_FLAGS = 0
export const USED_INDEX = 2
export const USED_RING = 4
export const USED_ELEMENT_SIZE = 8
export const USED_F_NO_NOTIFY = 1

/** Alignment of the three parts: virtio 1.4 §2.7. */
export const DESCRIPTOR_TABLE_ALIGN = 16
export const AVAILABLE_RING_ALIGN = 2
export const USED_RING_ALIGN = 4

/** Bytes of the descriptor table of a queue of `size` entries: virtio 1.4 §2.7. */
export const descriptorTableBytes = (size: number): number => DESCRIPTOR_SIZE * size
/** Bytes of the available ring, `used_event` included. */
export const availableRingBytes = (size: number): number => 6 + 2 * size
/** Bytes of the used ring, `avail_event` included. */
export const usedRingBytes = (size: number): number => 6 + USED_ELEMENT_SIZE * size
