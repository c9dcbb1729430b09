import type { InterruptSink } from '@guestdma/memory'

// What a sink throws surfaces in a microtask: a platform's fault stops neither the device that interrupts nor the others.
// `observe` takes one argument, and a closure for two would be allocated at each interrupt.

/** Who records what the code of the machine's owner throws. */
export interface HostFaults {
  hostThrew(part: 'interrupts', error: unknown): void
}

/** Tells a sink how its line is; the device records what it throws. */
export function tellLevel(sink: InterruptSink | null, asserted: boolean, device: HostFaults): void {
  try {
    sink?.level(asserted)
  } catch (error) {
    device.hostThrew('interrupts', error)
  }
}

/** Passes a message on. */
export function tellMessage(sink: InterruptSink | null, address: number, data: number): void {
  try {
    sink?.message?.(address, data)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}
