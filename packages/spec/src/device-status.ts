// The device status field: virtio 1.4 §2.1.

export const STATUS_ACKNOWLEDGE = 1
export const STATUS_DRIVER = 2
export const STATUS_DRIVER_OK = 4
export const STATUS_FEATURES_OK = 8
export const STATUS_SUSPEND = 16
export const STATUS_DEVICE_NEEDS_RESET = 64
export const STATUS_FAILED = 128

/** Device IDs: virtio 1.4 §5. */
export const DEVICE_ID_NET = 1
export const DEVICE_ID_BLOCK = 2
export const DEVICE_ID_IOMMU = 23
