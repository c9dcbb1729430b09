import { QemuError } from './errors.ts'
import type { LineStream } from './lines.ts'

/** What QEMU tells unasked, such as RESET or SHUTDOWN. */
export interface QmpEvent {
  readonly event: string
  readonly data: Readonly<Record<string, unknown>>
}

/** Events that nobody took are kept up to this number; the oldest go first. */
const EVENTS_KEPT = 1000

/**
 * QEMU's machine protocol (QMP): commands and answers as lines of JSON. The thread blocks until the answer.
 *
 * Every method throws QemuError `QEMU_LOST` where QEMU is gone, late or confused, for good.
 */
export class Qmp {
  /** As `major.minor.micro`. */
  readonly version: string
  private readonly lines: LineStream
  private readonly waiting: QmpEvent[] = []
  private serial = 0

  /** Takes the greeting and opens the session. */
  constructor(lines: LineStream) {
    this.lines = lines
    const greeting = this.message(lines.next())
    const numbers = at(at(at(greeting, 'QMP'), 'version'), 'qemu')
    const version = ['major', 'minor', 'micro'].map((key) => at(numbers, key))
    if (!version.every(Number.isSafeInteger)) throw lines.fail('the greeting names no version')
    this.version = version.join('.')
    this.execute('qmp_capabilities')
  }

  /**
   * Executes a command and returns its result.
   *
   * @throws QemuError `QEMU_COMMAND` with QEMU's own words where it refuses
   */
  execute(command: string, args: Readonly<Record<string, unknown>> = {}): unknown {
    const id = ++this.serial
    this.lines.send(JSON.stringify({ execute: command, arguments: args, id }))
    for (;;) {
      const message = this.message(this.lines.next())
      if (this.keep(message)) continue
      if (message.id !== id) throw this.lines.fail(`command ${id} was answered by an answer to ${String(message.id)}`)
      if ('return' in message) return message.return
      const description = at(message.error, 'desc')
      if (typeof description !== 'string') throw this.lines.fail(`'${command}' has neither a result nor an error`)
      throw new QemuError('QEMU_COMMAND', this.lines.name, `${command}: ${description}`, {
        command,
        class: at(message.error, 'class'),
      })
    }
  }

  /** What arrived since the last call, without waiting: at most 1000. */
  takeEvents(): readonly QmpEvent[] {
    while (this.waiting.length < EVENTS_KEPT) {
      const line = this.lines.arrived()
      if (line === null) break
      if (!this.keep(this.message(line))) throw this.lines.fail('an answer that nobody asked for')
    }
    return this.waiting.splice(0)
  }

  close(): void {
    this.lines.close()
  }

  private keep(message: Readonly<Record<string, unknown>>): boolean {
    const { event, data } = message
    if (typeof event !== 'string') return false
    this.waiting.push({ event, data: isObject(data) ? data : {} })
    if (this.waiting.length > EVENTS_KEPT) this.waiting.shift()
    return true
  }

  private message(line: string): Readonly<Record<string, unknown>> {
    let message: unknown
    try {
      message = JSON.parse(line)
    } catch (cause) {
      throw this.lines.fail(`no JSON: '${line.slice(0, 80)}'`, cause)
    }
    if (!isObject(message)) throw this.lines.fail(`no JSON object: '${line.slice(0, 80)}'`)
    return message
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function at(value: unknown, key: string): unknown {
  return isObject(value) ? value[key] : undefined
}
