import { SplitVirtqueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { describeVirtqueue } from '../src/index.ts'

describeVirtqueue({ describe, test, expect }, (options) => new SplitVirtqueue(options), { name: 'split virtqueue' })
