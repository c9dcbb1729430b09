import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { BenchReport } from '@guestdma/bench'
import { expect, test } from 'vitest'

const file = (name: string): string => fileURLToPath(new URL(`../src/${name}`, import.meta.url))

test('a workload of one file is measured over each scheme that it names', { timeout: 60_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-rpc-64-'))
  try {
    const json = join(dir, 'report.json')
    await promisify(execFile)(process.execPath, [file('main.ts'), '--only', 'call 64 map', '--json', json])
    const { complete, results } = JSON.parse(readFileSync(json, 'utf8')) as BenchReport
    expect(complete).toBe(true)
    expect(results.map(({ backend }) => backend)).toEqual(['direct', 'shared-pool', 'on-device', 'virtio-iommu'])
    for (const { nsPerOperation, counters } of results) {
      expect(nsPerOperation.median).toBeGreaterThan(0)
      // A buffer of the driver's own goes out with its header, and one comes in.
      expect(counters.maps).toBe(2)
    }
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test('the workload is one file of 25 lines', () => {
  const lines = readFileSync(file('rpc-64.ts'), 'utf8').split('\n')
  expect(lines.length - 1).toBeLessThanOrEqual(25)
})
