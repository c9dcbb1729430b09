interface Timer {
  readonly at: number
  readonly fire: () => void
}

/**
 * Time that passes only when it is told to. While {@link during} runs, `performance.now`, `Date.now`, `setTimeout` and
 * `clearTimeout` go by it, whoever calls them: a scheme needs to know nothing of it.
 */
export class VirtualClock {
  /** Milliseconds since the clock was made. */
  now = 0
  private timers: Timer[] = []

  /** Runs `body`, which must not wait for anything: the whole thread goes by this clock until it returns. */
  during<T>(body: () => T): T {
    const { clearTimeout, setTimeout } = globalThis
    const { now } = Date
    const read = (): number => this.now
    Object.defineProperty(performance, 'now', { value: read, configurable: true, writable: true })
    Date.now = read
    globalThis.setTimeout = ((fire: (...values: unknown[]) => void, milliseconds = 0, ...values: unknown[]) =>
      this.later(milliseconds, () => fire(...values))) as unknown as typeof setTimeout
    globalThis.clearTimeout = ((timer: unknown) => {
      if (this.timers.includes(timer as Timer)) this.timers = this.timers.filter((one) => one !== timer)
      // Set before this clock was in place.
      else clearTimeout(timer as ReturnType<typeof setTimeout>)
    }) as typeof clearTimeout
    try {
      return body()
    } finally {
      // What stands on the prototype shows again.
      Reflect.deleteProperty(performance, 'now')
      Date.now = now
      globalThis.setTimeout = setTimeout
      globalThis.clearTimeout = clearTimeout
    }
  }

  /** Lets time pass until `end`. `passed` is told of each stretch, and `fired` of each timer, right after it. */
  until(end: number, passed: (milliseconds: number) => void, fired: () => void): void {
    for (;;) {
      const [next] = this.timers
      const to = next === undefined || next.at > end ? end : next.at
      if (to > this.now) {
        passed(to - this.now)
        this.now = to
      }
      if (next === undefined || next.at > end) return
      this.timers.shift()
      next.fire()
      fired()
    }
  }

  private later(milliseconds: number, fire: () => void): Timer {
    // A timer of 0 that sets itself again must not hold the time up.
    const timer = { at: this.now + Math.max(milliseconds, 1), fire, unref: () => timer, ref: () => timer }
    const behind = this.timers.findIndex(({ at }) => at > timer.at)
    this.timers.splice(behind < 0 ? this.timers.length : behind, 0, timer)
    return timer
  }
}
