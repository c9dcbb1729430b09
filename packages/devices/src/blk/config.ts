import {
  BLK_CONFIG_BLK_SIZE,
  BLK_CONFIG_CAPACITY,
  BLK_CONFIG_NUM_QUEUES,
  BLK_CONFIG_SEG_MAX,
  BLK_CONFIG_SIZE,
  BLK_CONFIG_SIZE_MAX,
  BLK_CONFIG_WRITEBACK,
  BLK_ID_BYTES,
  FeatureSet,
  SECTOR_SIZE,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
} from '@guestdma/spec'
import { ConfigSpace } from '../device/config-space.ts'
import type { DeviceOptions } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import type { BlockStore } from './block-store.ts'

/**
 * Options of a block device; the defaults give a writable disk with one queue of 256 and a write-back cache that FLUSH
 * empties.
 */
export interface BlkDeviceOptions extends DeviceOptions {
  readonly store: BlockStore
  /** The string that GET_ID returns: up to 20 ASCII bytes. Defaults to the device's name, cut. */
  readonly id?: string
  /** Offers RO, and answers every write with IOERR. */
  readonly readOnly?: boolean
  /** Offers BLK_SIZE: the block size that suits the store, a power of two from 512 bytes on. */
  readonly blockSize?: number
  /** Offers SIZE_MAX: the longest single segment in bytes. */
  readonly sizeMax?: number
  /**
   * SEG_MAX, the most data segments of a request: Linux sends one page at a time without it. Defaults to what the queue
   * holds beside header and status, `queueSize` - 2, but at most 126: Linux makes chains as long as this allows, also
   * where whoever serves the device (QEMU: 128) gives it a shorter queue. A queue that holds none does not offer it.
   */
  readonly segMax?: number
  /** Offers CONFIG_WCE with this mode after negotiation: true write-back, false write-through (§5.2.5). */
  readonly writeback?: boolean
  /** How many queues; MQ is offered from 2 on. Defaults to 1. */
  readonly queues?: number
  /** Defaults to 256. */
  readonly queueSize?: number
  /** The most requests at the store at a time; further ones stay in the ring. Defaults to 64. */
  readonly maxInFlight?: number
  /**
   * The most bytes of staging memory in use at a time; further requests stay in the ring. A request that would not fit
   * even alone fails. As much again may be in requests that a reset left with the store. Defaults to 16 MiB.
   */
  readonly stagingBytes?: number
}

export const DEFAULT_QUEUE_SIZE = 256

/** struct virtio_blk_config up to num_queues, as fields: virtio 1.4 §5.2.4. */
const FIELDS = [
  { offset: BLK_CONFIG_CAPACITY, width: 4 },
  { offset: BLK_CONFIG_CAPACITY + 4, width: 4 },
  { offset: BLK_CONFIG_SIZE_MAX, width: 4 },
  { offset: BLK_CONFIG_SEG_MAX, width: 4 },
  // geometry: cylinders, heads, sectors
  { offset: 16, width: 2 },
  { offset: 18, width: 1 },
  { offset: 19, width: 1 },
  { offset: BLK_CONFIG_BLK_SIZE, width: 4 },
  // topology: physical_block_exp, alignment_offset, min_io_size, opt_io_size
  { offset: 24, width: 1 },
  { offset: 25, width: 1 },
  { offset: 26, width: 2 },
  { offset: 28, width: 4 },
  { offset: BLK_CONFIG_WRITEBACK, width: 1, writable: true },
  { offset: 33, width: 1 },
  { offset: BLK_CONFIG_NUM_QUEUES, width: 2 },
] as const

/** The features that follow from the options. */
export function blkFeatures(options: BlkDeviceOptions): FeatureSet {
  const bits: number[] = [VIRTIO_BLK_F_FLUSH]
  if (options.readOnly === true) bits.push(VIRTIO_BLK_F_RO)
  if (options.blockSize !== undefined) bits.push(VIRTIO_BLK_F_BLK_SIZE)
  if (options.sizeMax !== undefined) bits.push(VIRTIO_BLK_F_SIZE_MAX)
  if (segMaxOf(options) > 0) bits.push(VIRTIO_BLK_F_SEG_MAX)
  if (options.writeback !== undefined) bits.push(VIRTIO_BLK_F_CONFIG_WCE)
  if ((options.queues ?? 1) > 1) bits.push(VIRTIO_BLK_F_MQ)
  return FeatureSet.of(...bits)
}

