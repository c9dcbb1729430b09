const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const

/** A wish of the user's that the program ends early. */
export interface Stop {
  /** Aborted by the first signal. */
  readonly signal: AbortSignal
  /** 130 after SIGINT (Ctrl-C), 143 after SIGTERM, `undefined` while there was none. */
  readonly exitCode: number | undefined
}

/**
 * Listens for SIGINT and SIGTERM. The first one aborts `signal`, so that the program can end its workers and keep what
 * it has; the second one ends the process at once.
 */
export function listenForStop(): Stop {
  const controller = new AbortController()
  const stop: { signal: AbortSignal; exitCode: number | undefined } = { signal: controller.signal, exitCode: undefined }
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (stop.exitCode !== undefined) process.exit(stop.exitCode)
      stop.exitCode = EXIT_CODES[name]
      controller.abort()
    })
  }
  return stop
}

/** A turn of the event loop, so that signals and the ends of streams are seen. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** Ends this process when its parent ends: the parent holds the other end of standard input. */
export function endWithParent(): void {
  // Ctrl-C reaches every process of a terminal; the parent decides.
  process.on('SIGINT', () => {})
  process.stdin.on('end', () => process.exit(1)).resume()
  if ('unref' in process.stdin) process.stdin.unref()
}
