import { type Barrier, exploreHandshake, type HandshakeOptions } from '@guestdma/conformance'
import { DMA_OK, TO_DEVICE } from '@guestdma/dma'
import { DriverQueue } from '@guestdma/virtqueue'
import { describe, expect, test } from 'vitest'

// The largest of these histories take seconds, and more on a busy machine.
const PATIENCE = 240_000

type Shape = Omit<HandshakeOptions, 'eventIndex' | 'start'>

const SHAPES: readonly Shape[] = [
  ...[2, 4].flatMap((size) =>
    [2, 3].flatMap((chains): Shape[] => [
      { direction: 'transmit', size, chains, batch: 1 },
      { direction: 'transmit', size, chains, batch: 2 },
      { direction: 'receive', size, chains, batch: 1 },
    ]),
  ),
  // A frame over two chains that are published one by one, and one that finds too few of them.
  { direction: 'receive', size: 2, chains: 2, batch: 1, needs: 2 },
  { direction: 'receive', size: 4, chains: 4, batch: 2, needs: 2 },
  { direction: 'receive', size: 4, chains: 4, batch: 2, needs: 4 },
]

// The longest histories begin in one place only.
const isLong = ({ direction, chains, needs = 1 }: Shape): boolean =>
  direction === 'receive' && chains === 3 && needs === 1

const HISTORIES: readonly HandshakeOptions[] = SHAPES.flatMap((shape) =>
  [true, false].flatMap((eventIndex) =>
    (isLong(shape) ? [65_534] : [0, 65_534]).map((start) => ({ ...shape, eventIndex, start })),
  ),
)

const name = ({ direction, size, chains, batch, needs = 1, eventIndex, start }: HandshakeOptions): string =>
  `${direction}, ${size} entries, ${chains} chains by ${batch}, ${needs} for a frame, ` +
  `${eventIndex ? 'event index' : 'flags'}, from ${start}`

describe('in no order of loads and stores do both sides sleep while work is left (virtio 1.4 §2.7.7, §2.7.10, §2.7.13.4)', () => {
  test.each(HISTORIES.map((options) => [name(options), options] as const))(
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
  // The device never clears its flags, so without the event index every publication rings and nothing is re-armed.
  const cases: readonly (readonly [Barrier, boolean])[] = [
    ['publish', true],
    ['rearm', true],
    ['arm', true],
    ['arm', false],
    ['flush', true],
    ['flush', false],
  ]
  test.each(cases)(
    '%s, event index %s',
    (without, eventIndex) => {
      const found = SHAPES.filter((shape) => !isLong(shape)).map((shape) =>
        exploreHandshake({ ...shape, eventIndex, without }),
      )
      const lost = found.map((report) => report.lost).find((steps) => steps !== null)
      expect(lost).toContainEqual(expect.stringContaining('its store becomes visible'))
    },
    PATIENCE,
  )
})
