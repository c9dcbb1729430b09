// Block device: virtio 1.4 §5.2.

export const VIRTIO_BLK_F_SIZE_MAX = 1
export const VIRTIO_BLK_F_SEG_MAX = 2
export const VIRTIO_BLK_F_GEOMETRY = 4
export const VIRTIO_BLK_F_RO = 5
export const VIRTIO_BLK_F_BLK_SIZE = 6
export const VIRTIO_BLK_F_FLUSH = 9
export const VIRTIO_BLK_F_TOPOLOGY = 10
export const VIRTIO_BLK_F_CONFIG_WCE = 11
export const VIRTIO_BLK_F_MQ = 12
export const VIRTIO_BLK_F_DISCARD = 13
export const VIRTIO_BLK_F_WRITE_ZEROES = 14

export const BLK_REQUEST_QUEUE = 0

// struct virtio_blk_config: virtio 1.4 §5.2.4
export const BLK_CONFIG_CAPACITY = 0
export const BLK_CONFIG_SIZE_MAX = 8
export const BLK_CONFIG_SEG_MAX = 12
export const BLK_CONFIG_BLK_SIZE = 20
export const BLK_CONFIG_WRITEBACK = 32
export const BLK_CONFIG_NUM_QUEUES = 34
/** Bytes of the configuration space up to and including `num_queues`. */
export const BLK_CONFIG_SIZE = 36

/** The unit of `sector` and `capacity`, whatever BLK_SIZE says: virtio 1.4 §5.2.4. */
export const SECTOR_SIZE = 512

// struct virtio_blk_req { le32 type; le32 reserved; le64 sector; u8 data[]; u8 status }: virtio 1.4 §5.2.6
export const BLK_REQUEST_HEADER_SIZE = 16
export const BLK_REQUEST_TYPE = 0
export const BLK_REQUEST_SECTOR = 8
export const BLK_T_IN = 0
export const BLK_T_OUT = 1
export const BLK_T_FLUSH = 4
export const BLK_T_GET_ID = 8
/** Bytes of the string that GET_ID returns, NUL-padded: virtio 1.4 §5.2.6. */
export const BLK_ID_BYTES = 20

export const BLK_S_OK = 0
export const BLK_S_IOERR = 1
export const BLK_S_UNSUPP = 2
