import { describe, expect, it } from 'vitest'
import { openHandshake } from '../src/threads-handshake.ts'
import { THREADS } from '../src/threads-report.ts'

describe('two threads', () => {
  it.each([
    [false, 'look for it'],
    [true, 'sleep until they are woken'],
  ])('a word comes back from the other thread while both (asleep: %s) %s', async (asleep) => {
    const handshake = await openHandshake(asleep)
    for (let i = 0; i < 50; i++) handshake.round()
    await expect(handshake.close()).resolves.toBeUndefined()
  })

  it('the report has the speeds, the latencies of both, and the handshakes once for each process', () => {
    const at = (median: number): { median: number; p05: number; p95: number } => ({ median, p05: 1, p95: 9000 })
    const of = { backend: 'direct', bytes: 64, batch: 32, oneCore: 2e6, twoCores: 3e6 } as const
    const times = { latencyOneCore: at(300), latencyTwoCores: at(600), handshake: at(150), handshakeAsleep: at(4000) }
    const text = THREADS.format([
      { ...of, ...times, ring: 'split' },
      { ...of, ...times, ring: 'packed' },
    ])
    expect(text).toMatch(/^direct +packed +2,000,000 +3,000,000 +1\.50$/m)
    expect(text).toMatch(/^direct +packed +2 +600 +1 +9,000$/m)
    expect(text.match(/both sleep +4,000 +1 +9,000$/gm)).toHaveLength(1)
  })
})
