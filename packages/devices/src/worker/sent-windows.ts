import { DeviceError } from '../faults/errors.ts'
import type { BusWindow } from '../ports/bus-windows.ts'
import type { SentWindow } from './messages.ts'

/** Throws DeviceError `WORKER_MEMORY` for memory that threads cannot share. */
export function sent(name: string, { region, ...window }: Required<BusWindow>): SentWindow {
  const memory: unknown = region.u8.buffer
  if (Object.prototype.toString.call(memory) === '[object SharedArrayBuffer]') {
    return { ...window, memory: memory as SharedArrayBuffer }
  }
  const message = `${region.name} is no SharedArrayBuffer, so a worker would be given a copy of it`
  throw new DeviceError('WORKER_MEMORY', name, message, { base: window.base, length: window.length })
}

/** Does each byte of the windows' buffers lie in one of the windows? */
export function coverBuffers(windows: readonly SentWindow[]): boolean {
  const reached = new Map<SharedArrayBuffer, number>()
  for (const { memory, offset, length } of [...windows].sort((a, b) => a.offset - b.offset)) {
    const end = reached.get(memory) ?? 0
    reached.set(memory, offset > end ? end : Math.max(end, offset + length))
  }
  return [...reached].every(([memory, end]) => end === memory.byteLength)
}
