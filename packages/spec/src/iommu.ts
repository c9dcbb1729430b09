// IOMMU device: virtio 1.4 §5.13.

export const VIRTIO_IOMMU_F_INPUT_RANGE = 0
export const VIRTIO_IOMMU_F_DOMAIN_RANGE = 1
export const VIRTIO_IOMMU_F_MAP_UNMAP = 2
export const VIRTIO_IOMMU_F_BYPASS = 3
export const VIRTIO_IOMMU_F_PROBE = 4
export const VIRTIO_IOMMU_F_MMIO = 5
export const VIRTIO_IOMMU_F_BYPASS_CONFIG = 6

export const IOMMU_REQUEST_QUEUE = 0
export const IOMMU_EVENT_QUEUE = 1

// struct virtio_iommu_config: virtio 1.4 §5.13.4. 64-bit fields; ranges include their ends.
export const IOMMU_CONFIG_PAGE_SIZE_MASK = 0
export const IOMMU_CONFIG_INPUT_START = 8
export const IOMMU_CONFIG_INPUT_END = 16
export const IOMMU_CONFIG_DOMAIN_START = 24
export const IOMMU_CONFIG_DOMAIN_END = 28
export const IOMMU_CONFIG_PROBE_SIZE = 32
export const IOMMU_CONFIG_BYPASS = 36
/** Bytes of struct virtio_iommu_config. */
export const IOMMU_CONFIG_SIZE = 40

// Requests: virtio 1.4 §5.13.6. Each begins with a head of 4 bytes and ends with a tail of 4 bytes that the device
// writes.
export const IOMMU_REQUEST_TYPE = 0
export const IOMMU_HEAD_BYTES = 4
export const IOMMU_TAIL_STATUS = 0
export const IOMMU_TAIL_BYTES = 4

export const VIRTIO_IOMMU_T_ATTACH = 1
export const VIRTIO_IOMMU_T_DETACH = 2
export const VIRTIO_IOMMU_T_MAP = 3
export const VIRTIO_IOMMU_T_UNMAP = 4
export const VIRTIO_IOMMU_T_PROBE = 5

export const VIRTIO_IOMMU_S_OK = 0
export const VIRTIO_IOMMU_S_IOERR = 1
export const VIRTIO_IOMMU_S_UNSUPP = 2
export const VIRTIO_IOMMU_S_DEVERR = 3
export const VIRTIO_IOMMU_S_INVAL = 4
export const VIRTIO_IOMMU_S_RANGE = 5
export const VIRTIO_IOMMU_S_NOENT = 6
export const VIRTIO_IOMMU_S_FAULT = 7
export const VIRTIO_IOMMU_S_NOMEM = 8

// The device-readable parts, head included, without the tail. Offsets from the start of the head.
export const IOMMU_ATTACH_DOMAIN = 4
export const IOMMU_ATTACH_ENDPOINT = 8
export const IOMMU_ATTACH_FLAGS = 12
export const IOMMU_ATTACH_RESERVED = 16
export const IOMMU_ATTACH_BYTES = 20
export const VIRTIO_IOMMU_ATTACH_F_BYPASS = 1

export const IOMMU_DETACH_DOMAIN = 4
export const IOMMU_DETACH_ENDPOINT = 8
export const IOMMU_DETACH_BYTES = 20

export const IOMMU_MAP_DOMAIN = 4
export const IOMMU_MAP_VIRT_START = 8
export const IOMMU_MAP_VIRT_END = 16
export const IOMMU_MAP_PHYS_START = 24
export const IOMMU_MAP_FLAGS = 32
export const IOMMU_MAP_BYTES = 36
export const VIRTIO_IOMMU_MAP_F_READ = 1
export const VIRTIO_IOMMU_MAP_F_WRITE = 2
export const VIRTIO_IOMMU_MAP_F_MMIO = 4

export const IOMMU_UNMAP_DOMAIN = 4
export const IOMMU_UNMAP_VIRT_START = 8
export const IOMMU_UNMAP_VIRT_END = 16
export const IOMMU_UNMAP_RESERVED = 24
export const IOMMU_UNMAP_BYTES = 28

export const IOMMU_PROBE_ENDPOINT = 4
/** The device-readable part; `probe_size` bytes of properties and the tail follow, device-writable. */
export const IOMMU_PROBE_BYTES = 72

// struct virtio_iommu_probe_property and probe_resv_mem: virtio 1.4 §5.13.6.7, §5.13.6.8
export const IOMMU_PROPERTY_HEAD_BYTES = 4
/** Bits 0 to 11 of the first le16; the rest is reserved. */
export const IOMMU_PROPERTY_TYPE_MASK = 0x0fff
export const VIRTIO_IOMMU_PROBE_T_NONE = 0
export const VIRTIO_IOMMU_PROBE_T_RESV_MEM = 1
// Offsets from the start of the property's head.
export const IOMMU_RESV_MEM_SUBTYPE = 4
export const IOMMU_RESV_MEM_START = 8
export const IOMMU_RESV_MEM_END = 16
export const IOMMU_RESV_MEM_BYTES = 24
export const VIRTIO_IOMMU_RESV_MEM_T_RESERVED = 0
export const VIRTIO_IOMMU_RESV_MEM_T_MSI = 1

// struct virtio_iommu_fault: virtio 1.4 §5.13.6.9
export const IOMMU_FAULT_REASON = 0
export const IOMMU_FAULT_FLAGS = 4
export const IOMMU_FAULT_ENDPOINT = 8
export const IOMMU_FAULT_ADDRESS = 16
export const IOMMU_FAULT_BYTES = 24
export const VIRTIO_IOMMU_FAULT_R_UNKNOWN = 0
export const VIRTIO_IOMMU_FAULT_R_DOMAIN = 1
export const VIRTIO_IOMMU_FAULT_R_MAPPING = 2
export const VIRTIO_IOMMU_FAULT_F_READ = 0x001
export const VIRTIO_IOMMU_FAULT_F_WRITE = 0x002
export const VIRTIO_IOMMU_FAULT_F_ADDRESS = 0x100
