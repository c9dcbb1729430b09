import { GuestDmaError } from '@guestdma/memory'

/**
 * Misuse of a device model by the code that composes the machine: a bad option, a state that does not fit, a store of
 * an odd size. What a *guest* does wrong never throws: it goes to a fault log.
 *
 * Codes: `DEVICE_QUEUE_SIZE`, `DEVICE_FEATURE`, `DEVICE_OPTION`, `DEVICE_BUSY`, `DEVICE_STATE`, `WINDOW_OVERLAP`,
 * `WINDOW_OUTSIDE`, `WINDOW_ACCESS`, `STORE_CAPACITY`, `LINK_ATTACHED`, `LINK_OPTION`.
 */
export class DeviceError extends GuestDmaError {}
