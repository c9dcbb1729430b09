import { expect, test } from 'vitest'
import { SCHEMES } from '../src/schemes.ts'

test('each factory makes new schemes that have its id', () => {
  for (const [id, make] of Object.entries(SCHEMES)) {
    expect(make().id).toBe(id)
    expect(make({ poolBytes: 1 << 20 })).not.toBe(make({ poolBytes: 1 << 20 }))
  }
})
