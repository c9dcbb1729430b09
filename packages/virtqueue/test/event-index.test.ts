import { describe, expect, test } from 'vitest'
import { crosses } from '../src/index.ts'

// As the specification says it (virtio 1.4 §2.7.7.2): an entry is placed at each index from the old one on, and
// notifies if it equals the event.
function placed(event: number, now: number, old: number): boolean {
  for (let index = old; index !== now; index = (index + 1) & 0xffff) if (index === event) return true
  return false
}

describe('ring/notification: the event-index test', () => {
  const edges = [0, 1, 2, 3, 100, 0x7fff, 0x8000, 0x8001, 0xfffd, 0xfffe, 0xffff]

  test('says whether an entry was placed at the event, for all pairs of edges and batches', {
    tags: ['2.7.10.1/avail-event', '2.7.10.1/other-entries'],
  }, () => {
    for (const old of edges) {
      for (const batch of [0, 1, 2, 3, 5, 256, 0x7fff, 0x8000]) {
        for (const event of edges.flatMap((edge) => [
          edge,
          (old + batch) & 0xffff,
          (old + batch - 1) & 0xffff,
          (old - 1) & 0xffff,
        ])) {
          const now = (old + batch) & 0xffff
          expect([event, now, old, crosses(event, now, old)]).toEqual([event, now, old, placed(event, now, old)])
        }
      }
    }
  })

  test('agrees with the formula of virtio 1.4 §2.7.10 as Linux has it', () => {
    const needEvent = (event: number, now: number, old: number): boolean =>
      ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
    for (let i = 0; i < 20_000; i++) {
      const [event, old, batch] = [(i * 7919) & 0xffff, (i * 104_729) & 0xffff, (i * 31) & 0x7fff]
      const now = (old + batch) & 0xffff
      if (crosses(event, now, old) !== needEvent(event, now, old)) expect([event, now, old]).toBe('the same')
    }
    expect(crosses(0, 1, 0)).toBe(true)
  })

  test('an index that did not move passes nothing', () => {
    for (const index of edges) for (const event of edges) expect(crosses(event, index, index)).toBe(false)
  })
})
