// A worker with one device, for the tests and the soak of devices in workers. The script that a user writes is the last
// statement; what is before it looks at what the worker was given, or makes a store that misbehaves.
import { parentPort } from 'node:worker_threads'
import { BlkDevice, type BlockRequest, LoopbackLink, MemoryBlockStore, NetDevice } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup } from '@guestdma/devices/worker'
import type { BusPort } from '@guestdma/memory'
import { attack } from './attack.ts'

export interface WorkerConfig {
  /** Bits to offer beside the default ones. */
  readonly offer?: readonly number[]
  readonly disk?: SharedArrayBuffer
  /**
   * What the store does with a write: `late` answers by a timer, `never` does not, `hang` never returns, `throw` ends the
   * thread.
   */
  readonly writes?: 'late' | 'never' | 'hang' | 'throw'
  /** Of type `attack`: the words of `attack.ts`. */
  readonly attack?: SharedArrayBuffer
  /** Takes a way of waiting away from this thread, as where an engine does not have it. */
  readonly without?: 'waitAsync'
}

/** What a worker found that it was given: every buffer with its length, and whether a marker is in it. */
export interface Inventory {
  readonly inventory: readonly { readonly path: string; readonly bytes: number; readonly marked: boolean }[]
  /** Bytes that the port grants at guest addresses that the worker was asked to try. */
  readonly granted: readonly number[]
}

/** Asks a worker what it was given. */
export interface InventoryRequest {
  readonly marker: Uint8Array
  readonly tries: readonly number[]
}

class OddStore extends MemoryBlockStore {
  private readonly writes: WorkerConfig['writes']

  constructor({ disk = new SharedArrayBuffer(1 << 20), writes }: WorkerConfig) {
    super(new Uint8Array(disk))
    this.writes = writes
  }

  override write(request: BlockRequest): void {
    if (this.writes === 'hang') for (;;);
    if (this.writes === 'throw') setTimeout(() => this.burn(), 0)
    else if (this.writes === 'late') setTimeout(() => super.write(request), 1)
    else if (this.writes !== 'never') super.write(request)
  }

  private burn(): never {
    throw new Error('the store is on fire')
  }
}

const received: unknown[] = []
let port: BusPort | null = null

parentPort?.on('message', (message: unknown) => {
  const { marker, tries } = message as Partial<InventoryRequest>
  if (marker === undefined || tries === undefined) received.push(message)
  else parentPort?.postMessage(take(marker, tries))
})

function take(marker: Uint8Array, tries: readonly number[]): Inventory {
  const found: { path: string; bytes: number; marked: boolean }[] = []
  const seen = new Set<unknown>()
  const walk = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null || seen.has(value)) return
    seen.add(value)
    const buffer = ArrayBuffer.isView(value) ? value.buffer : value
    if (buffer instanceof ArrayBuffer || buffer instanceof SharedArrayBuffer) {
      seen.add(buffer)
      const text = Buffer.from(buffer as ArrayBuffer)
      found.push({ path, bytes: buffer.byteLength, marked: text.includes(marker) })
    } else for (const key of Object.keys(value)) walk((value as Record<string, unknown>)[key], `${path}.${key}`)
  }
  walk(received, 'messages')
  const granted = tries.map((address) => {
    if (port === null) return -1
    port.request[0] = address
    return port.resolve(8, 1)
  })
  return { inventory: found, granted }
}

const common = <Setup extends WorkerDeviceSetup<WorkerConfig>>({ name, port: given, config }: Setup) => {
  port = given
  if (config.without === 'waitAsync') (Atomics as { waitAsync?: unknown }).waitAsync = undefined
  return { name, port: given, offer: config.offer ?? [], accessPlatform: 'offered' as const }
}

serveDevice(parentPort, {
  attack: (setup: WorkerDeviceSetup<WorkerConfig>) => {
    const words = new Int32Array(setup.config.attack ?? new SharedArrayBuffer(64))
    const deliver = (): number => {
      attack(setup.port, words)
      return 1
    }
    const link = { transmit: ({ count }: { readonly count: number }) => count, deliver }
    return new NetDevice({ ...common(setup), mac: [0x52, 0x54, 0, 1, 2, 3], link })
  },
  blk: (setup: WorkerDeviceSetup<WorkerConfig>) =>
    new BlkDevice({ ...common(setup), store: new OddStore(setup.config) }),
  net: (setup: WorkerDeviceSetup<WorkerConfig>) =>
    new NetDevice({ ...common(setup), mac: [0x52, 0x54, 0, 1, 2, 3], link: new LoopbackLink() }),
})
