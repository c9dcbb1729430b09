import { GuestDmaError } from '@guestdma/memory'

/** A call of the operating system that failed, or that cannot be made here. */
export class NodeError extends GuestDmaError<keyof typeof NODE_CODES> {}

export const NODE_CODES = {
  NODE_CLOSED: {
    meaning: 'The other end of a socket is gone, or this end was closed.',
    advice: 'Look at what the other process printed before it ended.',
  },
  NODE_COMMAND: {
    meaning: 'A program could not be started.',
    advice: 'Install the program that the message names, or pass the path of it.',
  },
  NODE_DEADLINE: {
    meaning: 'Something did not happen before its deadline.',
    advice: 'Look at what the other process printed; raise deadlineMs for a slow machine.',
  },
  NODE_DESCRIPTORS: {
    meaning: 'A message carried more file descriptors than may be received; all of them were closed.',
    advice: "Raise the bound, or this process's limit of open files, if the sender is right.",
  },
  NODE_KOFFI: {
    meaning: 'The package koffi, by which system calls are made, cannot be loaded.',
    advice: 'Install it: npm install koffi.',
  },
  NODE_LENGTH: {
    meaning: 'A length in bytes is no integer within the bounds that the message names.',
    advice: 'Pass a positive integer; a file cannot be mapped beyond its end.',
  },
  NODE_PLATFORM: {
    meaning: 'This system is not Linux on a 64-bit, little-endian processor.',
    advice: 'Run it on Linux; the rest of the package works everywhere.',
  },
  NODE_SOCKET_PATH: {
    meaning: 'A path cannot be the address of a socket: it is too long, or another file has it.',
    advice: 'Choose a path of at most 107 bytes in a folder of your own.',
  },
  NODE_SYSCALL: {
    meaning: 'A system call failed.',
    advice: 'Look up details.errno for the call that details.call names.',
  },
} as const
