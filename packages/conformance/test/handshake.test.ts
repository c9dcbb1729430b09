import { exploreHandshake, type HandshakeOptions } from '@guestdma/conformance'
import { DMA_OK, TO_DEVICE } from '@guestdma/dma'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'
import { BARRIERS, histories, lostWithout, PATIENCE } from './support/handshakes.ts'

describe('in no order of loads and stores do both sides sleep while work is left (virtio 1.4 §2.7.7, §2.7.10, §2.7.13.4)', () => {
  test.each(histories(false))(
    '%s',
    { tags: ['2.7.13.4.1/barrier', '6.1/order-platform-barriers'], timeout: PATIENCE },
    (_, options) => {
      const { states, lost } = exploreHandshake(options)
      expect(lost).toBeNull()
      expect(states).toBeGreaterThan(50)
    },
  )
})

test('an index that is stored otherwise than by storeThenLoad is an error', () => {
  const make: HandshakeOptions['make'] = (options) => {
    const queue = new DriverQueue(options)
    const { region, offset, device } = options.backend.alloc(8, 8, TO_DEVICE, 'ring')
    queue.publish = () => {
      region.u16[(queue.areas.driver - device + offset) / 2 + 1] = 1
      return DMA_OK
    }
    return queue
  }
  const history = { direction: 'transmit', size: 2, chains: 2, batch: 1, eventIndex: true, make } as const
  expect(() => exploreHandshake(history)).toThrow(
    expect.objectContaining({ code: 'CHECK_PLAIN_STORE', part: 'driver' }),
  )
})

describe('each of the four barriers is needed: without it a wake-up is lost', () => {
  test.each(BARRIERS)(
    '%s, event index %s',
    (without, eventIndex) => {
      expect(lostWithout(false, without, eventIndex)).toContainEqual(
        expect.stringContaining('its store becomes visible'),
      )
    },
    PATIENCE,
  )
})
