// How a program that makes something for guests runs others, and ends.
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { parseArgs } from 'node:util'
import { GuestError } from './guest-cache.mjs'

/** Lines that an error quotes. */
const QUOTED = 15

let running = null

/**
 * Runs a program to its end, quietly: its last lines are shown where it fails, and its last one on a terminal.
 *
 * @param {readonly string[]} command
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, code: string, what: string }} options `what` is told where it fails
 * @returns {Promise<string>} what it printed
 */
export function runQuietly([program, ...args], { cwd, env = process.env, code, what }) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
    running = child
    let printed = ''
    const take = (text) => {
      printed += text
      show(`${what}: ${text.trimEnd().split('\n').at(-1).trim()}`)
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    child.on('error', (error) => reject(new GuestError(code, `${what}: ${error.message}`)))
    child.on('close', (status, signal) => {
      show('')
      if (status === 0) return resolve(printed)
      const last = printed.trimEnd().split('\n').slice(-QUOTED).join('\n  ')
      const line = [program, ...args].join(' ')
      reject(new GuestError(code, `${what} failed: '${line}' ended with ${signal ?? status}:\n  ${last}\n`))
    })
  })
}

/** Is there such a program? */
export function installed(program) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/**
 * The program: prints what `make` returns for each name, a path a line or all of it as JSON. With `only` it makes
 * nothing, and fails where something was not made yet. A wrong command line ends with 2, what fails with 1. A signal goes to the program that runs, whose end then leaves nothing behind.
 *
 * @param {{ usage: string, names: readonly string[], make: (name: string, only: boolean) => Promise<{ path: string }> }} program
 */
export async function guestProgram({ usage, names, make }) {
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => running?.kill(signal))
  try {
    const { json, help, made = false, wanted } = readArguments(names)
    if (help) return void console.log(usage)
    const results = []
    for (const name of wanted) {
      const result = await make(name, made)
      results.push({ name, ...result })
      if (!json) console.log(result.path)
    }
    if (json) console.log(JSON.stringify(results, null, 2))
  } catch (error) {
    if (!(error instanceof GuestError)) throw error
    console.error(error.message)
    process.exitCode = error.code === 'GUEST_USAGE' ? 2 : 1
  }
}

function readArguments(names) {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { json: { type: 'boolean' }, made: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
    })
    const unknown = positionals.find((name) => !names.includes(name))
    if (unknown !== undefined) throw new Error(`there is no '${unknown}'`)
    if (positionals.length === 0 && !values.help) throw new Error('a name is missing')
    return { ...values, wanted: positionals }
  } catch ({ message }) {
    throw new GuestError('GUEST_USAGE', `${message.split('. ')[0]}; the names are ${names.join(', ')}; see --help`)
  }
}

function show(text) {
  const { stderr } = process
  if (stderr.isTTY) stderr.write(`\r\x1b[K${text.slice(0, Math.max(10, stderr.columns - 1))}`)
}
