import { GuestDmaError } from '@guestdma/memory'

/** QEMU cannot be started as asked, is gone, or does not keep to its protocols. */
export class QemuError extends GuestDmaError<keyof typeof QEMU_CODES> {}

export const QEMU_CODES = {
  QEMU_COMMAND: {
    meaning: 'QEMU answered a command of one of its protocols with an error.',
    advice: "Read QEMU's own words in the message.",
  },
  QEMU_FUNCTION: {
    meaning: 'The machine has no such PCI function, no such window of registers, or no room for its BARs.',
    advice: 'Check the devices that the machine was started with, and their addresses.',
  },
  QEMU_LOST: {
    meaning: 'QEMU ended, stopped to answer, or said what its protocol does not have.',
    advice: 'Read the message and the cause; it holds what QEMU printed last. Start another one.',
  },
  QEMU_MISSING: {
    meaning: 'QEMU is not installed.',
    advice: 'Install the Debian package that the message names, or pass the path as `command`.',
  },
  QEMU_OPTIONS: {
    meaning: 'A machine cannot be made as its options say.',
    advice: 'Pass a value within the bounds that the message names.',
  },
  QEMU_START: {
    meaning: 'QEMU ended while it started, or did not connect in time.',
    advice: 'The message holds what QEMU printed; most often an argument is wrong.',
  },
} as const
