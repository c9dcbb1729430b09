import type { DeviceRing, RingOwner } from '@guestdma/devices/ring'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { DriverQueue, type RingFormat } from '@guestdma/virtqueue'
import { exploreHandshake } from '../handshake/explorer.ts'
import { describeVirtqueue } from '../queues/suite.ts'
import { makeCheck, type TestFunctions } from '../runner/test-functions.ts'
import { RingPair } from './pair.ts'

/** Halves of a ring format: what somebody wrote beside, or in place of, those that come with the library. */
export interface RingFormatHalves {
  /** Heads the tests. */
  readonly name: string
  /** The format of the ring in memory: packed (virtio 1.4 §2.8), or split (§2.7). */
  readonly packed: boolean
  /** The driver's half. Default: the library's, which is then not tested by itself. */
  readonly driver?: RingFormat
  /** The device's half. Default: the library's. */
  readonly device?: (owner: RingOwner) => DeviceRing
}

/**
 * Tests of a ring format. The driver's half is judged by the suite of queues; each half is put together with the
 * library's other half and with the other one that was given, carries chains of all shapes there, and is run through all
 * orders of loads and stores of small histories in which a wake-up could be lost.
 *
 * @example
 * describeRingFormat({ describe, test, expect }, { name: 'my split ring', packed: false, driver: mySplitFormat })
 */
export function describeRingFormat(functions: TestFunctions, halves: RingFormatHalves): void {
  const { describe, test, expect } = functions
  const { device, driver, name, packed } = halves
  const check = makeCheck(expect)
  describe(name, () => {
    if (driver !== undefined) {
      const format = packed ? [VIRTIO_F_RING_PACKED] : []
      describeVirtqueue(functions, (options) => new DriverQueue(options, driver), { name: "driver's half", format })
    }
    const pairs: [string, Pick<RingFormatHalves, 'driver' | 'device'>][] = []
    if (driver !== undefined && device !== undefined) pairs.push(['both halves', { driver, device }])
    if (driver !== undefined) pairs.push(["the driver's half with the library's device", { driver }])
    if (device !== undefined) pairs.push(["the device's half with the library's driver", { device }])
    for (const [title, pair] of pairs) {
      describe(title, () => {
        for (const size of packed ? [1, 2, 3, 5, 16, 64] : [1, 2, 4, 16, 64]) {
          test(`ring/chains: chains of all shapes go through a ring of ${size}, once each and unchanged`, () => {
            for (let bits = 0; bits < 8; bits++) {
              const options = { eventIndex: (bits & 1) > 0, indirect: (bits & 2) > 0, inOrder: (bits & 4) > 0 }
              const random = randomFrom(1 + bits + 8 * size)
              const both = new RingPair(check, random, {
                size,
                packed,
                driver: pair.driver,
                device: pair.device,
                ...options,
              })
              const laps = 6 * size + 40
              for (let step = 0; step < laps; step++) {
                both.add(random(4))
                if (random(3) > 0) both.take(1 + random(8))
                if (random(3) > 0) both.give(random(8))
                if (random(3) > 0) both.reap()
              }
              both.drain()
              check('chains went through', both.done > 0, true)
            }
          })
        }

        for (const direction of ['transmit', 'receive'] as const) {
          for (const eventIndex of [false, true]) {
            test(`ring/notification: no wake-up is lost (${direction}, ${eventIndex ? 'event index' : 'flags'})`, () => {
              const report = exploreHandshake({
                direction,
                chains: 2,
                batch: 1,
                size: 2,
                eventIndex,
                packed,
                ...(pair.driver === undefined ? {} : { make: (options) => new DriverQueue(options, pair.driver) }),
                ...(pair.device === undefined ? {} : { device: pair.device }),
              })
              check('a history after which both sides sleep', report.lost, null)
              check('states were reached', report.states > 10, true)
            })
          }
        }
      })
    }
  })
}

// mulberry32.
function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
