import { createHash } from 'node:crypto'
import { MemoryBlockStore } from '@guestdma/devices'
import { beforeAll, describe, expect, test } from 'vitest'
import { readPcap } from '../src/pcap.ts'
import { Progress } from '../src/progress.ts'
import { runScheme, type SchemeResult } from '../src/run-scheme.ts'
import { SCHEMES } from '../src/schemes.ts'
import { fixture } from './support/fixtures.ts'

const capture = readPcap(fixture('traffic.pcap'), 'traffic.pcap')
const payload = capture.frames.reduce((sum, { data }) => sum + data.length, 0)
// What goes through a device twice, with the 12-byte header that each frame has on either side.
const copied = 2 * (payload + 12 * capture.frames.length)

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
    let received: readonly Uint8Array[]
    beforeAll(async () => {
      const sha256 = createHash('sha256').update(disk).digest('hex')
      const store = new MemoryBlockStore(new Uint8Array(disk))
      const names = { captureName: 'traffic.pcap', diskName: 'disk.ext4' }
      const options = { capture, store, sha256, transport: asked, progress: new Progress(), timingMs: 0 }
      ;({ result, received } = await runScheme(id, SCHEMES[id], { ...names, ...options }))
    })

    test('everything arrives as it was sent', () => {
      expect(result.net).toMatchObject({ framesIn: capture.frames.length, bytesIn: payload, identical: true })
      expect(received.length).toBe(capture.frames.length)
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
