import type { Virtqueue, VirtqueueOptions } from '@guestdma/virtqueue'
import { type Check, makeCheck, type TestFunctions } from '../runner/test-functions.ts'
import { describeChains } from './chains.ts'
import { describeFailures } from './failures.ts'
import { describeNotification } from './notification.ts'
import { describePublication } from './publication.ts'
import { QueueRig, type QueueRigOptions, type VirtqueueSuiteOptions } from './rig.ts'
import { describeUsed } from './used.ts'

/** What the parts of the suite get. */
export interface QueueSuite {
  readonly test: TestFunctions['test']
  readonly check: Check
  readonly options: VirtqueueSuiteOptions
  readonly make: (options: VirtqueueOptions) => Virtqueue
  /** A queue with its other side. */
  readonly rig: (options?: QueueRigOptions) => QueueRig
}

/**
 * Tests the driver's half of a virtqueue against a device's half that knows the format and lies on demand, over an
 * exact IOMMU: what the driver publishes before it is committed, or uses after it was taken back, is a fault.
 *
 * @param makeQueue makes the queue under test
 * @example
 * describeVirtqueue({ describe, test, expect }, (options) => new SplitVirtqueue(options))
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
    make: makeQueue,
    rig: (rigOptions) => new QueueRig(makeQueue, options, rigOptions),
  }
  describe(options.name ?? 'virtqueue', () => {
    describe('chains', () => describeChains(suite))
    describe('publication', () => describePublication(suite))
    describe('notification', () => describeNotification(suite))
    describe('used', () => describeUsed(suite))
    describe('failures', () => describeFailures(suite))
  })
}
