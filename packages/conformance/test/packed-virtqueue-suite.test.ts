import { DESCRIPTOR_F_AVAILABLE, FeatureSet, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { describeVirtqueue, type VirtqueueSuiteOptions } from '../src/index.ts'
import { expectNoticed } from './support/collect.ts'
import { NaivePackedRing } from './support/naive-packed-ring.ts'
import { NaivePackedVirtqueue } from './support/naive-packed-virtqueue.ts'

const PACKED: VirtqueueSuiteOptions = {
  name: 'naive packed virtqueue',
  format: [VIRTIO_F_RING_PACKED],
}

describeVirtqueue({ describe, test, expect }, (options) => new NaivePackedVirtqueue(options), PACKED)

/** A ring that was not told of a feature. */
function without(bit: number): typeof NaivePackedRing {
  return class extends NaivePackedRing {
    constructor(...[size, features, parts]: ConstructorParameters<typeof NaivePackedRing>) {
      super(size, features.without(FeatureSet.of(bit)), parts)
    }
  }
}

// One error each, and the test that has to notice.
const MUTANTS: ReadonlyArray<readonly [error: string, Ring: typeof NaivePackedRing, noticed: RegExp]> = [
  ['ignores IN_ORDER', without(VIRTIO_F_IN_ORDER), /IN_ORDER, one element stands for a batch/],
  [
    'skips one descriptor for each chain',
    class extends NaivePackedRing {
      override complete(id: number): number[] {
        this.counts.set(id, 1)
        return super.complete(id)
      }
    },
    /chains of several descriptors go round a queue of 5/,
  ],
  [
    'never turns the wrap counter of used descriptors',
    class extends NaivePackedRing {
      override complete(id: number): number[] {
        const done = super.complete(id)
        this.usedWrap = true
        return done
      }
    },
    /a queue of 2 is filled/,
  ],
  [
    'takes every descriptor with two equal marks for a used one',
    class extends NaivePackedRing {
      protected override isUsed(flags: number): boolean {
        return super.isUsed(flags) || super.isUsed(flags ^ 0x8080)
      }
    },
    /a used descriptor with the wrong wrap counter is not seen/,
  ],
  [
    'looks at AVAIL alone',
    class extends NaivePackedRing {
      protected override isUsed(flags: number): boolean {
        return ((flags & DESCRIPTOR_F_AVAILABLE) !== 0) === this.usedWrap
      }
    },
    /arm\(\) says/,
  ],
  [
    'believes a length without WRITE',
    class extends NaivePackedRing {
      protected override get lengthNeedsWrite(): boolean {
        return false
      }
    },
    /the length of a chain that the device may not write/,
  ],
  [
    'names no wrap counter to the device',
    class extends NaivePackedRing {
      override get position(): number {
        return super.position & 0x7fff
      }
    },
    /says where the next one goes/,
  ],
  [
    'looks for the event in the first descriptor of a chain alone',
    class extends NaivePackedRing {
      protected override wantsDoorbell(passed: readonly number[]): boolean {
        return super.wantsDoorbell(passed.slice(0, 1))
      }
    },
    /the event may be any descriptor of a chain/,
  ],
  [
    'looks at the offset of the event alone',
    class extends NaivePackedRing {
      protected override wantsDoorbell(passed: readonly number[]): boolean {
        return super.wantsDoorbell([...passed, ...passed.map((position) => position ^ 0x8000)])
      }
    },
    /the doorbell rings if the event lies in the batch/,
  ],
  [
    'knows no disabled events',
    class extends NaivePackedRing {
      protected override wantsDoorbell(passed: readonly number[]): boolean {
        return passed.length > 0
      }
    },
    /with EVENT_IDX too the device switches doorbells off/,
  ],
  [
    'arms at the descriptor behind the next',
    class extends NaivePackedRing {
      protected override writeEvent(descriptor: number, flags: number): void {
        super.writeEvent(flags === 2 ? (descriptor & 0x8000) | ((descriptor + 1) % this.size) : descriptor, flags)
      }
    },
    /arm\(\) says.*event index/,
  ],
  [
    'reads the size of a chain from the ring, which the device writes',
    class extends NaivePackedRing {
      override complete(id: number): number[] {
        let descriptors = 1
        for (let at = this.nextUsed; (this.flagsAt(at) & 1) !== 0 && descriptors < this.size; at = (at + 1) % this.size)
          descriptors++
        this.counts.set(id, descriptors)
        return super.complete(id)
      }
    },
    /overwrites what the driver wrote does no harm/,
  ],
]

describe('describeVirtqueue notices a packed queue that', () => {
  for (const [error, Ring, noticed] of MUTANTS) {
    test(error, () =>
      expectNoticed(
        (functions) =>
          describeVirtqueue(functions, (options) => new NaivePackedVirtqueue(options, Ring), {
            ...PACKED,
            sizes: [2, 8],
          }),
        noticed,
      ),
    )
  }
})
