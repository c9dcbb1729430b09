import { GuestDmaError } from '@guestdma/memory'

/** What is wrong with a vhost-user peer, with a message of it, or with what was asked for. */
export class VhostUserError extends GuestDmaError<keyof typeof VHOST_CODES> {}

export const VHOST_CODES = {
  VHOST_CLOSED: {
    meaning: 'The peer closed the connection.',
    advice: 'Look why the peer ended or what it refused; its own log says more. Then connect again.',
  },
  VHOST_CONFIG: {
    meaning: 'The back end did not give the configuration that it was asked for.',
    advice: 'Ask for the length that this back end has, in configLength.',
  },
  VHOST_DESCRIPTORS: {
    meaning: 'A message came with another number of file descriptors than it carries.',
    advice: 'Mend the peer. All descriptors that came were closed.',
  },
  VHOST_FEATURES: {
    meaning: 'The back end lacks a protocol feature that this use of it needs.',
    advice: 'Start the back end with the option that switches the feature on, or do without that use.',
  },
  VHOST_FEATURES_REFUSED: {
    meaning: 'A front end chose features that the device, or what serves it, does not take.',
    advice:
      'Offer what the guest needs when the device is made: VERSION_1 at least, and ACCESS_PLATFORM only with a port that translates.',
  },
  VHOST_FLAGS: {
    meaning: 'The flags of a message do not fit: a request where an answer is due, or the other way round.',
    advice: 'Mend the peer: it does not follow the protocol.',
  },
  VHOST_FLOOD: {
    meaning:
      'A front end sent more messages than are kept while one of them waits, or left too many questions without an answer.',
    advice: 'Mend the front end, or look which request of the store behind the device does not end.',
  },
  VHOST_IOTLB: {
    meaning: 'The back end did not confirm that what it could reach was taken away.',
    advice: 'End its process, then say so with backEndEnded() so that the memory goes back.',
  },
  VHOST_MEMORY: {
    meaning: 'A window of memory cannot be given to a back end, or an address lies in none of the windows.',
    advice: 'Give whole pages of shared memory that do not overlap, at most 8 windows.',
  },
  VHOST_OPTION: {
    meaning: 'An option of a vhost-user transport is out of range.',
    advice: 'Take a value within the bounds that the message names.',
  },
  VHOST_QUEUES: {
    meaning: 'The back end has fewer queues than the device is to have.',
    advice: 'Start the back end with more queues, or use fewer.',
  },
  VHOST_REFUSED: {
    meaning: 'The back end answered a message with an error.',
    advice: 'Read in the message which request it was; the log of the back end says why.',
  },
  VHOST_REQUEST: {
    meaning: 'A message has a number that is not known, or answers another request than the one that was sent.',
    advice: 'Mend the peer, or agree to fewer protocol features with it.',
  },
  VHOST_SIZE: {
    meaning: 'The payload of a message is shorter or longer than its kind allows.',
    advice: 'Mend the peer: it does not follow the protocol.',
  },
  VHOST_TABLE: {
    meaning: 'The table of memory that a front end passed cannot be mapped.',
    advice: 'Read in the message which region it was: they may not overlap, nor be longer than their files.',
  },
  VHOST_TIMEOUT: {
    meaning: 'The back end did not answer a request in time. The connection was closed.',
    advice: 'Look why the back end hangs, or raise deadlineMs of the wait.',
  },
  VHOST_TRUNCATED: {
    meaning: 'The connection ended in the middle of a message.',
    advice: 'Look why the peer ended; connect again.',
  },
  VHOST_VERSION: {
    meaning: 'A message has a protocol version other than 1.',
    advice: 'Check what listens on the socket: it is probably no vhost-user peer.',
  },
  VHOST_VRING: {
    meaning: 'A message about a vring has an index, a size, a position, an address or a flag that it cannot have.',
    advice: 'Give the front end no more queues, and no longer ones, than the device has.',
  },
} as const
