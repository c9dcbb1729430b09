// Device-independent feature bits: virtio 1.4 §6. The device types' own bits are in net.ts and blk.ts.

/** Legacy: the device issues a notification when it runs out of descriptors (virtio 1.4 §6.3). Never accepted. */
export const VIRTIO_F_NOTIFY_ON_EMPTY = 24
/**
 * Legacy meaning of bit 27 (virtio 1.4 §6.3). The same bit as {@link VIRTIO_F_SWIOTLB}: what it means is decided at
 * negotiation.
 */
export const VIRTIO_F_ANY_LAYOUT = 27
/** SWIOTLB RFC 1/3: the transport provides a region for bounce buffering and every address lies in it. */
export const VIRTIO_F_SWIOTLB = 27
export const VIRTIO_F_INDIRECT_DESC = 28
export const VIRTIO_F_EVENT_IDX = 29
export const VIRTIO_F_VERSION_1 = 32
/** The device's access to memory is limited or translated by the platform (virtio 1.4 §6). */
export const VIRTIO_F_ACCESS_PLATFORM = 33
export const VIRTIO_F_RING_PACKED = 34
export const VIRTIO_F_IN_ORDER = 35
export const VIRTIO_F_ORDER_PLATFORM = 36
export const VIRTIO_F_SR_IOV = 37
export const VIRTIO_F_NOTIFICATION_DATA = 38
export const VIRTIO_F_NOTIF_CONFIG_DATA = 39
export const VIRTIO_F_RING_RESET = 40
export const VIRTIO_F_ADMIN_VQ = 41
export const VIRTIO_F_SUSPEND = 43
