import { rmSync } from 'node:fs'
import { BusWindows, type VirtioDevice } from '@guestdma/devices'
import { FaultLog } from '@guestdma/memory'
import { type UnixListener, UnixSocket, type Watch, watchReadable } from '@guestdma/node'
import { VhostUserError } from '../protocol/errors.ts'
import { FrontEndSession } from './front-end-session.ts'
import { IotlbPort } from './iotlb-port.ts'

export interface VhostUserServerOptions {
  /** Where front ends connect. Nothing may be there yet. */
  readonly path: string
  /**
   * What is served. Its port is a `BusWindows` or, for a front end that translates addresses, an `IotlbPort`. The server
   * alone polls it, and sets its `onWork`.
   */
  readonly device: VirtioDevice
  /** How long a front end may take to read an answer, in milliseconds, while this process waits. Default 1,000. */
  readonly deadlineMs?: number
  /** How long a front end may take to translate an address, in milliseconds. Default 30,000. */
  readonly translationMs?: number
  /**
   * Told when a connection ended. The code of `cause` is `VHOST_CLOSED` where the front end, or `close()`, ended it
   * between two messages.
   */
  readonly onDisconnect?: (cause: Error) => void
}

const DEFAULT_DEADLINE_MS = 1000
const DEFAULT_TRANSLATION_MS = 30_000
/** What a turn of the device takes at most: other connections have their turn in between. */
const BUDGET = 64
/** After a connection that could not be taken. */
const RETRY_MS = 100

/**
 * Serves a device model to a front end of another process: the back end of vhost-user (QEMU's
 * docs/interop/vhost-user.rst). QEMU, DPDK's virtio-user and `VhostUserTransport` connect to it, one after the other;
 * the event loop does the work. Linux only.
 *
 * The device reaches the memory that the front end passes, and nothing else. What a front end may not do is recorded in
 * {@link faults}; it is answered with an error where the front end asks for an answer, and otherwise ends the connection.
 * With the connection every mapping and descriptor goes. A front end that cuts off the end of a file which it passed
 * ends this process, by SIGBUS: pass sealed memory, or serve such front ends from a process of their own.
 *
 * @example
 * const port = new BusWindows('disk0')
 * const device = new BlkDevice({ name: 'disk0', port, store })
 * using server = VhostUserServer.listen({ path: '/run/disk0.sock', device })
 */
export class VhostUserServer implements Disposable {
  readonly path: string
  /** What front ends did wrong, and events that could not be signalled. */
  readonly faults: FaultLog<Error> = new FaultLog<Error>()
  private readonly options: VhostUserServerOptions
  private readonly port: BusWindows | IotlbPort
  private readonly deadlineMs: number
  private readonly translationMs: number
  private readonly listener: UnixListener
  private watch: Watch | null = null
  private session: FrontEndSession | null = null
  private retry: NodeJS.Timeout | undefined
  private due = false
  private closed = false

  private constructor(options: VhostUserServerOptions) {
    const { path, device, deadlineMs = DEFAULT_DEADLINE_MS, translationMs = DEFAULT_TRANSLATION_MS } = options
    const { port } = device
    if (!(port instanceof BusWindows || port instanceof IotlbPort)) {
      const text = 'the device is made with a port that is neither a BusWindows nor an IotlbPort'
      throw new VhostUserError('VHOST_OPTION', device.name, text)
    }
    for (const [option, value] of Object.entries({ deadlineMs, translationMs })) {
      if (Number.isFinite(value) && value >= 0) continue
      const text = `${option} is ${String(value)}, which must be a finite number, 0 or more`
      throw new VhostUserError('VHOST_OPTION', device.name, text, { [option]: value })
    }
    this.path = path
    this.options = options
    this.port = port
    this.deadlineMs = deadlineMs
    this.translationMs = translationMs
    this.listener = UnixSocket.listen(path)
    try {
      device.attachTransport({
        usedBuffers: (queue) => this.session?.served.usedBuffers(queue),
        configurationChanged: () => this.session?.configurationChanged(),
        settle: () => this.session?.settle(),
        reset: () => {},
      })
    } catch (error) {
      this.close()
      throw error
    }
    device.onWork = () => this.schedule()
    this.await()
  }

  /**
   * Listens. The process stays alive until {@link close}.
   *
   * @throws VhostUserError `VHOST_OPTION`; DeviceError `DEVICE_OPTION` for a device that has a transport already; NodeError
   */
  static listen(options: VhostUserServerOptions): VhostUserServer {
    return new VhostUserServer(options)
  }

  /** Is there a front end? */
  get connected(): boolean {
    return this.session !== null
  }

  /** Ends the connection, and removes the socket's file. The device can be served no more. May be called again. */
  close(): void {
    if (this.closed) return
    this.closed = true
    clearTimeout(this.retry)
    this.watch?.close()
    this.session?.end(new VhostUserError('VHOST_CLOSED', this.options.device.name, 'this end closed the connection'))
    this.listener.close()
    rmSync(this.path, { force: true })
  }

  [Symbol.dispose](): void {
    this.close()
  }

  private await(): void {
    this.watch = watchReadable(this.listener.fd, () => this.accept())
  }

  private accept(): void {
    // Whoever else connects waits until this one is gone.
    this.watch?.close()
    try {
      this.session = new FrontEndSession({
        device: this.options.device,
        port: this.port,
        socket: this.listener.accept(0),
        deadlineMs: this.deadlineMs,
        translationMs: this.translationMs,
        onFault: (error) => this.faults.record(error),
        onEnd: (cause) => this.ended(cause),
      })
    } catch (error) {
      // It is gone again, or there is no descriptor left for it.
      this.faults.record(error as Error)
      this.retry = setTimeout(() => this.await(), RETRY_MS)
    }
  }

  private ended(cause: Error): void {
    this.session = null
    if ((cause as { code?: string }).code !== 'VHOST_CLOSED') this.faults.record(cause)
    if (!this.closed) this.await()
    this.options.onDisconnect?.(cause)
  }

  private schedule(): void {
    if (this.due) return
    this.due = true
    setImmediate(() => this.turn())
  }

  private turn(): void {
    this.due = false
    const work = (): void => {
      if (this.options.device.poll(BUDGET) > 0) this.schedule()
    }
    if (this.session === null) work()
    else this.session.turn(work)
  }
}
