import { expect, test } from 'vitest'
import { guestsPage } from '../src/matrix/guests-page.ts'
import type { CaseResult, PeersReport } from '../src/matrix/result.ts'

const LABELS = {
  role: 'driver',
  driver: 'blk',
  ring: 'split',
  transport: 'vhost-user',
  version: '6.1',
  outcome: 'pass',
  reason: '',
  seconds: 1,
} as const

function pageOf(results: readonly CaseResult[], own?: Parameters<typeof guestsPage>[1]): string {
  const environment = { date: '2026-11-29T10:00:00Z', node: '26', platform: 'linux', cores: 2 }
  const report: PeersReport = { schema: 'guestdma-peers-1', environment, complete: true, results }
  return guestsPage(report, own)
}

test('has a column for each guest that recorded what it reached, and a row for each device and kernel of the others', () => {
  const page = pageOf([
    {
      ...LABELS,
      peer: 'linux-arm64',
      backend: 'swiotlb',
      what: '',
      figures: {
        negotiated: '28,32',
        reach: 'all of RAM',
        accesses: 4300,
        outside: 0,
        faults: 0,
        bytesCopied: 140_300,
      },
    },
    {
      ...LABELS,
      peer: 'linux-v86',
      backend: 'on-device',
      what: '',
      figures: { 'i386-swiotlb disk0 told': 2100, 'i386-swiotlb disk0 outside': 0, 'i386-swiotlb net0 told': 681 },
    },
    { ...LABELS, peer: 'seabios', backend: 'direct', what: '' },
  ])
  expect(page).toContain('## linux-arm64: disks\n\n|  | swiotlb: linux-arm64 |\n| --- | --- |\n| features | 28,32 |')
  expect(page).toContain('| accesses of the device | 4,300 |\n| outside | 0 |\n| faults | 0 |')
  expect(page).toContain('| works | on-device | i386-swiotlb | disk0 | 2,100 | 0 |')
  expect(page).toContain('| works | on-device | i386-swiotlb | net0 | 681 |')
  expect(page).not.toContain('seabios')
})

test('leaves out whose driver is ours', () => {
  const figures = { reach: 'all of RAM' }
  expect(pageOf([{ ...LABELS, role: 'device', peer: 'qemu', backend: 'direct', what: '', figures }])).not.toContain(
    'qemu',
  )
})

test('shows our own driver next to a guest that does the same by the same scheme', () => {
  const guest = { ...LABELS, peer: 'linux-arm64', what: '', figures: { reach: 'all of RAM', bytesCopied: 140_300 } }
  const page = pageOf(
    [
      { ...guest, backend: 'direct' },
      { ...guest, backend: 'swiotlb' },
      { ...guest, backend: 'intel-iommu' },
      { ...guest, backend: 'swiotlb', driver: 'net' },
    ],
    [{ driver: 'blk', backend: 'swiotlb', figures: { bytesCopied: 79_000, bytesCleared: 61_000 } }],
  )
  expect(page).toContain('|  | direct: linux-arm64 | swiotlb: linux-arm64 | guestdma | intel-iommu: linux-arm64 |')
  expect(page).toContain('| bytes copied to and from bounce buffers | 140,300 | 140,300 | 79,000 | 140,300 |')
  expect(page).toContain('| bytes cleared in them |  |  | 61,000 |  |')
  expect(page).toContain('## linux-arm64: a network card\n\n|  | swiotlb: linux-arm64 |\n')
})
