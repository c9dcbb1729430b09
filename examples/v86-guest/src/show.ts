// A program that shows something and checks that it is so.

/** What a run found. */
export interface Shown {
  readonly checks: readonly { readonly what: string; readonly ok: boolean }[]
  /** For each kernel that was booted: what became of its devices. */
  readonly runs: readonly { readonly kernel: string; readonly devices: readonly object[] }[]
}

interface Wanted {
  readonly json: boolean
  /** What the run shows, in a few words. */
  readonly what: string
  run(print: (line: string) => void): Promise<Shown>
}

/** Runs it, prints what was found and ends the process: with 0 if all checks hold. A string is the help. */
export async function showProgram(name: string, read: () => Promise<Wanted | string>): Promise<never> {
  try {
    const wanted = await read()
    if (typeof wanted === 'string') process.stdout.write(wanted)
    else process.exitCode = await show(wanted)
  } catch (error) {
    console.error(`${name}: ${(error as Error).message}`)
    process.exitCode = 1
  }
  // What keeps running in a v86 that was not ended is of no interest any more.
  process.exit()
}

async function show({ json, what, run }: Wanted): Promise<number> {
  const { checks, runs } = await run((line) => {
    if (!json) console.log(line)
  })
  const ok = checks.every((check) => check.ok)
  if (json) console.log(JSON.stringify({ ok, what, checks, runs }, null, 2))
  else {
    console.log(`\nThis shows ${what}:`)
    for (const check of checks) console.log(`  ${check.ok ? '✓' : '✗'} ${check.what}`)
  }
  return ok ? 0 : 1
}
