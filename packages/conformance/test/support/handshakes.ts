import { type Barrier, exploreHandshake, type HandshakeOptions } from '@guestdma/conformance'

/** The largest of these histories take seconds, and more on a busy machine. */
export const PATIENCE = 240_000

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

/** All histories of a format that are explored, with their names. */
export function histories(packed: boolean): (readonly [name: string, options: HandshakeOptions])[] {
  return shapesOf(packed).flatMap((shape) =>
    [true, false].flatMap((eventIndex) =>
      startsOf(shape)
        .slice(0, isLong(shape) ? 1 : 2)
        .map((start) => ({ ...shape, eventIndex, start }))
        .map((options) => [nameOf(options), options] as const),
    ),
  )
}

/**
 * The barriers that can be taken out, with event index or without. The device never clears its flags, so without the
 * event index every publication rings and nothing is re-armed.
 */
export const BARRIERS: readonly (readonly [without: Barrier, eventIndex: boolean])[] = [
  ['publish', true],
  ['rearm', true],
  ['arm', true],
  ['arm', false],
  ['flush', true],
  ['flush', false],
]

/** The first history with a wake-up that is lost because a barrier is missing, as its steps. */
export function lostWithout(packed: boolean, without: Barrier, eventIndex: boolean): readonly string[] | null {
  for (const shape of shapesOf(packed)) {
    if (isLong(shape)) continue
    const { lost } = exploreHandshake({ ...shape, eventIndex, without })
    if (lost !== null) return lost
  }
  return null
}
