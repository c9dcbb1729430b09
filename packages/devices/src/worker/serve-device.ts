import { type BusPort, Region } from '@guestdma/memory'
import type { VirtioDevice } from '../device/virtio-device.ts'
import { DeviceError } from '../faults/errors.ts'
import { BusWindows } from '../ports/bus-windows.ts'
import { DeviceLoop } from './device-loop.ts'
import { isOurs, type SetupMessage, WORKER_FORMAT, type WorkerMessage } from './messages.ts'
import { serveMmio, servePci, WorkerLine } from './served-registers.ts'
import { TranslationReader } from './translation-reader.ts'

/** What a maker is given, in the worker. `Config` is what its script expects of the driver's side. */
export interface WorkerDeviceSetup<Config = unknown> {
  /** Names the device in errors and faults. */
  readonly name: string
  /**
   * What the device reaches: the windows that it was given, and nothing else is in this thread. Where addresses are
   * translated, what is mapped of them.
   */
  readonly port: BusPort
  /** What the driver's side passed as `config`, as plain data. */
  readonly config: Config
}

/** Makes a device model, with its store or its link, in the worker. It may open what it needs first. */
export type WorkerDeviceMaker = (setup: WorkerDeviceSetup<never>) => VirtioDevice | Promise<VirtioDevice>

/** Where messages come from and go to: `self` of a browser's worker, `parentPort` of Node's. */
export interface WorkerScope {
  postMessage(message: unknown): void
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void
}

/**
 * Serves one device in this worker: waits for a `DeviceWorker` to say which, makes it, and runs it for good. It is all
 * that a worker script has to do. While there is nothing to do it sleeps in the event loop, so that stores and links
 * may answer by timers, promises and events.
 *
 * @example
 * serveDevice(parentPort, {
 *   blk: ({ name, port, config }) => new BlkDevice({ name, port, store: new MemoryBlockStore(new Uint8Array(config)) }),
 * })
 *
 * @throws DeviceError `WORKER_OPTION` where there is no scope: this is no worker
 */
export function serveDevice(scope: WorkerScope | null, makers: Readonly<Record<string, WorkerDeviceMaker>>): void {
  if (scope === null) {
    throw new DeviceError('WORKER_OPTION', 'serveDevice', 'there is no scope to serve in: this thread is no worker')
  }
  const say: Say = (event, more) => scope.postMessage({ format: WORKER_FORMAT, event, ...more })
  let served = false
  scope.addEventListener('message', ({ data }) => {
    if (served || !isOurs(data)) return
    served = true
    serve(data as SetupMessage, makers, say).catch((error: unknown) => say('failed', { text: String(error) }))
  })
}

type Say = (event: WorkerMessage['event'], more?: Omit<WorkerMessage, 'format' | 'event'>) => void

async function serve(
  { name, type, config, mailbox, windows, translations, pci, interrupts }: SetupMessage,
  makers: Readonly<Record<string, WorkerDeviceMaker>>,
  say: Say,
): Promise<void> {
  const make = Object.hasOwn(makers, type) ? makers[type] : undefined
  if (make === undefined) {
    const message = `this worker makes no device of type '${type}'; it makes: ${Object.keys(makers).join(', ')}`
    throw new DeviceError('WORKER_OPTION', name, message, { type })
  }
  const regions = new Map<SharedArrayBuffer, Region>()
  for (const { memory } of windows) {
    if (!regions.has(memory)) regions.set(memory, new Region(memory, `memory of ${name}`))
  }
  const given = new BusWindows(
    name,
    windows.map(({ memory, ...window }) => ({ ...window, region: regions.get(memory) as Region })),
  )
  const doorbell = pci?.doorbell
  if (doorbell !== undefined) {
    const message = (address: number, data: number): void => say('message', { address, data })
    given.setDoorbell(doorbell.base, doorbell.length, { level: () => {}, message })
  }
  const reader =
    translations === undefined ? null : new TranslationReader(name, translations, given, () => say('faults'), doorbell)
  const device = await make({ name, port: reader?.port ?? given, config: config as never })
  const words = new Int32Array(mailbox)
  const line = new WorkerLine(words, interrupts === 'message' ? () => say('interrupt') : null)
  const registers = pci === undefined ? serveMmio(device, line) : servePci(device, line, pci, given)
  const loop = new DeviceLoop(words, device, registers, reader)
  const { described } = registers
  say('ready', described === undefined ? {} : { described })
  await loop.run()
}
