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

function pageOf(...results: CaseResult[]): string {
  const environment = { date: '2026-11-29T10:00:00Z', node: '26', platform: 'linux', cores: 2 }
  const report: PeersReport = { schema: 'guestdma-peers-1', environment, complete: true, results }
  return guestsPage(report)
}

test('has a row for each guest that recorded what it reached, and one for each device and kernel of the others', () => {
  const page = pageOf(
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
  )
  expect(page).toContain('| linux-arm64 | blk | swiotlb | 28,32 | all of RAM | 4,300 | 0 | 0 | 140,300 |')
  expect(page).toContain('| works | on-device | i386-swiotlb | disk0 | 2,100 | 0 |')
  expect(page).toContain('| works | on-device | i386-swiotlb | net0 | 681 |')
  expect(page).not.toContain('seabios')
})

test('leaves out whose driver is ours', () => {
  const figures = { reach: 'all of RAM' }
  expect(pageOf({ ...LABELS, role: 'device', peer: 'qemu', backend: 'direct', what: '', figures })).not.toContain(
    'qemu',
  )
})
