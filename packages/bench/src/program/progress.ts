/** Milliseconds between two changes of the line. */
const INTERVAL_MS = 100
/** No time left is told before: the first estimates are far off. */
const FIRST_ESTIMATE_MS = 1000

/** One line on a terminal that is overwritten, with an estimate of the time left. It prints nothing in a pipe. */
export class Progress {
  private readonly stream: NodeJS.WriteStream
  private readonly start: number = performance.now()
  private shown = -Infinity

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.stream = stream
  }

  /**
   * Shows what is being done.
   *
   * @param text cut to the terminal's width
   * @param fraction how much of all work is done, from 0 to 1; the time left follows from it
   */
  show(text: string, fraction?: number): void {
    const now = performance.now()
    if (!this.stream.isTTY || now - this.shown < INTERVAL_MS) return
    this.shown = now
    const elapsed = now - this.start
    let line = text
    if (fraction !== undefined) {
      line = `${Math.floor(fraction * 100)} % ${text}`
      if (fraction > 0 && elapsed >= FIRST_ESTIMATE_MS)
        line += `, ${duration((elapsed * (1 - fraction)) / fraction)} left`
    }
    this.stream.write(`\r\x1b[K${line.slice(0, Math.max(10, (this.stream.columns ?? 80) - 1))}`)
  }

  /** Removes the line. The next one is shown at once. */
  clear(): void {
    if (this.stream.isTTY && this.shown !== -Infinity) this.stream.write('\r\x1b[K')
    this.shown = -Infinity
  }
}

function duration(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000)
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}
