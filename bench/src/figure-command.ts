import { type Command, type Host, readArguments, readEnvironment } from '@guestdma/bench'
import { checkOutputs, listenForStop, Progress, writeJson } from '@guestdma/bench/program'
import { type FigureProgram, runFigures } from './figure-program.ts'

/** A command that runs a program of this folder and prints its figures. */
export function figureCommand<Figure>(host: Host, program: FigureProgram<Figure>): Command {
  const { name, schema, what, needs, total, format } = program
  return {
    name,
    usage: '[--json FILE]',
    summary: what,
    details: `${needs === undefined ? '' : `needs ${needs}\n\n`}  --json FILE     also write the figures, as they come\n  --help          this text\n`,
    async run(args, title) {
      const { values } = readArguments(
        title,
        args,
        { json: { type: 'string' } },
        { least: 0, most: 0, what: 'no file is needed' },
      )
      const { json } = values
      checkOutputs([{ option: '--json', path: json }])
      const progress = new Progress()
      await host.prepare?.(progress)
      const stop = listenForStop()
      const environment = readEnvironment()
      let all: readonly Figure[] = []
      const save = (complete: boolean): void => {
        writeJson(json, { schema, complete, environment, figures: all })
      }
      progress.show(name, 0)
      const { failure } = await runFigures(program, stop.signal, (sofar) => {
        all = sofar
        save(false)
        progress.show(name, all.length / total)
      })
      progress.clear()
      const complete = failure === undefined && !stop.signal.aborted
      save(complete)
      process.stdout.write(format(all))
      if (!complete) process.stdout.write('This report is PARTIAL: cases are missing.\n')
      if (failure !== undefined && !stop.signal.aborted) process.stderr.write(`${title}: ${failure}\n`)
      return stop.exitCode ?? (complete ? 0 : 1)
    },
  }
}
