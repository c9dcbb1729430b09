import type { Virtqueue, VirtqueueOptions } from '@guestdma/virtqueue'
import { makeCheck, type TestFunctions } from '../runner/test-functions.ts'
import { describeChains } from './chains.ts'
import { describeFailures } from './failures.ts'
import { describeLies } from './lies.ts'
import { describeNotification } from './notification.ts'
import { describePacked } from './packed.ts'
import { describePublication } from './publication.ts'
import { isPacked, QueueRig, type QueueSuite, type VirtqueueSuiteOptions } from './rig.ts'
import { describeUsed } from './used.ts'

/**
 * Tests the driver's half of a virtqueue against a device's half that knows the format and lies on demand, over an
 * exact IOMMU: what the driver publishes before it is committed, or uses after it was taken back, is a fault.
 *
 * @param makeQueue makes the queue under test
 * @example
 * describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options))
 * @example
 * describeVirtqueue({ describe, test, expect }, makePackedQueue, { format: [VIRTIO_F_RING_PACKED] })
 */
export function describeVirtqueue(
  functions: TestFunctions,
  makeQueue: (options: VirtqueueOptions) => Virtqueue,
  options: VirtqueueSuiteOptions = {},
): void {
  const { describe, test, expect } = functions
  const suite: QueueSuite = {
    test,
    check: makeCheck(expect),
    options,
    packed: isPacked(options),
    make: makeQueue,
    rig: (rigOptions) => new QueueRig(makeQueue, options, rigOptions),
  }
  describe(options.name ?? 'virtqueue', () => {
    describe('chains', () => describeChains(suite))
    describe('publication', () => describePublication(suite))
    describe('notification', () => describeNotification(suite))
    describe('used', () => describeUsed(suite))
    describe('lies', () => describeLies(suite))
    if (suite.packed) describe('packed ring', () => describePacked(suite))
    describe('failures', () => describeFailures(suite))
  })
}
