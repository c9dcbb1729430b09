import { spawn } from 'node:child_process'
import { cpus } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type CaseModule, caseId, type PeerCase } from './case.ts'
import { PeersError } from './errors.ts'
import { type CaseResult, PEERS_SCHEMA, type PeersReport } from './result.ts'

export interface MatrixOptions {
  /** The module of cases, for the process of each case to load. */
  readonly module: URL
  /** The program that runs one case: `case-worker` of this package. */
  readonly worker: URL
  /** Arguments for Node in front of the worker. */
  readonly execArgv?: readonly string[]
  /** Only these. Default: all. */
  readonly select?: (found: PeerCase) => boolean
  /** Ends the run early: the case that is running is ended, and what follows is not begun. */
  readonly signal?: AbortSignal
  /** Told after each case. */
  readonly onResult?: (report: PeersReport, result: CaseResult, done: number, total: number) => void
  /** Told when a case begins. */
  readonly onCase?: (id: string, done: number, total: number) => void
}

/** What the process of a case tells, a line each. */
export type CaseMessage =
  | { readonly saw: string }
  | { readonly figure: string; readonly value: number | string }
  | { readonly outcome: 'pass' | 'fail' | 'skip'; readonly reason: string }

const DEADLINE_MS = 60_000
/** Lines of standard error that a failure quotes. */
const LINES = 4

/**
 * Runs the cases of a module one after the other, each in a process of its own, so that a crash or a hang costs one case.
 * The peers of a process that is ended are ended by whoever started them (`spawnPeer` of `@guestdma/node` sees to it).
 *
 * @throws PeersError `PEERS_CASE_TWICE`, `PEERS_UNKNOWN_PEER`, before anything is run
 */
export async function runMatrix(found: CaseModule, options: MatrixOptions): Promise<PeersReport> {
  checkModule(found)
  const cases = found.cases.filter((one) => options.select?.(one) ?? true)
  const versions = new Map<string, string | null>()
  for (const { id, version } of found.peers)
    if (cases.some(({ peer }) => peer === id)) versions.set(id, await version())
  const results: CaseResult[] = []
  const report = (complete: boolean): PeersReport => ({
    schema: PEERS_SCHEMA,
    environment: {
      date: new Date().toISOString(),
      node: process.versions.node,
      platform: `${process.platform} ${process.arch}`,
      cores: cpus().length,
    },
    complete,
    results: [...results],
  })
  for (const one of cases) {
    if (options.signal?.aborted) return report(false)
    options.onCase?.(caseId(one), results.length, cases.length)
    const version = versions.get(one.peer) ?? null
    const start = performance.now()
    const ended = version === null ? missing(found, one.peer) : await runCase(one, options)
    if (ended === null) return report(false)
    const { peer, role, driver, ring, backend, transport, what } = one
    const seconds = Math.round((performance.now() - start) / 100) / 10
    results.push({ peer, version: version ?? '', role, driver, ring, backend, transport, what, ...ended, seconds })
    options.onResult?.(
      report(results.length === cases.length),
      results[results.length - 1],
      results.length,
      cases.length,
    )
  }
  return report(true)
}

type Ended = Pick<CaseResult, 'outcome' | 'reason' | 'figures'>

function missing({ peers }: CaseModule, id: string): Ended {
  const { packages, command } = peers.find((peer) => peer.id === id) as CaseModule['peers'][number]
  const commands = [`apt-get install ${packages.join(' ')}`, ...(command === undefined ? [] : [command])]
  return { outcome: 'skip', reason: `not installed: ${commands.join(' && ')}` }
}

// Null where the run is to end.
function runCase(one: PeerCase, { module, worker, execArgv = [], signal }: MatrixOptions): Promise<Ended | null> {
  const { deadlineMs = DEADLINE_MS } = one
  const args = [...execArgv, fileURLToPath(worker), module.href, caseId(one)]
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let said: Ended | null = null
  const figures: Record<string, number | string> = {}
  let saw = 'nothing'
  let late = false
  const errors: string[] = []
  createInterface(child.stdout).on('line', (line) => {
    const message = parse(line)
    if (message === null) return
    if ('saw' in message) saw = message.saw
    else if ('figure' in message) figures[message.figure] = message.value
    else said = message
  })
  createInterface(child.stderr).on('line', (line) => {
    errors.push(line)
    if (errors.length > LINES) errors.shift()
  })
  const timer = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
  }, deadlineMs)
  const abort = (): void => void child.kill('SIGKILL')
  signal?.addEventListener('abort', abort, { once: true })
  return new Promise((done) => {
    const resolve = (ended: Ended | null): void =>
      done(ended === null || Object.keys(figures).length === 0 ? ended : { ...ended, figures })
    child.on('error', (error) => resolve({ outcome: 'fail', reason: `the process did not start: ${error.message}` }))
    child.on('close', (code, killedBy) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', abort)
      if (signal?.aborted) resolve(null)
      else if (late) {
        const reason = `it did not end within ${deadlineMs / 1000} s; last seen: ${saw}`
        resolve({ outcome: 'fail', reason })
      } else if (said !== null) resolve(said)
      else {
        const how = killedBy === null ? `exit code ${code}` : killedBy
        resolve({ outcome: 'fail', reason: `its process ended with ${how}; last seen: ${saw}; ${errors.join(' | ')}` })
      }
    })
  })
}

// A peer may print to the same stream.
function parse(line: string): CaseMessage | null {
  if (!line.startsWith('{')) return null
  try {
    const message = JSON.parse(line) as Partial<Record<'saw' | 'figure' | 'value' | 'outcome' | 'reason', unknown>>
    const { saw, figure, value, outcome, reason } = message
    if (typeof saw === 'string') return { saw }
    if (typeof figure === 'string' && (typeof value === 'number' || typeof value === 'string')) return { figure, value }
    if ((outcome === 'pass' || outcome === 'fail' || outcome === 'skip') && typeof reason === 'string')
      return { outcome, reason }
    return null
  } catch {
    return null
  }
}

function checkModule({ peers, cases }: CaseModule): void {
  const ids = new Set<string>()
  for (const one of cases) {
    const id = caseId(one)
    if (ids.has(id)) throw new PeersError('PEERS_CASE_TWICE', id, 'another case has the same labels')
    ids.add(id)
    if (!peers.some((peer) => peer.id === one.peer)) {
      const known = peers.map((peer) => peer.id)
      throw new PeersError('PEERS_UNKNOWN_PEER', id, `there is no peer '${one.peer}'; there are ${known.join(', ')}`)
    }
  }
}
