import { sharedPoolScheme } from '@guestdma/bounce'
import { type BlockRequest, type BlockStore, eachFrame, type NetLink } from '@guestdma/devices'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { GuestMemory, type GuestRange } from '@guestdma/memory'
import { createMachine, type DeviceConfig, type Machine, type MachineConfig } from 'guestdma'
import { vi } from 'vitest'

export const BASE = 0x8000_0000
export const MAC = [0x52, 0x54, 0, 1, 2, 3]
export const MODES = ['map', 'pool'] as const
/** What machines are tested over; each device has that transport. */
export const TRANSPORTS = ['mmio', 'pci'] as const
export type TransportName = (typeof TRANSPORTS)[number]
export const PLATFORMS = ['direct', 'shared-pool'] as const

export function ranges(bytes = 8 << 20): GuestRange[] {
  return [{ base: BASE, length: bytes, memory: new ArrayBuffer(bytes) }]
}

export function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = i * 31 + seed * 17 + 7
  return bytes
}

/** Keeps copies of what it is given. */
export class RecordingLink implements NetLink {
  readonly frames: Uint8Array[] = []

  readonly transmit = eachFrame((frame) => this.frames.push(frame.slice()))
}

/** A store in memory that answers when it is told to, in any order. */
export class HeldStore implements BlockStore {
  readonly bytes: Uint8Array
  readonly held: BlockRequest[] = []

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get capacity(): number {
    return this.bytes.length
  }

  read(request: BlockRequest): void {
    this.hold(request, () =>
      request.data.set(this.bytes.subarray(request.sector * 512, request.sector * 512 + request.data.length)),
    )
  }

  write(request: BlockRequest): void {
    this.hold(request, () => this.bytes.set(request.data, request.sector * 512))
  }

  flush(request: BlockRequest): void {
    this.hold(request, () => {})
  }

  /** Ends the held request at `index`. */
  release(index = 0, status: 0 | 1 | 2 = 0): void {
    const [request] = this.held.splice(index, 1)
    const work = this.work.get(request)
    this.work.delete(request)
    if (status === 0) work?.()
    request.done(status)
  }

  private readonly work = new Map<BlockRequest, () => void>()

  private hold(request: BlockRequest, work: () => void): void {
    this.work.set(request, work)
    this.held.push(request)
  }
}

/** The default schemes with a pool that leaves room for several devices in a small memory. */
export const smallSchemes = (): DmaScheme[] => [sharedPoolScheme({ size: 2 << 20 }), directScheme()]

export function machine(devices: readonly DeviceConfig[], config: Partial<MachineConfig> = {}): Promise<Machine> {
  return createMachine({ memory: new GuestMemory(ranges()), devices, schemes: smallSchemes(), ...config })
}

/** {@link machine}, over one transport or another. */
export const machineOver =
  (transport: TransportName): typeof machine =>
  (devices, config) =>
    machine(devices, { transport, ...config })

export { setImmediate as settled } from 'node:timers/promises'

/** How a promise ended so far: `pending`, `ok`, or the code of its error. */
export function outcome(promise: Promise<unknown>): () => string {
  let state = 'pending'
  promise.then(
    () => {
      state = 'ok'
    },
    (error: { code?: string }) => {
      state = error.code ?? String(error)
    },
  )
  return () => state
}

/** Collects what is thrown in microtasks instead of letting it end the process. */
export function catchMicrotasks(): { readonly errors: unknown[]; stop(): void } {
  const errors: unknown[] = []
  const real = globalThis.queueMicrotask
  const spy = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation((task) =>
    real(() => {
      try {
        task()
      } catch (error) {
        errors.push(error)
      }
    }),
  )
  return { errors, stop: () => spy.mockRestore() }
}
