import { exploreHandshake, type HandshakeOptions } from '@guestdma/conformance'
import { DMA_OK, TO_DEVICE } from '@guestdma/dma'
import { DESCRIPTOR_F_AVAILABLE } from '@guestdma/spec'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { BARRIERS, histories, lostWithout, PATIENCE } from './support/handshakes.ts'

describe('in no order of loads and stores do both sides of a packed ring sleep while work is left (virtio 1.4 §2.8.10, §2.8.21, §2.8.22)', () => {
  test.each(histories(true))(
    '%s',
    { tags: ['2.8.21.1.1/barrier', '2.8.21.3.1/barrier', '6.1/order-platform-barriers'], timeout: PATIENCE },
    (_, options) => {
      const { states, lost } = exploreHandshake(options)
      expect(lost).toBeNull()
      expect(states).toBeGreaterThan(50)
    },
  )
})

test.each([
  ['an event field', 'driver', 0, 'CHECK_PLAIN_STORE', 'driver'],
  ['the marks of a descriptor that the device looks at', 'descriptor', 3, 'CHECK_UNPUBLISHED', 'device'],
] as const)('%s, stored otherwise than by storeWordThenLoad, is an error', (_, area, word, code, part) => {
  const make: HandshakeOptions['make'] = (options) => {
    const queue = new DriverQueue(options)
    const { region, offset, device } = options.backend.alloc(8, 8, TO_DEVICE, 'ring')
    queue.publish = () => {
      region.u32[(queue.areas[area] - device + offset) / 4 + word] = DESCRIPTOR_F_AVAILABLE << 16
      return DMA_OK
    }
    return queue
  }
  const history = { packed: true, direction: 'receive', size: 2, chains: 1, batch: 1, eventIndex: true, make } as const
  expect(() => exploreHandshake(history)).toThrow(expect.objectContaining({ code, part }))
})

describe('each of the four barriers is needed: without it a wake-up is lost', () => {
  test.each(BARRIERS)(
    '%s, event index %s',
    (without, eventIndex) => {
      expect(lostWithout(true, without, eventIndex)).toContainEqual(
        expect.stringContaining('its store becomes visible'),
      )
    },
    PATIENCE,
  )
})
