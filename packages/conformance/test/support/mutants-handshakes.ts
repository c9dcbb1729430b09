// The smallest histories of the explorer. Mutants are loaded into it.
import { describe, expect, test } from 'vitest'
import { exploreHandshake } from '../../src/index.ts'
import { histories } from './handshakes.ts'

describe.each([false, true])('packed %s', (packed) => {
  const small = histories(packed).filter(([, { chains, size, batch, start = 0 }]) => {
    return chains === 2 && size === 2 && batch === 1 && start > 0
  })
  test.each(small)('%s', (_, options) => {
    expect(exploreHandshake(options).lost).toBeNull()
  })
})
