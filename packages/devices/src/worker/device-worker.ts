import { observe, type RegisterBus } from '@guestdma/memory'
import { DeviceError } from '../faults/errors.ts'
import { type BusWindow, BusWindows } from '../ports/bus-windows.ts'
import type { TranslationCopy } from '../ports/translation-copy.ts'
import { INTERRUPTS, ringBell } from './mailbox.ts'
import { isOurs, type SentWindow, type SetupMessage, WORKER_FORMAT, type WorkerMessage } from './messages.ts'
import { TranslationWriter } from './translation-writer.ts'
import { canWaitAsync, changed } from './turns.ts'
import { WorkerRegisters } from './worker-registers.ts'

/** A worker of Node (`worker_threads`) or of a browser. */
export interface WorkerLike {
  postMessage(message: unknown): void
  terminate(): unknown
  on?(event: 'message' | 'error' | 'exit', listener: (value: unknown) => void): unknown
  addEventListener?(event: 'message' | 'error', listener: (event: unknown) => void): unknown
}

export interface DeviceWorkerOptions {
  /** Names the device in errors and faults. */
  readonly name: string
  /** Which of the worker's makers makes it (`serveDevice`). */
  readonly type: string
  /** For the maker: what can be sent to a worker by `postMessage`. */
  readonly config?: unknown
  /**
   * All that the device reaches, on SharedArrayBuffers: `everything(memory).windows`, or one pool as
   * `[{ base: pool.device, ...pool.window }]`. The worker is given these buffers, whole, and no others.
   */
  readonly windows: readonly BusWindow[]
  /**
   * The device's addresses are translated: it reaches of its windows, which are guest memory as a rule, what
   * {@link DeviceWorker.translations} say, and nothing before. Default false.
   */
  readonly translated?: boolean
  /** Makes the worker, whose script calls `serveDevice`: at the start, and for each {@link DeviceWorker.restart}. */
  spawn(): WorkerLike
  /**
   * The longest wait for the answer to a register access, until the device lets go of a translation, and for the worker's
   * end, in milliseconds. Default 1000.
   */
  readonly deadlineMs?: number
}

/** The longest wait until a new worker says that it is there: it may have to load a program first. */
const START_MS = 30_000

/**
 * A device model in a worker, as the driver's side sees it: registers for a transport, interrupts, and the worker's life.
 *
 * A worker that ends, throws or does not answer in time is a device that needs a reset. `restart` gives it another
 * worker with the same memory, and then a reset brings the device up again, by `Machine.reset` for example.
 *
 * @example
 * import { Worker } from 'node:worker_threads'
 * import { DeviceWorker } from '@guestdma/devices/worker'
 *
 * const worker = await DeviceWorker.start({
 *   name: 'disk', type: 'blk', config: 1 << 20, windows: [{ base: pool.device, ...pool.window }],
 *   spawn: () => new Worker(new URL('./disk-worker.js', import.meta.url)),
 * })
 */
export class DeviceWorker {
  /**
   * `construction`: no byte of the buffers that the worker was given lies outside of its windows, so there is nothing
   * else in its reach. `peer`: a part of a buffer was meant, and its port holds it to that. `trusted-code`: all of the
   * windows is in its thread, and the port of this library holds the device to what is mapped.
   */
  readonly enforcedBy: 'construction' | 'peer' | 'trusted-code'
  /**
   * What decides on the device's addresses, for `RemoteConfig.translations` or `EndpointOptions.copy`; null unless it
   * was asked for.
   */
  readonly translations: TranslationCopy | null

  private readonly options: DeviceWorkerOptions
  private readonly windows: readonly SentWindow[]
  private readonly bus: WorkerRegisters
  private readonly writer: TranslationWriter | null
  private worker: WorkerLike | null = null
  // Whether the worker is known to reach memory no more.
  private gone = true
  private listener: (() => void) | null = null
  private turn: Promise<void> = Promise.resolve()

  private constructor(options: DeviceWorkerOptions) {
    const { name, windows, translated = false, deadlineMs = 1000 } = options
    if (!(deadlineMs > 0 && deadlineMs < Infinity)) {
      const message = `deadlineMs ${deadlineMs} must be a positive and finite number of milliseconds`
      throw new DeviceError('WORKER_OPTION', name, message, { deadlineMs })
    }
    this.options = options
    this.windows = new BusWindows(name, windows).windows.map((window) => sent(name, window))
    this.enforcedBy = translated ? 'trusted-code' : coverBuffers(this.windows) ? 'construction' : 'peer'
    this.bus = new WorkerRegisters(name, deadlineMs)
    this.writer = translated ? this.translationWriter(name, deadlineMs) : null
    this.translations = this.writer
    this.bus.onLost = () => void this.worker?.terminate()
  }

