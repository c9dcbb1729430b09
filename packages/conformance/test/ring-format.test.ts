import { type DeviceRing, PackedDeviceRing, type RingOwner, SplitDeviceRing } from '@guestdma/devices/ring'
import { type DriverRing, type DriverRingSetup, packedFormat, type RingFormat, splitFormat } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { describeRingFormat, type RingFormatHalves } from '../src/index.ts'
import { collect } from './support/collect.ts'

const split = (owner: RingOwner): DeviceRing => new SplitDeviceRing(owner)
const packed = (owner: RingOwner): DeviceRing => new PackedDeviceRing(owner)

describeRingFormat(
  { describe, test, expect },
  { name: 'split ring', packed: false, driver: splitFormat, device: split },
)
describeRingFormat(
  { describe, test, expect },
  { name: 'packed ring', packed: true, driver: packedFormat, device: packed },
)

/** A format whose rings are changed after they were made. */
const changed = (format: RingFormat, change: (ring: DriverRing) => void): RingFormat => ({
  ...format,
  ring(setup: DriverRingSetup): DriverRing {
    const ring = format.ring(setup)
    change(ring)
    return ring
  },
})

// One error each, and the test that has to notice.
const MUTANTS: readonly (readonly [error: string, halves: Omit<RingFormatHalves, 'name'>, noticed: RegExp])[] = [
  ...[
    { packed: false, format: splitFormat },
    { packed: true, format: packedFormat },
  ].map(
    ({ packed: isPacked, format }) =>
      [
        `a driver's half that never looks after it asked for an interrupt (${isPacked ? 'packed' : 'split'})`,
        {
          packed: isPacked,
          driver: changed(format, (ring) => {
            const arm = ring.arm.bind(ring)
            ring.arm = () => arm() && false
          }),
        },
        /no wake-up is lost/,
      ] as const,
  ),
  ...[split, packed].flatMap((make) => {
    const isPacked = make === packed
    const name = isPacked ? 'packed' : 'split'
    const device = (change: (ring: DeviceRing) => void) => (owner: RingOwner) => {
      const ring = make(owner)
      change(ring)
      return ring
    }
    return [
      [
        `a device's half that says one byte less (${name})`,
        {
          packed: isPacked,
          device: device((ring) => {
            const push = ring.push.bind(ring)
            ring.push = (id, written, whole) => push(id, Math.max(0, written - 1), whole)
          }),
        },
        /chains of all shapes/,
      ],
      [
        `a device's half that gives every chain back twice (${name})`,
        {
          packed: isPacked,
          device: device((ring) => {
            const push = ring.push.bind(ring)
            ring.push = (id, written, whole) => {
              push(id, written, false)
              push(id, written, whole)
            }
          }),
        },
        /chains of all shapes/,
      ],
      [
        `a device's half that does not look again before it sleeps (${name})`,
        {
          packed: isPacked,
          device: device((ring) => {
            const rearm = ring.rearm.bind(ring)
            ring.rearm = () => rearm() && false
          }),
        },
        /no wake-up is lost \(receive/,
      ],
    ] as const
  }),
]

describe('describeRingFormat notices', () => {
  test.each(MUTANTS)('%s', async (_error, halves, noticed) => {
    const { ran, failed } = await collect(
      (functions) => describeRingFormat(functions, { name: 'mutant', ...halves }),
      noticed,
    )
    expect(ran).toBeGreaterThan(0)
    expect(failed.length).toBeGreaterThan(0)
  })
})
