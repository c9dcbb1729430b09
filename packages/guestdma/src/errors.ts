import { GuestDmaError } from '@guestdma/memory'

/** A machine that cannot be what its configuration says, or a call that does not suit its state. */
export class MachineError extends GuestDmaError<keyof typeof MACHINE_CODES> {}

export const MACHINE_CODES = {
  MACHINE_CLOSED: {
    meaning: 'The machine or the device is closed.',
    advice: 'Reset the device, or create another machine.',
  },
  MACHINE_CONFIG: {
    meaning: 'An option of the configuration does not exist, or has the wrong type or value.',
    advice: 'Take what the message says is right; details.path says which option, such as devices[1].device.mac.',
  },
  MACHINE_DEVICE: {
    meaning: 'A device is missing, is of another type, or cannot be had with this configuration.',
    advice: 'Check the name and the type of the device against the configuration.',
  },
  MACHINE_QUARANTINED: {
    meaning: 'A device did not confirm its reset, so that its memory stays out of use.',
    advice: 'Discard the guest memory with the machine.',
  },
  MACHINE_RESERVE: {
    meaning: 'There is no guest RAM left for the pool of a device.',
    advice: 'Give the machine more memory, or the pool less.',
  },
} as const