  /**
   * Starts a worker and waits until its device is there.
   *
   * @throws DeviceError `WORKER_OPTION`, `WORKER_MEMORY`, `WORKER_FAILED`, `WORKER_DEADLINE`, `WORKER_ENDED`, and what
   *   {@link BusWindows} throws
   */
  static async start(options: DeviceWorkerOptions): Promise<DeviceWorker> {
    const device = new DeviceWorker(options)
    await device.begin()
    return device
  }

  /**
   * The device's registers, which `MmioTransport.probe` is given: the same ones after a restart. An access throws once the
   * worker is gone, `WORKER_ENDED` or `WORKER_FAILED`, and `WORKER_DEADLINE` where it does not answer; a transport makes a
   * `TransportLostError` of that.
   */
  get registers(): RegisterBus {
    return this.bus
  }

  /**
   * Calls `interrupt` now, and whenever the device interrupts or is lost, until the function that it returns is called.
   */
  readonly listen = (interrupt: () => void): (() => void) => {
    this.listener = interrupt
    this.watch(this.bus.words)
    // What was there before.
    this.tell()
    return () => {
      if (this.listener === interrupt) this.listener = null
    }
  }

  /**
   * Ends the worker. Returns whether it is known to reach memory no more: its loop said so, or its thread has ended. One
   * that hangs is terminated as well, but when that is done only {@link close} and {@link restart} can wait for.
   */
  readonly detach = (): boolean => {
    if (!this.gone && this.bus.stop()) this.gone = true
    this.lose(new DeviceError('WORKER_ENDED', this.options.name, 'the worker was ended by its owner'))
    return this.gone
  }

  /**
   * Ends the worker, and waits until its thread is gone; a browser does not say when that is, so there `terminate()` is
   * all of it. Throws `WORKER_DEADLINE` where it is still there after the deadline.
   */
  close(): Promise<void> {
    return this.inTurn(() => this.end())
  }

