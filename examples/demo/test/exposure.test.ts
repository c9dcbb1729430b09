import { beforeAll, describe, expect, test } from 'vitest'
import { type Attempt, type Exposure, expose } from '../src/exposure.ts'
import { SCHEMES, type TransportName } from '../src/schemes.ts'

/** What is expected of a scheme; attempts in the order of the table. */
interface Expected {
  readonly attempts: readonly [neighbour: string, elsewhere: string, write: string, completed: string, later: string]
  /** Secrets in what can be read around the frame. */
  readonly secrets: number
  /** Bytes that can be read before and behind the frame, together. */
  readonly around: number
}

const FRAME = 256
const MEMORY = 8 << 20
const pool: Expected = {
  attempts: ['zeros', 'fault', 'copy only', 'old frame', 'old frame'],
  secrets: 0,
  around: (4 << 20) - FRAME,
}
const shared = 4096 - FRAME

const EXPECTED: Readonly<Record<string, Expected>> = {
  direct: {
    attempts: ['secret read', 'secret read', 'lands', 'secret read', 'secret read'],
    secrets: 2,
    around: MEMORY - FRAME,
  },
  'shared-pool': pool,
  'on-device': pool,
  'virtio-iommu': { attempts: ['secret read', 'fault', 'fault', 'fault', 'fault'], secrets: 1, around: shared },
  'virtio-iommu-lazy': {
    attempts: ['secret read', 'fault', 'fault', 'secret read', 'fault'],
    secrets: 1,
    around: shared,
  },
  'virtio-iommu-byte': { attempts: ['fault', 'fault', 'fault', 'fault', 'fault'], secrets: 0, around: 0 },
  'virtio-iommu-bounce': { attempts: ['zeros', 'fault', 'fault', 'fault', 'fault'], secrets: 0, around: shared },
  'virtio-iommu-simple': pool,
  // The page before it is shared as well: it belongs to the driver's own cells.
  'shared-pages': { attempts: ['secret read', 'fault', 'lands', 'fault', 'fault'], secrets: 1, around: shared + 4096 },
}

test('every scheme of the demo has an expectation', () => {
  expect(Object.keys(EXPECTED)).toEqual(Object.keys(SCHEMES))
})

describe.each(['mmio', 'pci'] as const)('asked for over %s', (asked: TransportName) => {
  describe.each(Object.entries(EXPECTED))('a device that reaches further under %s', (id, expected) => {
    let found: Exposure
    beforeAll(async () => {
      found = await expose(id, SCHEMES[id], asked)
    })
    const attempts = (): readonly Attempt<string>[] => [
      found.neighbour,
      found.elsewhere,
      found.write,
      found.completed,
      found.later,
    ]

    test('gets this', () => {
      expect(attempts().map(({ outcome }) => outcome)).toEqual(expected.attempts)
    })

    test('each refused attempt is one fault, and nothing else is', () => {
      expect(attempts().map(({ faults }) => faults)).toEqual(
        expected.attempts.map((outcome) => (outcome === 'fault' ? 1 : 0)),
      )
      expect(found.faults).toBeGreaterThanOrEqual(expected.attempts.filter((outcome) => outcome === 'fault').length)
    })

    test('reads so much around the frame', () => {
      const { before, behind, secrets } = found.around
      expect([before + behind, secrets]).toEqual([expected.around, expected.secrets])
    })

    test('an IOMMU tells the guest of every fault, and nobody else does', () => {
      expect(found.reported).toBe(id.startsWith('virtio-iommu') ? found.faults : 0)
    })

    test('is shown over the transport that was asked for, unless it has only one', () => {
      expect(found.transport).toBe(id === 'on-device' ? 'pci' : asked)
      expect(found.buffer.length).toBe(FRAME)
    })
  })
})
