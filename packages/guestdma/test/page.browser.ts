import { describe, expect, test } from 'vitest'

describe('in a page', () => {
  test('memory can be shared with a worker', () => {
    expect(crossOriginIsolated).toBe(true)
    expect(new SharedArrayBuffer(8).byteLength).toBe(8)
  })

  test('every package loads without Node', async () => {
    const packages = await Promise.all([
      import('guestdma'),
      import('@guestdma/spec'),
      import('@guestdma/memory'),
      import('@guestdma/dma'),
      import('@guestdma/virtqueue'),
      import('@guestdma/transport'),
      import('@guestdma/bounce'),
      import('@guestdma/drivers'),
      import('@guestdma/devices'),
    ])
    expect(packages).toHaveLength(9)
    expect('process' in globalThis).toBe(false)
  })
})
