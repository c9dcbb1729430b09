import { type ParseArgsConfig, parseArgs } from 'node:util'
import { UsageError } from './errors.ts'

/**
 * `parseArgs` of Node's, whose complaints become usage errors that point to `--help`.
 *
 * @param program its name, as messages begin
 * @param code of the error
 * @throws UsageError
 */
export function readCommandLine<const Config extends ParseArgsConfig>(
  program: string,
  code: string,
  config: Config,
): ReturnType<typeof parseArgs<Config>> {
  try {
    return parseArgs(config)
  } catch (error) {
    // The sentences behind the first one tell how to pass what looks like an option.
    throw new UsageError(code, program, `${(error as Error).message.split('. ')[0]}; see ${program} --help`)
  }
}