  /**
   * Ends the worker and starts another one, with the same memory and the same configuration. The device is as after a
   * reset, and its driver has to be reset too. Throws as {@link start} and {@link close} do.
   */
  restart(): Promise<void> {
    return this.inTurn(async () => {
      await this.end()
      await this.begin()
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private async end(): Promise<void> {
    const { worker } = this
    if (worker === null) return
    this.detach()
    const { name } = this.options
    const { deadlineMs } = this.bus
    const message = `the worker's thread did not end within ${deadlineMs} ms`
    await within(
      deadlineMs,
      worker.terminate(),
      () => new DeviceError('WORKER_DEADLINE', name, message, { deadlineMs }),
    )
    this.gone = true
    this.writer?.takeFaults()
    this.worker = null
  }

  // One after the other, so that no worker is forgotten.
  private inTurn(step: () => Promise<void>): Promise<void> {
    const turn = this.turn.then(step, step)
    this.turn = turn.catch(() => {})
    return turn
  }

  private async begin(): Promise<void> {
    const { name, type, config, spawn } = this.options
    const words = this.bus.renew()
    const translations = this.writer?.prepare()
    const worker = spawn.call(this.options)
    this.worker = worker
    this.gone = false
    const setup: SetupMessage = {
      format: WORKER_FORMAT,
      name,
      type,
      config,
      mailbox: words.buffer as SharedArrayBuffer,
      windows: this.windows,
      ...(translations === undefined ? {} : { translations }),
      interrupts: canWaitAsync() ? 'wait' : 'message',
    }
    const ready = new Promise<void>((resolve, reject) => {
      const fail = (code: 'WORKER_FAILED' | 'WORKER_ENDED', text: string, cause?: unknown): void => {
        // Of a worker from before a restart nobody wants to know.
        if (this.worker !== worker) return
        const error = new DeviceError(code, name, text, {}, { cause })
        reject(error)
        this.lose(error)
      }
      hear(worker, {
        message: (event, text) => {
          if (this.worker !== worker) return
          if (event === 'failed') fail('WORKER_FAILED', `the device in the worker failed: ${text}`)
          else if (event === 'interrupt') this.tell()
          else if (event === 'faults') this.writer?.takeFaults()
          else if (event === 'ready') resolve()
        },
        error: (error) => fail('WORKER_FAILED', `the worker failed: ${inWords(error)}`, error),
        exit: (code) => {
          if (this.worker === worker) this.gone = true
          fail('WORKER_ENDED', `the worker ended with code ${code}`)
        },
      })
    })
    try {
      post(name, worker, setup)
      const message = `the worker did not say within ${START_MS} ms that its device is there; does its script call serveDevice?`
      await within(START_MS, ready, () => new DeviceError('WORKER_DEADLINE', name, message, { deadlineMs: START_MS }))
    } catch (error) {
      ready.catch(() => {})
      this.lose(error as DeviceError)
      throw error
    }
    this.bus.lost = null
    if (translations !== undefined) this.writer?.begin(translations)
    if (this.listener !== null) this.watch(words)
  }

  private translationWriter(name: string, deadlineMs: number): TranslationWriter {
    return new TranslationWriter({
      name,
      deadlineMs,
      gone: () => this.gone,
      lost: () => this.bus.lost !== null,
      lose: (error) => this.lose(error),
      wake: () => ringBell(this.bus.words),
    })
  }

  // The worker is gone for its driver. Who listens is to look, and who waits for the word stops.
  private lose(error: DeviceError): void {
    this.bus.lost ??= error
    void this.worker?.terminate()
    Atomics.notify(this.bus.words, INTERRUPTS)
    this.tell()
  }

  // What it throws surfaces in a microtask.
  private tell(): void {
    if (this.listener !== null) observe(this.listener, undefined)
  }

  private watch(words: Int32Array): void {
    if (!canWaitAsync()) return
    const { listener } = this
    const look = async (): Promise<void> => {
      for (let seen = Atomics.load(words, INTERRUPTS); ; ) {
        await changed(words, INTERRUPTS, seen)
        if (this.listener !== listener || this.bus.words !== words || this.bus.lost !== null) return
        const now = Atomics.load(words, INTERRUPTS)
        if (now !== seen) this.tell()
        seen = now
      }
    }
    void look()
  }
}

interface Heard {
  message(event: unknown, text: unknown): void
  error(error: unknown): void
  exit(code: unknown): void
}

// A worker of Node is an emitter, and one of a browser a target of events that says nothing of its end.
function hear(worker: WorkerLike, heard: Heard): void {
  const told = (message: unknown): void => {
    if (isOurs(message)) heard.message((message as WorkerMessage).event, (message as WorkerMessage).text)
  }
  if (worker.on !== undefined) {
    worker.on('message', told)
    worker.on('error', heard.error)
    worker.on('exit', heard.exit)
    return
  }
  worker.addEventListener?.('message', (event) => told((event as { readonly data: unknown }).data))
  worker.addEventListener?.('error', heard.error)
}

function inWords(error: unknown): string {
  return (error as Partial<Error> | null)?.message ?? String(error)
}

function post(name: string, worker: WorkerLike, setup: SetupMessage): void {
  try {
    worker.postMessage(setup)
  } catch (cause) {
    throw new DeviceError('WORKER_OPTION', name, `config cannot be sent to a worker: ${inWords(cause)}`, {}, { cause })
  }
}

function sent(name: string, { region, ...window }: Required<BusWindow>): SentWindow {
  const memory: unknown = region.u8.buffer
  if (Object.prototype.toString.call(memory) === '[object SharedArrayBuffer]') {
    return { ...window, memory: memory as SharedArrayBuffer }
  }
  const message = `${region.name} is no SharedArrayBuffer, so a worker would be given a copy of it`
  throw new DeviceError('WORKER_MEMORY', name, message, { base: window.base, length: window.length })
}

/** Does each byte of the windows' buffers lie in one of the windows? */
function coverBuffers(windows: readonly SentWindow[]): boolean {
  const reached = new Map<SharedArrayBuffer, number>()
  for (const { memory, offset, length } of [...windows].sort((a, b) => a.offset - b.offset)) {
    const end = reached.get(memory) ?? 0
    reached.set(memory, offset > end ? end : Math.max(end, offset + length))
  }
  return [...reached].every(([memory, end]) => end === memory.byteLength)
}

async function within(milliseconds: number, done: unknown, error: () => DeviceError): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(error()), milliseconds)
  })
  try {
    await Promise.race([done, late])
  } finally {
    clearTimeout(timer)
  }
}
