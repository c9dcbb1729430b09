import { describe, expect, test, vi } from 'vitest'
import { FAULTS_KEPT, FaultLog, observe } from '../src/index.ts'

describe('a fault log', () => {
  test('counts all faults and keeps the last 16, oldest first', () => {
    const log = new FaultLog<number>()
    expect(log.last()).toEqual([])
    for (let i = 0; i < 50; i++) {
      log.record(i)
      const from = Math.max(0, i + 1 - FAULTS_KEPT)
      expect(log.last()).toEqual(Array.from({ length: i + 1 - from }, (_, k) => from + k))
    }
    expect(log.count).toBe(50)
  })

  test('tells its observer of each fault', () => {
    const log = new FaultLog<string>()
    const seen: string[] = []
    log.record('before')
    log.observer = (fault) => seen.push(fault)
    log.record('a')
    log.record('b')
    expect(seen).toEqual(['a', 'b'])
  })

  test('an observer that throws does not unwind the core: it surfaces in a microtask', () => {
    const microtasks: (() => void)[] = []
    vi.stubGlobal('queueMicrotask', (task: () => void) => microtasks.push(task))
    try {
      const log = new FaultLog<number>()
      const error = new Error('from a listener')
      log.observer = () => {
        throw error
      }
      log.record(1)
      log.record(2)
      expect([log.count, log.last()]).toEqual([2, [1, 2]])
      expect(microtasks.length).toBe(2)
      for (const task of microtasks) expect(task).toThrow(error)
    } finally {
      vi.unstubAllGlobals()
    }
  })

  test('observe passes the value on', () => {
    const observer = vi.fn()
    observe(observer, 42)
    expect(observer.mock.calls).toEqual([[42]])
  })
})
