import { describe, expect, it } from 'vitest'
import { ownDrivers } from '../src/guests/own-drivers.ts'

describe.skipIf(process.platform !== 'linux')('our own drivers beside those of a guest', () => {
  it('hand nothing over that somebody freed, whatever confines the device', { timeout: 60_000 }, async () => {
    const found = await ownDrivers(['restricted-dma-pool', 'virtio-iommu'])
    expect(found.map(({ driver, backend }) => `${driver} ${backend}`)).toEqual([
      'blk restricted-dma-pool',
      'net restricted-dma-pool',
      'blk virtio-iommu',
      'net virtio-iommu',
    ])
    for (const { figures } of found)
      expect(figures).toMatchObject({ outside: 0, faults: 0, secretInReach: 0, secretHandedOver: 0 })
    // Once each byte, and cleared before the device fills it.
    const [pool, , iommu] = found.map(({ figures }) => figures)
    expect(pool.bytesCopied).toBe(Number(pool.bytesRead) + Number(pool.bytesWritten))
    expect(pool.bytesCleared).toBe(pool.bytesRead)
    expect([iommu.bytesCopied, iommu.bytesRead, iommu.bytesWritten]).toEqual([0, pool.bytesRead, pool.bytesWritten])
  })
})
