import { Deadline, waitUntil } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'

const pump = (): void => {}

describe('wait/deadline', () => {
  it('passes when the clock says so, and not before', () => {
    let time = 100
    const deadline = new Deadline('dev0', { pump, now: () => time, deadlineMs: 10 }, 1000)
    expect(deadline.ms).toBe(10)
    for (time = 101; time < 110; time++) expect(deadline.passed()).toBe(false)
    expect(deadline.passed()).toBe(true)
  })

  it.each([
    ['stands still', () => 5],
    ['goes back', (call: number) => -call],
    ['is no number', () => Number.NaN],
  ])('passes after a bounded number of rounds with a clock that %s', (_, clock) => {
    let calls = 0
    const deadline = new Deadline('dev0', { pump, now: () => clock(calls++) })
    let rounds = 0
    while (!deadline.passed()) rounds++
    expect(rounds).toBeGreaterThan(1000)
  })

  it('counts only the rounds in which the clock does not move on', () => {
    let rounds = 0
    // A coarse clock: each step takes three rounds.
    const deadline = new Deadline('dev0', { pump, now: () => Math.floor(rounds / 3), deadlineMs: 50 }, 4)
    while (!deadline.passed()) rounds++
    expect(rounds).toBe(150)
  })

  it.each([Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY, -1, null, '10'])(
    'refuses deadlineMs %s',
    async (deadlineMs) => {
      const wait = { pump, deadlineMs: deadlineMs as number }
      const refusal = { code: 'TRANSPORT_WAIT', details: { deadlineMs } }
      expect(() => new Deadline('dev0', wait)).toThrow(expect.objectContaining(refusal))
      await expect(waitUntil(() => true, wait)).rejects.toMatchObject(refusal)
    },
  )
})
