import { type Barrier, exploreHandshake, type HandshakeOptions } from '@guestdma/conformance'
import { describe, expect, test } from 'vitest'

// The largest of these histories take seconds, and more on a busy machine.
const PATIENCE = 240_000

type Shape = Omit<HandshakeOptions, 'eventIndex' | 'start'>

function shapesOf(packed: boolean): Shape[] {
  return [
    ...(packed ? [2, 3, 4] : [2, 4]).flatMap((size) =>
      [2, 3].flatMap((chains): Shape[] => [
        { packed, direction: 'transmit', size, chains, batch: 1 },
        { packed, direction: 'transmit', size, chains, batch: 2 },
        { packed, direction: 'receive', size, chains, batch: 1 },
      ]),
    ),
    // A frame over two chains that are published one by one, and one that finds too few of them.
    { packed, direction: 'receive', size: 2, chains: 2, batch: 1, needs: 2 },
    { packed, direction: 'receive', size: 4, chains: 4, batch: 2, needs: 2 },
    { packed, direction: 'receive', size: 4, chains: 4, batch: 2, needs: 4 },
  ]
}

// The longest histories begin in one place only.
function isLong({ direction, chains, needs = 1 }: Shape): boolean {
  return direction === 'receive' && chains === 3 && needs === 1
}

// Where a split ring's indices wrap, and a packed ring's counters: the second time they are 1 again.
function startsOf({ packed, size }: Shape): number[] {
  return packed === true ? [size - 1, 2 * size - 1] : [65_534, 0]
}

function nameOf({ direction, size, chains, batch, needs = 1, eventIndex, start }: HandshakeOptions): string {
  const mode = eventIndex ? 'event index' : 'flags'
  return `${direction}, ${size} entries, ${chains} chains by ${batch}, ${needs} for a frame, ${mode}, from ${start}`
}

/** In no history does a side sleep for ever. `tags`: the sentences that ask for the barriers. */
export function testHandshakes(packed: boolean, tags: string[]): void {
  const histories = shapesOf(packed).flatMap((shape) =>
    [true, false].flatMap((eventIndex) =>
      startsOf(shape)
        .slice(0, isLong(shape) ? 1 : 2)
        .map((start) => ({ ...shape, eventIndex, start })),
    ),
  )
  test.each(histories.map((options) => [nameOf(options), options] as const))(
    '%s',
    { tags, timeout: PATIENCE },
    (_, options) => {
      const { states, lost } = exploreHandshake(options)
      expect(lost).toBeNull()
      expect(states).toBeGreaterThan(50)
    },
  )
}

/** With any of the four barriers taken out there is a history in which a side does. */
export function testBarriers(packed: boolean): void {
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
        const found = shapesOf(packed)
          .filter((shape) => !isLong(shape))
          .map((shape) => exploreHandshake({ ...shape, eventIndex, without }))
        const lost = found.map((report) => report.lost).find((steps) => steps !== null)
        expect(lost).toContainEqual(expect.stringContaining('its store becomes visible'))
      },
      PATIENCE,
    )
  })
}
