import { beforeAll, describe, expect, test } from 'vitest'
import { type Refusal, showRefusals } from '../src/refusals.ts'

describe('an old driver, and a downgrade', () => {
  let refusals: readonly Refusal[] = []
  beforeAll(async () => {
    refusals = await showRefusals()
  })

  test('bit 27 left clear, and required: FEATURES_OK stays clear (SWIOTLB RFC 1/3)', () => {
    expect(refusals[0]).toMatchObject({
      featuresOk: 'clear',
      status: ['ACKNOWLEDGE', 'DRIVER', 'FAILED'],
      faults: [{ kind: 'features', reason: 'required', bits: [27] }],
      error: { code: 'DMA_NO_USABLE_BACKEND', message: expect.stringContaining('refused the features') },
    })
  })

  test('bit 27 accepted as ANY_LAYOUT: the first access is a fault, and the driver notices (SWIOTLB RFC 1/3)', () => {
    expect(refusals[1]).toMatchObject({
      featuresOk: 'set',
      status: ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK', 'DEVICE_NEEDS_RESET'],
      error: { code: 'DRIVER_DEVICE_BROKEN' },
    })
    const [{ address }] = refusals[1].faults as readonly { readonly address?: number }[]
    expect(refusals[1].faults[0]).toMatchObject({ port: 'disk0', reason: 'unmapped', access: 1 })
    // A guest address: the driver's rings are in guest RAM, which begins there.
    expect(address).toBeGreaterThanOrEqual(0x8000_0000)
    expect(address).toBeLessThan(0x8000_0000 + (4 << 20))
  })

  test('ACCESS_PLATFORM withheld beside a pool: refused, with what would have worked (virtio 1.4 §6.1)', () => {
    expect(refusals[2]).toMatchObject({
      featuresOk: 'never asked',
      status: ['ACKNOWLEDGE', 'DRIVER', 'FAILED'],
      faults: [],
      error: {
        code: 'DMA_DOWNGRADE_REFUSED',
        message: expect.stringContaining("list 'direct' explicitly"),
        details: { refused: 'direct', stronger: 'shared-pool' },
      },
    })
  })

  test('is plain data', () => {
    expect(JSON.parse(JSON.stringify(refusals))).toEqual(refusals)
  })
})
