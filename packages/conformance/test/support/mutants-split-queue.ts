// The suite of the driver's half, in small. Mutants are loaded into it.
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { describeVirtqueue } from '../../src/index.ts'

describeVirtqueue({ describe, test, expect }, (options) => new DriverQueue(options), {
  sizes: [1, 4],
  badSizes: [0, 65_536],
})
