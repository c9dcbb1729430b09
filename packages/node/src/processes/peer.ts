import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { Writable } from 'node:stream'
import { NodeError } from '../system/errors.ts'

const DEFAULT_DEADLINE_MS = 2000
/** Bytes of a peer's output that are kept. */
const OUTPUT_KEPT = 4096

/**
 * Waits for the number of a process group, then for the end of its input, then ends the group and removes the paths.
 * The input ends when whoever holds the pipe closes it or dies, in whichever way. No signal of a terminal reaches it.
 */
const REAPER = `trap '' HUP INT TERM
read -r group
read -r rest
[ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null
rm -rf -- "$@"`

/** What {@link spawnPeer} starts. */
export interface PeerOptions {
  /** A program in PATH, or its path. */
  readonly command: string
  /**
   * Its arguments. A function is called with the peer's own folder before the program starts, and may put files and
   * sockets there.
   */
  readonly args: readonly string[] | ((dir: string) => readonly string[])
  /** Files outside of the folder (in /dev/shm, say) that are removed at the end; they need not exist. */
  readonly files?: readonly string[]
  /** Defaults to this process's. */
  readonly env?: Readonly<Record<string, string | undefined>>
}

/** How a peer ended. */
export interface PeerExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** A process that is ended, with its children and files, when it is closed or when this process ends. */
export interface Peer extends AsyncDisposable {
  readonly command: string
  readonly pid: number
  /** A temporary folder of its own; removed when it has ended. */
  readonly dir: string
  /** Stays open until the peer has ended. */
  readonly stdin: Writable
  /** Is it known to have ended? Only a turn of the event loop can tell. */
  readonly ended: boolean
  readonly exited: Promise<PeerExit>
  /** The last 4 KiB that it printed, on either of its outputs, without a turn of the event loop. */
  output(): string
  /**
   * Asks it to end (SIGTERM), ends it (SIGKILL) when `deadlineMs` have passed, 2000 by default, and removes its files.
   * Resolves when nothing is left. May be called again.
   */
  close(options?: { readonly deadlineMs?: number }): Promise<void>
}

/**
 * Starts a program that must not outlive this process. A small shell process beside it waits for the end of either, and
 * then ends the whole process group of the program and removes its folder and `files`: also after SIGKILL.
 *
 * @example
 * await using disk = spawnPeer({ command: 'qemu-storage-daemon', args: (dir) => ['--chardev', `socket,path=${dir}/s,id=c`] })
 *
 * @throws NodeError `NODE_COMMAND` where the program cannot be started; what `args` throws
 */
export function spawnPeer({ command, args, files = [], env = process.env }: PeerOptions): Peer {
  const name = basename(command)
  const dir = mkdtempSync(join(tmpdir(), `guestdma-${name}-`))
  const log = join(dir, 'output')
  const reaper = spawn('/bin/sh', ['-c', REAPER, 'guestdma-reaper', dir, ...files], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  // A shell that cannot be started, or was killed, is seen by what it leaves behind.
  reaper.on('error', () => {})
  reaper.stdin.on('error', () => {})
  const removed = new Promise<void>((resolve) => reaper.once('close', () => resolve()))
  try {
    if (reaper.pid === undefined) throw new NodeError('NODE_COMMAND', name, '/bin/sh cannot be started')
    const own = typeof args === 'function' ? args(dir) : args
    const child = start(command, own, log, env)
    reaper.stdin.write(`${child.pid}\n`)
    reaper.unref()
    return peerOf(command, dir, log, child, () => {
      // From here on somebody may wait for it.
      reaper.ref()
      reaper.stdin.end()
      return removed
    })
  } catch (error) {
    reaper.stdin.end()
    rmSync(dir, { recursive: true, force: true })
    throw error
  }
}

function start(command: string, args: readonly string[], log: string, env: NodeJS.ProcessEnv): ChildProcess {
  // A file and no pipe: a peer that prints much must not stand still while this thread blocks.
  const output = openSync(log, 'a')
  try {
    const child = spawn(command, args, { stdio: ['pipe', output, output], env, detached: true })
    child.on('error', () => {})
    child.stdin?.on('error', () => {})
    if (child.pid !== undefined) return child
    throw new NodeError('NODE_COMMAND', command, 'the program cannot be started; is it installed?', { command })
  } finally {
    closeSync(output)
  }
}

function peerOf(command: string, dir: string, log: string, child: ChildProcess, reap: () => Promise<void>): Peer {
  let last = ''
  let ended = false
  let closing: Promise<void> | null = null
  let removed = Promise.resolve()
  const output = (): string => {
    if (existsSync(log)) last = readFileSync(log).subarray(-OUTPUT_KEPT).toString().trim()
    return last
  }
  const exited = new Promise<PeerExit>((resolve) => {
    child.once('exit', (code, signal) => {
      ended = true
      output()
      removed = reap()
      resolve({ code, signal })
    })
  })
  const close = async (deadlineMs: number): Promise<void> => {
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs)
    await exited
    clearTimeout(timer)
    await removed
  }
  return {
    command,
    pid: child.pid as number,
    dir,
    stdin: child.stdin as Writable,
    get ended() {
      return ended
    },
    exited,
    output,
    close: ({ deadlineMs = DEFAULT_DEADLINE_MS } = {}) => {
      closing ??= close(deadlineMs)
      return closing
    },
    [Symbol.asyncDispose]() {
      return this.close()
    },
  }
}
