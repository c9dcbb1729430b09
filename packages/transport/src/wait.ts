/** How a driver waits: by letting the platform run, never by spinning on its own. */
export interface Wait {
  /** Runs what may make the device answer: the machine's device side, or nothing where the device runs by itself. */
  pump(): void
  /** Milliseconds on a clock that only goes forward. Default: `performance.now`. */
  now?(): number
  /** The longest wait for a device, in milliseconds. Default 1000. */
  readonly deadlineMs?: number
}

export const DEFAULT_DEADLINE_MS = 1000

/**
 * Pumps until `done()` or the deadline; gives the event loop a turn between attempts. Resolves to whether it was done
 * in time.
 */
export async function waitUntil(done: () => boolean, wait: Wait): Promise<boolean> {
  const now = (): number => wait.now?.() ?? performance.now()
  const deadline = now() + (wait.deadlineMs ?? DEFAULT_DEADLINE_MS)
  for (;;) {
    if (done()) return true
    wait.pump()
    if (done()) return true
    if (now() >= deadline) return false
    await new Promise<void>((resolve) => setTimeout(resolve, 0))
  }
}
