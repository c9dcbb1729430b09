import { DEFAULT_DEADLINE_MS, type Wait } from '@guestdma/transport'

/** Rounds without a moving clock after which a wait ends: more than pass within one tick of the coarsest clock. */
const STILL_ROUNDS = 1 << 22

/** When a wait that blocks ends: after `deadlineMs` on the platform's clock, or where that clock stands still. */
export class Deadline {
  readonly ms: number
  private readonly wait: Wait
  private last = 0
  private elapsed = 0
  private still = 0

  constructor(wait: Wait) {
    this.wait = wait
    this.ms = wait.deadlineMs ?? DEFAULT_DEADLINE_MS
  }

  begin(): void {
    this.last = this.now()
    this.elapsed = 0
    this.still = 0
  }

  /** Asked once in each round. A clock that goes back takes nothing from what has passed. */
  passed(): boolean {
    const time = this.now()
    if (time > this.last) {
      this.elapsed += time - this.last
      this.still = 0
    } else this.still++
    if (!Number.isNaN(time)) this.last = time
    return this.elapsed >= this.ms || this.still >= STILL_ROUNDS
  }

  private now(): number {
    return this.wait.now?.() ?? performance.now()
  }
}