/** What QEMU gives a disk that is served to it. */
const SERVED_QUEUE_SIZE = 128

function segMaxOf({ segMax, queueSize = DEFAULT_QUEUE_SIZE }: BlkDeviceOptions): number {
  return segMax ?? Math.max(0, Math.min(queueSize, SERVED_QUEUE_SIZE) - 2)
}

/** The configuration space that follows from the options. */
export function blkConfig(options: BlkDeviceOptions): ConfigSpace {
  const config = new ConfigSpace(BLK_CONFIG_SIZE, FIELDS)
  config.write64(BLK_CONFIG_CAPACITY, options.store.capacity / SECTOR_SIZE)
  config.write(BLK_CONFIG_SIZE_MAX, 4, options.sizeMax ?? 0)
  config.write(BLK_CONFIG_SEG_MAX, 4, segMaxOf(options))
  config.write(BLK_CONFIG_BLK_SIZE, 4, options.blockSize ?? 0)
  if ((options.queues ?? 1) > 1) config.write(BLK_CONFIG_NUM_QUEUES, 2, options.queues as number)
  return config
}

/** Throws `STORE_CAPACITY` unless the store's capacity is a positive multiple of 512. */
export function checkCapacity(name: string, store: BlockStore): void {
  const { capacity } = store
  if (!Number.isSafeInteger(capacity) || capacity < SECTOR_SIZE || capacity % SECTOR_SIZE !== 0) {
    const message = `the store's capacity of ${capacity} bytes must be a positive multiple of ${SECTOR_SIZE}`
    throw new DeviceError('STORE_CAPACITY', name, message, { capacity })
  }
}

/** Throws `DEVICE_OPTION` or `STORE_CAPACITY`. */
export function checkBlkOptions(options: BlkDeviceOptions): void {
  const { name, blockSize, sizeMax, segMax, id, queues, maxInFlight, stagingBytes } = options
  const store = options.store as Partial<BlockStore> | null | undefined
  for (const method of ['read', 'write', 'flush'] as const) {
    if (typeof store?.[method] === 'function') continue
    const message = `store must be a BlockStore; it has no method ${method}`
    throw new DeviceError('DEVICE_OPTION', name, message, { method })
  }
  checkCapacity(name, options.store)
  const check = (option: string, value: number | undefined, least: number, most: number): void => {
    if (value === undefined || (Number.isInteger(value) && value >= least && value <= most)) return
    throw new DeviceError('DEVICE_OPTION', name, `${option} ${value} must be an integer from ${least} to ${most}`, {
      [option]: value,
    })
  }
  check('blockSize', blockSize, SECTOR_SIZE, 2 ** 31)
  check('sizeMax', sizeMax, 1, 2 ** 32 - 1)
  check('segMax', segMax, 1, 2 ** 32 - 1)
  check('queues', queues, 1, 1024)
  check('maxInFlight', maxInFlight, 1, 65536)
  check('stagingBytes', stagingBytes, 4096, 2 ** 32)
  if (blockSize !== undefined && (blockSize & (blockSize - 1)) !== 0) {
    throw new DeviceError('DEVICE_OPTION', name, `blockSize ${blockSize} must be a power of two`, { blockSize })
  }
  if (id !== undefined && !isId(id)) {
    const message = `id ${JSON.stringify(id)} must be up to ${BLK_ID_BYTES} ASCII characters`
    throw new DeviceError('DEVICE_OPTION', name, message, { id })
  }
}

/** The 20 bytes that GET_ID returns, NUL-padded. */
export function idBytes(id: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(BLK_ID_BYTES)
  for (let i = 0; i < Math.min(id.length, BLK_ID_BYTES); i++) {
    const code = id.charCodeAt(i)
    bytes[i] = code > 0 && code < 128 ? code : 0x3f
  }
  return bytes
}

function isId(id: string): boolean {
  return id.length <= BLK_ID_BYTES && [...id].every((c) => c.charCodeAt(0) > 0 && c.charCodeAt(0) < 128)
}
