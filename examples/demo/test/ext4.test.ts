import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DemoInputError } from '../src/errors.ts'
import { checkImage, checkWhole, readSuperblock, SECTOR_BYTES } from '../src/ext4.ts'
import { fixture, refusal } from './support/fixtures.ts'

const image = fixture('disk.ext4')
const readFrom =
  (bytes: Uint8Array) =>
  (offset: number, length: number): Uint8Array =>
    bytes.subarray(offset, offset + length)

/** The image with a field of the superblock replaced, given as bytes. */
function withField(offset: number, ...bytes: number[]): Uint8Array {
  const changed = Uint8Array.from(image)
  changed.set(bytes, 1024 + offset)
  return changed
}

describe('ext4: the fixture', () => {
  // As `dumpe2fs -h disk.ext4` prints them.
  const expected = {
    label: 'guestdma',
    uuid: '9d3a7c52-64f1-4e0b-8a52-1f0d6e21b0a4',
    blockSize: 1024,
    blockCount: 192,
  }

  test('has the superblock that dumpe2fs shows', async () => {
    expect(await readSuperblock(readFrom(image), 'disk.ext4')).toEqual(expected)
  })

  test('is whole sectors and exactly as long as its file system', () => {
    expect(image.length).toBe(expected.blockSize * expected.blockCount)
    checkImage(image.length, 'disk.ext4')
    checkWhole(expected, image.length, 'disk.ext4')
  })

  test('holds more than zeros, so that a block left out would be noticed', () => {
    const blocks = Array.from({ length: 192 }, (_, block) => image.subarray(block * 1024, (block + 1) * 1024))
    expect(blocks.filter((block) => block.some((byte) => byte !== 0)).length).toBeGreaterThan(100)
  })
})

describe('ext4: reading the superblock', () => {
  test('takes one read of whole sectors, at once or later, from any kind of buffer', async () => {
    const reads: [number, number][] = []
    const shared = new Uint8Array(new SharedArrayBuffer(1024 + 5), 5)
    const superblock = await readSuperblock(async (offset, length) => {
      reads.push([offset, length])
      shared.set(image.subarray(offset, offset + length))
      return shared
    }, 'disk.ext4')
    expect(superblock.label).toBe('guestdma')
    expect(reads).toEqual([[1024, 1024]])
    expect(reads.flat().every((number) => number % SECTOR_BYTES === 0)).toBe(true)
  })

  test('a label of all 16 bytes and an empty one are read', async () => {
    const full = withField(0x78, ...new TextEncoder().encode('sixteen letters!'))
    expect((await readSuperblock(readFrom(full), 'x')).label).toBe('sixteen letters!')
    expect((await readSuperblock(readFrom(withField(0x78, 0)), 'x')).label).toBe('')
  })

  test('the high half of the block count counts only with the 64bit feature', async () => {
    const high = withField(0x150, 1, 0, 0, 0)
    expect((await readSuperblock(readFrom(high), 'x')).blockCount).toBe(2 ** 32 + 192)
    high[1024 + 0x60] &= ~0x80
    expect((await readSuperblock(readFrom(high), 'x')).blockCount).toBe(192)
  })

  test('every block size from 1 to 64 KiB is read', async () => {
    for (let log = 0; log <= 6; log++) {
      expect((await readSuperblock(readFrom(withField(0x18, log)), 'x')).blockSize).toBe(1024 * 2 ** log)
    }
  })

  test('what the reader throws passes through', async () => {
    const failure = new Error('the disk is gone')
    await expect(readSuperblock(() => Promise.reject(failure), 'x')).rejects.toBe(failure)
  })
})

describe('ext4: refusals name the image, the place, what is there and what to do', () => {
  test.each([
    ['EXT4_SHORT_READ', 'an image that ends in its superblock', image.slice(0, 1536), 1024, '512 bytes', '1024'],
    ['EXT4_MAGIC', 'zeros', new Uint8Array(4096), 1080, '0x0', '0xef53'],
    ['EXT4_BLOCK_SIZE', 'blocks of 128 KiB', withField(0x18, 7), 1048, 7, 'e2fsck'],
    ['EXT4_BLOCK_COUNT', 'no blocks', withField(0x04, 0), 1028, 0, 'e2fsck'],
    ['EXT4_BLOCK_COUNT', 'too many blocks', withField(0x150, 32), 1028, 2 ** 37 + 192, '137438953472'],
  ] as const)('%s: %s', async (code, _case, bytes, offset, found, advice) => {
    expectFault(await refusal(() => readSuperblock(readFrom(bytes), 'some.img')), code, offset, found, advice)
  })

  test.each([
    ['EXT4_SECTOR_MULTIPLE', 196_607, 'truncate -s 196608 some.img'],
    ['EXT4_SECTOR_MULTIPLE', 1, 'truncate -s 512 some.img'],
    ['EXT4_TOO_SMALL', 0, '2048'],
    ['EXT4_TOO_SMALL', 1536, '2048'],
  ] as const)('%s: an image of %d bytes', async (code, length, advice) => {
    expectFault(await refusal(() => checkImage(length, 'some.img')), code, length, length, advice)
  })

  test('EXT4_TRUNCATED: an image that lacks its last sector', async () => {
    const superblock = await readSuperblock(readFrom(image), 'some.img')
    const length = image.length - SECTOR_BYTES
    const record = await refusal(() => checkWhole(superblock, length, 'some.img'))
    expectFault(record, 'EXT4_TRUNCATED', length, length, '196608')
  })

  test('a smallest image and a larger one than its file system are taken', () => {
    checkImage(2048, 'some.img')
    checkWhole({ label: '', uuid: '', blockSize: 1024, blockCount: 192 }, 196_608 + 512, 'some.img')
  })
})

test('ext4: an arbitrary superblock is read or refused with a DemoInputError', async () => {
  const change = fc.tuple(fc.nat({ max: 1023 }), fc.nat({ max: 255 }))
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 64 }), fc.nat({ max: 1024 }), async (changes, missing) => {
      const bytes = image.slice(0, 2048 - (missing % 3 === 0 ? missing : 0))
      for (const [at, value] of changes) if (1024 + at < bytes.length) bytes[1024 + at] = value
      try {
        const { uuid, blockCount } = await readSuperblock(readFrom(bytes), 'x')
        expect(uuid).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
        expect(Number.isSafeInteger(blockCount)).toBe(true)
      } catch (error) {
        expect(error).toBeInstanceOf(DemoInputError)
      }
    }),
  )
})

function expectFault(
  record: ReturnType<DemoInputError['toRecord']>,
  code: string,
  offset: number,
  found: number | string,
  advice: string,
): void {
  expect(record).toMatchObject({ code, part: 'some.img', details: { offset, found } })
  expect(record.message).toMatch(new RegExp(`^some\\.img: at byte ${offset}: .* is ${found}; `))
  expect(record.message).toContain(advice)
}
