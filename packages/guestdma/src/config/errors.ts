import { GuestDmaError } from '@guestdma/memory'

/** A machine that cannot be what its configuration says, or a call that does not suit its state. */
export class MachineError extends GuestDmaError<keyof typeof MACHINE_CODES> {}

export const MACHINE_CODES = {
  MACHINE_BAR_SPACE: {
    meaning: 'There is no address space left for a BAR of a device.',
    advice: 'Leave address space free beside guest memory, or use the mmio transport.',
  },
  MACHINE_CLOSED: {
    meaning: 'The machine or the device is closed.',
    advice: 'Reset the device, or create another machine.',
  },
  MACHINE_CONFIG: {
    meaning: 'An option of the configuration does not exist, or has the wrong type or value.',
    advice: 'Take what the message says is right; details.path says which option, such as devices[1].device.mac.',
  },
  MACHINE_DEVICE_TYPE: {
    meaning: 'A device is of another type than was asked for, or its model has another device ID.',
    advice: 'Check the type of the device in the configuration, and what its make() returns.',
  },
  MACHINE_NO_DEVICE: {
    meaning: 'The machine has no device of this name.',
    advice: 'Take one of the names that the message lists.',
  },
  MACHINE_QUARANTINED: {
    meaning: 'A device may still reach its memory, which therefore stays out of use.',
    advice: 'Discard the guest memory with the machine.',
  },
  MACHINE_REMOTE: {
    meaning: 'Something of a device was asked for that only a device of this machine has: it lives elsewhere.',
    advice: 'Ask for the driver or the transport, or give the scheme what it would make here; the message says what.',
  },
  MACHINE_RESERVE: {
    meaning: 'There is no guest RAM left for the pool of a device.',
    advice: 'Give the machine more memory, or the pool less.',
  },
} as const
