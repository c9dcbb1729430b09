import { GuestDmaError } from '@guestdma/memory'

/** A command line that cannot be followed. A program that meets it ends with exit code {@link EXIT_USAGE}. */
export class UsageError<Code extends string = string> extends GuestDmaError<Code> {}

/** The exit code of a program whose command line is wrong. */
export const EXIT_USAGE = 2

/**
 * Runs a program and sets its exit code: what `main` returns; {@link EXIT_USAGE} after a {@link UsageError}, 1 after any
 * other error, whose message goes to standard error (its stack too, where DEBUG is set).
 */
export async function runProgram(main: (args: readonly string[]) => Promise<number>): Promise<void> {
  try {
    process.exitCode = await main(process.argv.slice(2))
  } catch (error) {
    const text = error instanceof UsageError ? `${error.message} (${error.code})` : (error as Error).message
    process.stderr.write(process.env.DEBUG ? `${(error as Error).stack}\n` : `${text}\n`)
    process.exitCode = error instanceof UsageError ? EXIT_USAGE : 1
  }
}
