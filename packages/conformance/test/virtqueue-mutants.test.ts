import { DMA_OK, type DmaMappings, type DmaStatus } from '@guestdma/dma'
import { FeatureSet, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC } from '@guestdma/spec'
import { DriverQueue, type Virtqueue, type VirtqueueOptions } from '@guestdma/virtqueue'
import { describe, test } from 'vitest'
import { describeVirtqueue, ForwardingBackend } from '../src/index.ts'
import { expectNoticed } from './support/collect.ts'

const without =
  (bit: number) =>
  (options: VirtqueueOptions): Virtqueue =>
    new DriverQueue({ ...options, features: options.features.without(FeatureSet.of(bit)) })

// One error each, and the test that has to notice.
const MUTANTS: ReadonlyArray<
  readonly [error: string, make: (options: VirtqueueOptions) => Virtqueue, noticed: RegExp]
> = [
  [
    'rings twice',
    (options) =>
      new DriverQueue({
        ...options,
        doorbell: (index, position) => {
          options.doorbell(index, position)
          options.doorbell(index, position)
        },
      }),
    /at most one doorbell/,
  ],
  ['rings for another queue', (options) => new DriverQueue({ ...options, index: 0 }), /one store makes/],
  ['never rings', (options) => new DriverQueue({ ...options, doorbell: () => {} }), /without EVENT_IDX the device/],
  ['ignores EVENT_IDX', without(VIRTIO_F_EVENT_IDX), /disarmed from the start.*event index/],
  ['ignores IN_ORDER', without(VIRTIO_F_IN_ORDER), /IN_ORDER/],
  ['has no indirect tables', without(VIRTIO_F_INDIRECT_DESC), /indirect tables hold/],
  [
    'publishes each chain by itself',
    (options) =>
      new (class extends DriverQueue {
        override add(readable: number, writable: number): number {
          const id = super.add(readable, writable)
          super.publish()
          return id
        }
      })(options),
    /ring\/publication/,
  ],
  [
    'does not look again after it asked for an interrupt',
    (options) =>
      new (class extends DriverQueue {
        override arm(): boolean {
          super.arm()
          return false
        }
      })(options),
    /arm\(\) says/,
  ],
  [
    'knows no budget',
    (options) =>
      new (class extends DriverQueue {
        override reap(): number {
          return super.reap(this.size)
        }
      })(options),
    /within a budget/,
  ],
  [
    'keeps everything at the end',
    (options) =>
      new (class extends DriverQueue {
        override dispose(): void {}
      })(options),
    /reset\/revokes/,
  ],
  [
    'publishes what is not committed',
    (options) =>
      new DriverQueue({
        ...options,
        backend: new (class extends ForwardingBackend {
          override commitMaps(): DmaStatus {
            return DMA_OK
          }
        })(options.backend),
      }),
    /never meets an incomplete chain/,
  ],
  [
    'believes that everything was written',
    (options) =>
      new DriverQueue({
        ...options,
        backend: new (class extends ForwardingBackend {
          override unmap(m: DmaMappings, row: number): DmaStatus {
            return super.unmap(m, row, m.length[row])
          }
        })(options.backend),
      }),
    /written bytes fill/,
  ],
]

describe('describeVirtqueue notices a queue that', () => {
  for (const [error, make, noticed] of MUTANTS) {
    test(error, () => expectNoticed((functions) => describeVirtqueue(functions, make, { sizes: [1, 8] }), noticed))
  }
})
