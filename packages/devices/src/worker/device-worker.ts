import { checkSpan, observe, type RegisterBus } from '@guestdma/memory'
import { DeviceError } from '../faults/errors.ts'
import { type BusWindow, BusWindows } from '../ports/bus-windows.ts'
import type { DoorbellSpan, TranslationCopy } from '../ports/translation-copy.ts'
import { INTERRUPTS, LINE, ringBell } from './mailbox.ts'
import { type SentWindow, type SetupMessage, WORKER_FORMAT, type WorkerPciOptions } from './messages.ts'
import { MMIO_SPACE } from './register-layout.ts'
import { coverBuffers, sent } from './sent-windows.ts'
import { type TranslationWorker, TranslationWriter } from './translation-writer.ts'
import { canWaitAsync, changed } from './turns.ts'
import { WorkerFunction } from './worker-function.ts'
import { hear, inWords, post, type WorkerLike } from './worker-like.ts'
import { WorkerRegisters } from './worker-registers.ts'

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
  /** The device is a PCI function, {@link DeviceWorker.pci}. Without it it is on mmio. */
  readonly pci?: WorkerPciOptions
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
  private readonly mmio: RegisterBus | null
  private readonly function: WorkerFunction | null
  private readonly writer: TranslationWriter | null
  private worker: WorkerLike | null = null
  // Whether the worker is known to reach memory no more.
  private gone = true
  private listener: (() => void) | null = null
  private turn: Promise<void> = Promise.resolve()

  private constructor(options: DeviceWorkerOptions) {
    const { name, windows, translated = false, pci, deadlineMs = 1000 } = options
    const { doorbell = null, swiotlb = false } = pci ?? {}
    if (!(deadlineMs > 0 && deadlineMs < Infinity)) {
      const message = `deadlineMs ${deadlineMs} must be a positive and finite number of milliseconds`
      throw new DeviceError('WORKER_OPTION', name, message, { deadlineMs })
    }
    if (doorbell !== null) checkSpan(doorbell.base, doorbell.length, `${name} doorbell`)
    if (swiotlb && (translated || windows.length !== 1)) {
      const message = `with pci.swiotlb it reaches one window, the memory behind BAR 2, and not ${windows.length}${translated ? ', translated' : ''}`
      throw new DeviceError('WORKER_OPTION', name, message, { windows: windows.length, translated })
    }
    this.options = options
    this.windows = new BusWindows(name, windows).windows.map((window) => sent(name, window))
    this.enforcedBy = translated ? 'trusted-code' : coverBuffers(this.windows) ? 'construction' : 'peer'
    this.bus = new WorkerRegisters(name, deadlineMs)
    this.mmio = pci === undefined ? this.bus.space(MMIO_SPACE) : null
    this.function = pci === undefined ? null : new WorkerFunction(this.bus, pci)
    this.writer = translated ? this.translationWriter(name, deadlineMs, doorbell) : null
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
   * `TransportLostError` of that. Throws `WORKER_OPTION` where the device is a PCI function.
   */
  get registers(): RegisterBus {
    return this.mmio ?? this.not('on mmio', 'pci')
  }

  /**
   * The device's PCI function, which `assignBars` and `PciTransport.probe` are given: the same one after a restart. Throws
   * `WORKER_OPTION` where the device is on mmio.
   */
  get pci(): WorkerFunction {
    return this.function ?? this.not('a PCI function', 'registers')
  }

  /**
   * Whether the device's interrupt line is up: for a machine with an interrupt controller. `listen` tells when it rises;
   * it falls within an access, or with the worker.
   */
  get asserted(): boolean {
    return this.bus.lost === null && Atomics.load(this.bus.words, LINE) === 1
  }

  /**
   * For the platform: what a reset of the machine does to registers and device, BARs and MSI-X of a function included.
   * Throws as an access does.
   */
  reset(): void {
    this.bus.reset()
    this.function?.reset()
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
      ...(this.options.pci === undefined ? {} : { pci: this.options.pci }),
      interrupts: canWaitAsync() ? 'wait' : 'message',
    }
    const ready = new Promise<unknown>((resolve, reject) => {
      const fail = (code: 'WORKER_FAILED' | 'WORKER_ENDED', text: string, cause?: unknown): void => {
        // Of a worker from before a restart nobody wants to know.
        if (this.worker !== worker) return
        const error = new DeviceError(code, name, text, {}, { cause })
        reject(error)
        this.lose(error)
      }
      hear(worker, {
        message: ({ event, text, described, address, data }) => {
          if (this.worker !== worker) return
          if (event === 'failed') fail('WORKER_FAILED', `the device in the worker failed: ${text}`)
          else if (event === 'interrupt') this.tell()
          else if (event === 'message') this.message(address, data)
          else if (event === 'faults') this.writer?.takeFaults()
          else if (event === 'ready') resolve(described)
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
      const late = (): DeviceError => new DeviceError('WORKER_DEADLINE', name, message, { deadlineMs: START_MS })
      const described = await within(START_MS, ready, late)
      this.bus.lost = null
      this.function?.begin(described)
    } catch (error) {
      ready.catch(() => {})
      this.lose(error as DeviceError)
      throw error
    }
    if (translations !== undefined) this.writer?.begin(translations)
    if (this.listener !== null) this.watch(words)
  }

  private translationWriter(name: string, deadlineMs: number, doorbell: DoorbellSpan | null): TranslationWriter {
    const worker: TranslationWorker = {
      name,
      deadlineMs,
      gone: () => this.gone,
      lost: () => this.bus.lost !== null,
      lose: (error) => this.lose(error),
      wake: () => ringBell(this.bus.words),
    }
    return new TranslationWriter(worker, doorbell)
  }

  private not(what: string, instead: string): never {
    throw new DeviceError('WORKER_OPTION', this.options.name, `the device is not ${what}; take ${instead}`)
  }

  // The worker is gone for its driver. Who listens is to look, and who waits for the word stops.
  private lose(error: DeviceError): void {
    this.bus.lost ??= error
    void this.worker?.terminate()
    Atomics.notify(this.bus.words, INTERRUPTS)
    this.tell()
  }

  private message(address: unknown, data: unknown): void {
    if (this.bus.lost !== null) return
    this.bus.interrupted()
    this.function?.message(address, data)
    this.tell()
  }

  // What it throws surfaces in a microtask.
  private tell(): void {
    this.bus.interrupted()
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

async function within<T>(milliseconds: number, done: T, error: () => DeviceError): Promise<Awaited<T>> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(error()), milliseconds)
  })
  try {
    return await Promise.race([done, late])
  } finally {
    clearTimeout(timer)
  }
}
