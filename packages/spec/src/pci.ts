// virtio over PCI: virtio 1.4 §4.1. Offsets in bytes; fields are little-endian and accessed in their own width.

/** virtio 1.4 §4.1.2: device ID = 0x1040 + virtio device ID; 0x1000 to 0x103f are transitional devices. */
export const PCI_VENDOR_VIRTIO = 0x1af4
export const PCI_DEVICE_TRANSITIONAL_FIRST = 0x1000
export const PCI_DEVICE_MODERN_FIRST = 0x1040
export const PCI_DEVICE_MODERN_LAST = 0x107f

// The type 0 configuration header: PCI Local Bus Specification 3.0 §6.1.
export const PCI_VENDOR_ID = 0x00
export const PCI_DEVICE_ID = 0x02
export const PCI_COMMAND = 0x04
export const PCI_STATUS = 0x06
export const PCI_REVISION_ID = 0x08
export const PCI_CLASS_CODE = 0x09
export const PCI_HEADER_TYPE = 0x0e
export const PCI_BAR0 = 0x10
export const PCI_SUBSYSTEM_VENDOR_ID = 0x2c
export const PCI_SUBSYSTEM_ID = 0x2e
export const PCI_CAPABILITY_POINTER = 0x34
export const PCI_INTERRUPT_LINE = 0x3c
export const PCI_INTERRUPT_PIN = 0x3d
/** Bytes of a conventional configuration space. */
export const PCI_CONFIG_SIZE = 256
/** Capabilities lie above the header. */
export const PCI_HEADER_SIZE = 0x40
export const PCI_BARS = 6

// PCI_COMMAND
export const PCI_COMMAND_IO = 0x0001
export const PCI_COMMAND_MEMORY = 0x0002
export const PCI_COMMAND_BUS_MASTER = 0x0004
export const PCI_COMMAND_INTX_DISABLE = 0x0400
// PCI_STATUS
export const PCI_STATUS_INTERRUPT = 0x0008
export const PCI_STATUS_CAPABILITIES = 0x0010

// A BAR's low bits: PCI 3.0 §6.2.5.1
export const PCI_BAR_IO = 0x1
export const PCI_BAR_TYPE_MASK = 0x6
export const PCI_BAR_TYPE_64 = 0x4
export const PCI_BAR_PREFETCHABLE = 0x8
export const PCI_BAR_MEMORY_FLAGS = 0xf
export const PCI_BAR_IO_FLAGS = 0x3

export const PCI_CAP_ID_VENDOR = 0x09
export const PCI_CAP_ID_MSIX = 0x11

// struct virtio_pci_cap: virtio 1.4 §4.1.4
export const PCI_CAP_ID = 0
export const PCI_CAP_NEXT = 1
export const PCI_CAP_LENGTH = 2
export const PCI_CAP_CFG_TYPE = 3
export const PCI_CAP_BAR = 4
export const PCI_CAP_INSTANCE = 5
export const PCI_CAP_OFFSET = 8
export const PCI_CAP_SIZE = 12
/** Bytes of struct virtio_pci_cap. */
export const PCI_CAP_BYTES = 16
/** struct virtio_pci_notify_cap, virtio 1.4 §4.1.4.4 */
export const PCI_NOTIFY_CAP_MULTIPLIER = 16
export const PCI_NOTIFY_CAP_BYTES = 20
/** struct virtio_pci_cfg_cap, virtio 1.4 §4.1.4.9 */
export const PCI_CFG_CAP_DATA = 16
export const PCI_CFG_CAP_BYTES = 20
// struct virtio_pci_cap64, virtio 1.4 §4.1.4
export const PCI_CAP64_OFFSET_HIGH = 16
export const PCI_CAP64_SIZE_HIGH = 20
export const PCI_CAP64_BYTES = 24

// cfg_type: virtio 1.4 §4.1.4
export const VIRTIO_PCI_CAP_COMMON_CFG = 1
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2
export const VIRTIO_PCI_CAP_ISR_CFG = 3
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4
export const VIRTIO_PCI_CAP_PCI_CFG = 5
export const VIRTIO_PCI_CAP_SHARED_MEMORY_CFG = 8
export const VIRTIO_PCI_CAP_VENDOR_CFG = 9
/** SWIOTLB RFC 3/3: a plain struct virtio_pci_cap that names memory for bounce buffers. Reserved in virtio 1.4. */
export const VIRTIO_PCI_CAP_SWIOTLB = 10

// struct virtio_pci_common_cfg: virtio 1.4 §4.1.4.3
export const PCI_COMMON_DEVICE_FEATURE_SELECT = 0x00
export const PCI_COMMON_DEVICE_FEATURE = 0x04
export const PCI_COMMON_DRIVER_FEATURE_SELECT = 0x08
export const PCI_COMMON_DRIVER_FEATURE = 0x0c
export const PCI_COMMON_CONFIG_MSIX_VECTOR = 0x10
export const PCI_COMMON_NUM_QUEUES = 0x12
export const PCI_COMMON_DEVICE_STATUS = 0x14
export const PCI_COMMON_CONFIG_GENERATION = 0x15
export const PCI_COMMON_QUEUE_SELECT = 0x16
export const PCI_COMMON_QUEUE_SIZE = 0x18
export const PCI_COMMON_QUEUE_MSIX_VECTOR = 0x1a
export const PCI_COMMON_QUEUE_ENABLE = 0x1c
export const PCI_COMMON_QUEUE_NOTIFY_OFF = 0x1e
export const PCI_COMMON_QUEUE_DESC = 0x20
export const PCI_COMMON_QUEUE_DRIVER = 0x28
export const PCI_COMMON_QUEUE_DEVICE = 0x30
export const PCI_COMMON_QUEUE_NOTIF_CONFIG_DATA = 0x38
export const PCI_COMMON_QUEUE_RESET = 0x3a
export const PCI_COMMON_ADMIN_QUEUE_INDEX = 0x3c
export const PCI_COMMON_ADMIN_QUEUE_NUM = 0x3e
/** Bytes of struct virtio_pci_common_cfg. */
export const PCI_COMMON_BYTES = 0x40
/** Bytes that every device has had since 1.0: up to and including queue_device. */
export const PCI_COMMON_MIN_BYTES = 0x38

/** Maps no vector to an event: virtio 1.4 §4.1.5.1.2. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff

// MSI-X capability and table: PCI 3.0 §6.8.2.
export const MSIX_CONTROL = 2
export const MSIX_TABLE = 4
export const MSIX_PENDING = 8
export const MSIX_CAP_BYTES = 12
export const MSIX_CONTROL_ENABLE = 0x8000
export const MSIX_CONTROL_MASK_ALL = 0x4000
export const MSIX_CONTROL_SIZE_MASK = 0x07ff
/** Low bits of the table and pending fields: the BAR; the rest is the offset in it. */
export const MSIX_BAR_MASK = 0x7
export const MSIX_ENTRY_BYTES = 16
export const MSIX_ENTRY_ADDRESS_LOW = 0
export const MSIX_ENTRY_ADDRESS_HIGH = 4
export const MSIX_ENTRY_DATA = 8
export const MSIX_ENTRY_CONTROL = 12
export const MSIX_ENTRY_MASKED = 1
