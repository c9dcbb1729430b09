import type { InterruptSink } from '@guestdma/memory'
import type { VirtioDevice } from '../device/virtio-device.ts'

// What a sink throws surfaces in a microtask: a platform's fault stops neither the device that interrupts nor the others.
// `observe` takes one argument, and a closure for two would be allocated at each interrupt.

/** Tells a sink how its line is; the device records what it throws. */
export function tellLevel(sink: InterruptSink | null, asserted: boolean, device: VirtioDevice): void {
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
