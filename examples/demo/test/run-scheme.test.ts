import { createHash } from 'node:crypto'
import { MemoryBlockStore } from '@guestdma/devices'
import { beforeAll, describe, expect, test } from 'vitest'
import { scanCapture } from '../src/capture.ts'
import { runScheme, type SchemeResult } from '../src/run-scheme.ts'
import { SCHEMES } from '../src/schemes.ts'
import { fixture, readPcap } from './support/fixtures.ts'

const { header, frames } = await readPcap(fixture('traffic.pcap'), 'traffic.pcap')
// In two pieces, as a large file comes in many.
const capture = await scanCapture('traffic.pcap', header, async function* () {
  yield frames.slice(0, 100)
  yield frames.slice(100)
})
const payload = frames.reduce((sum, { data }) => sum + data.length, 0)
// What goes through a device twice, with the 12-byte header that each frame has on either side.
const copied = 2 * (payload + 12 * frames.length)

/** Which of its costs a scheme has at all, and how many bytes it copies. */
const COSTS: Readonly<
  Record<string, { readonly copied: number; readonly requests: boolean; readonly waits: boolean }>
> = {
  direct: { copied: 0, requests: false, waits: false },
  'shared-pool': { copied, requests: false, waits: false },
  'on-device': { copied, requests: false, waits: false },
  'virtio-iommu': { copied: 0, requests: true, waits: true },
  'virtio-iommu-lazy': { copied: 0, requests: true, waits: true },
  'virtio-iommu-byte': { copied: 0, requests: true, waits: true },
  // No frame of the capture is as long as a page.
  'virtio-iommu-bounce': { copied, requests: true, waits: true },
  'virtio-iommu-simple': { copied, requests: false, waits: false },
  'shared-pages': { copied: 0, requests: true, waits: true },
}

test('every scheme of the demo has an expectation', () => {
  expect(Object.keys(COSTS)).toEqual(Object.keys(SCHEMES))
})

describe.each(['mmio', 'pci'] as const)('asked for over %s', (asked) => {
  describe.each(Object.entries(COSTS))('capture and disk over %s', (id, expected) => {
    const disk = fixture('disk.ext4')
    let result: SchemeResult
    beforeAll(async () => {
      const sha256 = createHash('sha256').update(disk).digest('hex')
      const store = new MemoryBlockStore(new Uint8Array(disk))
      const options = { capture, store, diskName: 'disk.ext4', sha256, transport: asked, timingMs: 0 }
      result = await runScheme(id, SCHEMES[id], options)
    })

    test('everything arrives as it was sent', () => {
      expect(result.net).toMatchObject({ framesIn: frames.length, bytesIn: payload, identical: true })
      expect(result.blk).toMatchObject({ identical: true, written: { identical: true } })
      expect(result.faults).toBe(0)
    })

    test('all three devices use the scheme, each for a reason', () => {
      expect(result.chosen.map(({ device, scheme }) => [device, scheme])).toEqual([
        ['net0', id],
        ['net1', id],
        ['disk0', id],
      ])
      expect(new Set(result.chosen.map(({ why }) => why)).size).toBe(1)
      expect(result.transport).toBe(id === 'on-device' ? 'pci' : asked)
    })

    test('costs what such a scheme costs', () => {
      const { bytesCopied, mapRequests, unmapRequests, synchronousCommits } = result.net.costs
      expect(bytesCopied).toBe(expected.copied)
      expect([mapRequests > 0, unmapRequests > 0]).toEqual([expected.requests, expected.requests])
      expect(synchronousCommits > 0).toBe(expected.waits)
    })

    test('nothing stays lent but receive buffers that wait, and those not after the end', () => {
      const { live, posted, afterClose } = result.mappings
      expect(posted).toBeGreaterThan(0)
      expect([live - posted, afterClose]).toEqual([0, 0])
    })
  })
})
