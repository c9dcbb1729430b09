import { describe, expect, test } from 'vitest'
import {
  DESCRIPTOR_F_AVAILABLE,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_USED,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_RING_ALIGN,
  descriptorRingBytes,
  EVENT_SUPPRESSION_ALIGN,
  EVENT_SUPPRESSION_DESCRIPTOR,
  EVENT_SUPPRESSION_FLAGS,
  EVENT_SUPPRESSION_SIZE,
  PACKED_DESCRIPTOR_ADDRESS,
  PACKED_DESCRIPTOR_FLAGS,
  PACKED_DESCRIPTOR_ID,
  PACKED_DESCRIPTOR_LENGTH,
  PACKED_DESCRIPTOR_SIZE,
  PACKED_WRAP_COUNTER,
  RING_EVENT_FLAGS_DESCRIPTOR,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
} from '../src/index.ts'

describe('layout of the packed ring (virtio 1.4 §2.8)', () => {
  test('a descriptor is le64 addr, le32 len, le16 id, le16 flags (§2.8.13)', () => {
    expect([
      PACKED_DESCRIPTOR_ADDRESS,
      PACKED_DESCRIPTOR_LENGTH,
      PACKED_DESCRIPTOR_ID,
      PACKED_DESCRIPTOR_FLAGS,
      PACKED_DESCRIPTOR_SIZE,
    ]).toEqual([0, 8, 12, 14, 16])
  })

  test('flags are bits 0, 1, 2, 7 and 15 (§2.8.1, §2.8.3, §2.8.6, §2.8.7)', () => {
    expect([
      DESCRIPTOR_F_NEXT,
      DESCRIPTOR_F_WRITE,
      DESCRIPTOR_F_INDIRECT,
      DESCRIPTOR_F_AVAILABLE,
      DESCRIPTOR_F_USED,
    ]).toEqual([0, 1, 2, 7, 15].map((bit) => 1 << bit))
  })

  test('an event suppression structure is le16 desc, le16 flags (§2.8.14)', () => {
    expect([EVENT_SUPPRESSION_DESCRIPTOR, EVENT_SUPPRESSION_FLAGS, EVENT_SUPPRESSION_SIZE]).toEqual([0, 2, 4])
    expect([RING_EVENT_FLAGS_ENABLE, RING_EVENT_FLAGS_DISABLE, RING_EVENT_FLAGS_DESCRIPTOR]).toEqual([0, 1, 2])
    expect(PACKED_WRAP_COUNTER).toBe(1 << 15)
  })

  test('parts are aligned to 16 and 4 (§2.8.10.1)', () => {
    expect([DESCRIPTOR_RING_ALIGN, EVENT_SUPPRESSION_ALIGN]).toEqual([16, 4])
  })

  test.each([
    [1, 16],
    [3, 48],
    [256, 4096],
    [32_767, 524_272],
    [32_768, 524_288],
  ])('a descriptor ring of %d entries has %d bytes (§2.8.10.1)', (size, bytes) => {
    expect(descriptorRingBytes(size)).toBe(bytes)
  })
})
