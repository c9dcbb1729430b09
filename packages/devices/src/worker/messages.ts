import type { BusWindow } from '../ports/bus-windows.ts'

/** The first message to a worker: all that it is given. */
export interface SetupMessage {
  readonly format: typeof WORKER_FORMAT
  readonly name: string
  readonly type: string
  readonly config: unknown
  readonly mailbox: SharedArrayBuffer
  readonly windows: readonly SentWindow[]
  /** Where the device's addresses are translated: the changes of its translations. */
  readonly translations?: SharedArrayBuffer
  /** Whether somebody waits for the interrupt word, or has to be sent a message. */
  readonly interrupts: 'wait' | 'message'
}

/** A window with the buffer in the place of its region. */
export interface SentWindow extends Required<Omit<BusWindow, 'region'>> {
  readonly memory: SharedArrayBuffer
}

/** What a worker says of itself. */
export interface WorkerMessage {
  readonly format: typeof WORKER_FORMAT
  readonly event: 'ready' | 'failed' | 'interrupt' | 'faults'
  /** Of a failure: the error in words. */
  readonly text?: string
}

export const WORKER_FORMAT = 'guestdma-worker-1'

/** Is it one of ours? A worker script and its owner may have messages of their own. */
export function isOurs(message: unknown): message is { readonly format: typeof WORKER_FORMAT } {
  return typeof message === 'object' && message !== null && (message as SetupMessage).format === WORKER_FORMAT
}
