import { DeviceError } from '../faults/errors.ts'
import { isOurs, type SetupMessage, type WorkerMessage } from './messages.ts'

/** A worker of Node (`worker_threads`) or of a browser. */
export interface WorkerLike {
  postMessage(message: unknown): void
  terminate(): unknown
  on?(event: 'message' | 'error' | 'exit', listener: (value: unknown) => void): unknown
  addEventListener?(event: 'message' | 'error', listener: (event: unknown) => void): unknown
}

/** What is heard of a worker. Nothing of a message is to be believed. */
interface Heard {
  message(message: Partial<Record<keyof WorkerMessage, unknown>>): void
  error(error: unknown): void
  exit(code: unknown): void
}

// A worker of Node is an emitter, and one of a browser a target of events that says nothing of its end.
export function hear(worker: WorkerLike, heard: Heard): void {
  const told = (message: unknown): void => {
    if (isOurs(message)) heard.message(message)
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

export function inWords(error: unknown): string {
  return (error as Partial<Error> | null)?.message ?? String(error)
}

/** Throws DeviceError `WORKER_OPTION`. */
export function post(name: string, worker: WorkerLike, setup: SetupMessage): void {
  try {
    worker.postMessage(setup)
  } catch (cause) {
    throw new DeviceError('WORKER_OPTION', name, `config cannot be sent to a worker: ${inWords(cause)}`, {}, { cause })
  }
}
