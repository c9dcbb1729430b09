import { hex } from '@guestdma/memory'
import { DemoInputError } from './errors.ts'

/** What the superblock of an ext2, ext3 or ext4 file system says of it. */
export interface Superblock {
  /** Up to 16 bytes of UTF-8 chosen by whoever made the image: not fit for a terminal as it is. */
  readonly label: string
  /** Lower case, with hyphens. */
  readonly uuid: string
  /** Bytes, a power of two from 1024 to 65536. */
  readonly blockSize: number
  readonly blockCount: number
}

/** Reads `length` bytes from byte `offset` of the image. */
export type ReadBytes = (offset: number, length: number) => Promise<Uint8Array> | Uint8Array

/** The unit of every virtio-blk request (virtio 1.4 §5.2.6). */
export const SECTOR_BYTES = 512

const SUPERBLOCK_OFFSET = 1024
const SUPERBLOCK_BYTES = 1024
const MAGIC = 0xef53
const MAX_LOG_BLOCK_SIZE = 6
const INCOMPAT_64BIT = 0x80
// The block count times the largest block size is then an exact number of bytes.
const MAX_BLOCK_COUNT = 2 ** 37

// Offsets of fields in the superblock (the kernel's Documentation/filesystems/ext4/super.rst).
const BLOCKS_COUNT_LOW = 0x04
const LOG_BLOCK_SIZE = 0x18
const MAGIC_NUMBER = 0x38
const FEATURE_INCOMPAT = 0x60
const UUID = 0x68
const VOLUME_NAME = 0x78
const BLOCKS_COUNT_HIGH = 0x150

/**
 * Refuses an image that cannot be a disk with a file system, before anything of it is read.
 *
 * @param length bytes of the image
 * @param name the image's name, for messages
 * @throws DemoInputError `EXT4_SECTOR_MULTIPLE`, `EXT4_TOO_SMALL`
 */
export function checkImage(length: number, name: string): void {
  if (length % SECTOR_BYTES !== 0) {
    const next = Math.ceil(length / SECTOR_BYTES) * SECTOR_BYTES
    const advice = `a disk consists of whole sectors of ${SECTOR_BYTES} bytes; pad it: truncate -s ${next} ${name}`
    throw new DemoInputError('EXT4_SECTOR_MULTIPLE', name, 'the length', { offset: length, found: length, advice })
  }
  const least = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES
  if (length < least) {
    const advice = `the superblock alone ends at ${least}, so this is no raw image; make one with mkfs.ext4`
    throw new DemoInputError('EXT4_TOO_SMALL', name, 'the length', { offset: length, found: length, advice })
  }
}

/**
 * Reads and checks the superblock with one read of bytes 1024 to 2047, which are whole sectors.
 *
 * @param read where the bytes come from; what it throws passes through
 * @param name the image's name, for messages
 * @throws DemoInputError `EXT4_SHORT_READ`, `EXT4_MAGIC`, `EXT4_BLOCK_SIZE`, `EXT4_BLOCK_COUNT`
 */
export async function readSuperblock(read: ReadBytes, name: string): Promise<Superblock> {
  const bytes = await read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES)
  const refuse = (code: string, field: string, at: number, found: number | string, advice: string): DemoInputError =>
    new DemoInputError(code, name, field, { offset: SUPERBLOCK_OFFSET + at, found, advice })

  if (bytes.length < SUPERBLOCK_BYTES) {
    const advice = `${SUPERBLOCK_BYTES} were asked for, so the image ends within its superblock`
    throw refuse('EXT4_SHORT_READ', 'what was read of the superblock', 0, `${bytes.length} bytes`, advice)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const magic = view.getUint16(MAGIC_NUMBER, true)
  if (magic !== MAGIC) {
    const advice = `ext4 has ${hex(MAGIC)} there; give a raw image of one file system, neither partitioned nor qcow2`
    throw refuse('EXT4_MAGIC', 'the magic number', MAGIC_NUMBER, hex(magic), advice)
  }
  const logBlockSize = view.getUint32(LOG_BLOCK_SIZE, true)
  if (logBlockSize > MAX_LOG_BLOCK_SIZE) {
    const advice = `0 (1 KiB) to ${MAX_LOG_BLOCK_SIZE} (64 KiB) is possible, so the superblock is damaged; see e2fsck`
    throw refuse('EXT4_BLOCK_SIZE', 'the logarithm of the block size', LOG_BLOCK_SIZE, logBlockSize, advice)
  }
  const wide = (view.getUint32(FEATURE_INCOMPAT, true) & INCOMPAT_64BIT) !== 0
  const high = wide ? view.getUint32(BLOCKS_COUNT_HIGH, true) : 0
  const blockCount = high * 2 ** 32 + view.getUint32(BLOCKS_COUNT_LOW, true)
  if (blockCount === 0 || blockCount > MAX_BLOCK_COUNT) {
    const advice = `1 to ${MAX_BLOCK_COUNT} is possible here, so the superblock is damaged; see e2fsck`
    throw refuse('EXT4_BLOCK_COUNT', 'the block count', BLOCKS_COUNT_LOW, blockCount, advice)
  }
  return {
    label: text(bytes.subarray(VOLUME_NAME, VOLUME_NAME + 16)),
    uuid: uuid(bytes.subarray(UUID, UUID + 16)),
    blockSize: 1024 << logBlockSize,
    blockCount,
  }
}

/**
 * Refuses an image that ends before its file system does.
 *
 * @param length bytes of the image
 * @throws DemoInputError `EXT4_TRUNCATED`
 */
export function checkWhole(superblock: Superblock, length: number, name: string): void {
  const needed = superblock.blockSize * superblock.blockCount
  if (length < needed) {
    const advice = `its ${superblock.blockCount} blocks need ${needed}, so the image was cut short; copy it again`
    throw new DemoInputError('EXT4_TRUNCATED', name, 'the length', { offset: length, found: length, advice })
  }
}

function text(padded: Uint8Array): string {
  const end = padded.indexOf(0)
  // A copy, because a TextDecoder need not accept shared memory, which is what a driver may have read into.
  return new TextDecoder().decode(new Uint8Array(end < 0 ? padded : padded.subarray(0, end)))
}

function uuid(bytes: Uint8Array): string {
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
