// That each mutant dies is seen by `pnpm test:soak`: driver-mutants.soak.ts and device-mutants.soak.ts.
import { describe, expect, test } from 'vitest'
import { DEVICE_MUTANTS } from './support/device-mutants.ts'
import { DRIVER_MUTANTS } from './support/driver-mutants.ts'
import { edited } from './support/mutant-modules.ts'

describe.each([...DRIVER_MUTANTS, ...DEVICE_MUTANTS])('$file', ({ file, errors }) => {
  test.each(errors)('a mutant, which %s, is an edit of what stands there once', (_, from, to) => {
    expect(from).not.toBe(to)
    expect(() => edited({ file, from, to })).not.toThrow()
  })
})
