import { TransportError } from './errors.ts'

/** How a driver waits: by letting the platform run, never by spinning on its own. */
export interface Wait {
  /** Runs what may make the device answer: the machine's device side, or nothing where the device runs by itself. */
  pump(): void
  /** Milliseconds on a clock that only goes forward. Default: `performance.now`. */
  now?(): number
  /** The longest wait for a device, in milliseconds: a finite number, 0 or more. Default 1000. */
  readonly deadlineMs?: number
}

export const DEFAULT_DEADLINE_MS = 1000

/**
 * Rounds in a row in which the clock may stand still. In a loop that blocks the thread a round may take 50 ns and a
 * clock may have steps of 100 ms; with a turn of the event loop a round takes a millisecond or more.
 */
const STILL_ROUNDS = 2 ** 22
const STILL_TURNS = 2000

/**
 * The longest wait that `wait` asks for, in milliseconds.
 *
 * @throws TransportError `TRANSPORT_WAIT`: `deadlineMs` is no finite number from 0 on
 */
export function deadlineMsOf(part: string, { deadlineMs = DEFAULT_DEADLINE_MS }: Wait): number {
  if (Number.isFinite(deadlineMs) && deadlineMs >= 0) return deadlineMs
  const text = `deadlineMs ${String(deadlineMs)} must be a finite number of milliseconds, 0 or more`
  throw new TransportError('TRANSPORT_WAIT', part, text, { deadlineMs })
}

/**
 * The end of a wait. A clock that goes back takes nothing from what has passed; one that stands still or gives NaN ends
 * the wait as well, after so many rounds.
 *
 * @example
 * for (const deadline = new Deadline(name, wait); !answered(); ) {
 *   wait.pump()
 *   if (deadline.passed()) throw new MyError(deadline.ms)
 * }
 */
export class Deadline {
  /** The longest wait, in milliseconds. */
  readonly ms: number
  private readonly wait: Wait
  private readonly stillRounds: number
  private latest = 0
  private elapsed = 0
  private still = 0

  /**
   * A wait begins here, and anew with each {@link begin}. `stillRounds`: how many calls of {@link passed} in a row may find that the clock stands still.
   *
   * @throws TransportError `TRANSPORT_WAIT`, as {@link deadlineMsOf}
   */
  constructor(part: string, wait: Wait, stillRounds: number = STILL_ROUNDS) {
    this.ms = deadlineMsOf(part, wait)
    this.wait = wait
    this.stillRounds = stillRounds
    this.begin()
  }

  /** Begins the next wait: for whoever waits often and allocates nothing for it. */
  begin(): void {
    this.latest = this.now()
    this.elapsed = 0
    this.still = 0
  }

  /** Is the time over? To be called once in each round of the wait. */
  passed(): boolean {
    const now = this.now()
    if (now > this.latest) {
      this.elapsed += now - this.latest
      this.still = 0
    } else this.still++
    if (!Number.isNaN(now)) this.latest = now
    return this.elapsed >= this.ms || this.still >= this.stillRounds
  }

  private now(): number {
    return this.wait.now?.() ?? performance.now()
  }
}

/**
 * Pumps until `done()` or the deadline; gives the event loop a turn between attempts. Resolves to whether it was done
 * in time. A `deadline` that the caller made began when it was made.
 *
 * @throws TransportError `TRANSPORT_WAIT`, as {@link deadlineMsOf}
 */
export async function waitUntil(
  done: () => boolean,
  wait: Wait,
  deadline: Deadline = turnsUntil('wait', wait),
): Promise<boolean> {
  for (;;) {
    if (done()) return true
    wait.pump()
    if (done()) return true
    if (deadline.passed()) return false
    await new Promise<void>((resolve) => setTimeout(resolve, 0))
  }
}

/** A deadline for {@link waitUntil}. Throws as that does. */
export function turnsUntil(part: string, wait: Wait): Deadline {
  return new Deadline(part, wait, STILL_TURNS)
}
