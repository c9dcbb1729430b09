import { GuestDmaError } from '@guestdma/memory'

/** What {@link CheckedBackend} or a suite finds wrong with the part under test. */
export class CheckError extends GuestDmaError<keyof typeof CHECK_CODES> {}

export const CHECK_CODES = {
  CHECK_CHANGED: {
    meaning: 'Columns of a mapping changed between map and unmap.',
    advice: 'Leave the columns of a row alone while it is mapped.',
  },
  CHECK_DIRECTION: {
    meaning: 'A row has no direction that there is.',
    advice: 'Set the direction to one of the DMA directions.',
  },
  CHECK_DISPOSED: {
    meaning: 'A backend was used after its dispose.',
    advice: 'Dispose last.',
  },
  CHECK_DOORBELL: {
    meaning: 'A queue rang the doorbell of another queue.',
    advice: 'Call `doorbell` with the `index` that the queue was made with.',
  },
  CHECK_FREE: {
    meaning: 'A region was freed that is not allocated, or was freed already.',
    advice: 'Free each region once.',
  },
  CHECK_LEAK: {
    meaning: 'Something is still mapped, uncommitted or allocated at dispose.',
    advice: 'Unmap, commit and free all of it first.',
  },
  CHECK_LENGTH: {
    meaning: 'A row lends no byte.',
    advice: 'Map at least one byte.',
  },
  CHECK_MAPPED: {
    meaning: 'A row was mapped that is mapped already.',
    advice: 'Unmap it first.',
  },
  CHECK_NOT_MAPPED: {
    meaning: 'A row was unmapped or synchronised that is not mapped, or does not exist.',
    advice: 'Do so only between map and unmap.',
  },
  CHECK_PLAIN_STORE: {
    meaning: 'A side of a handshake stored an index or an event field as if it were any other byte.',
    advice: 'Store it with the method of Region that has the barrier it needs.',
  },
  CHECK_REUSE: {
    meaning: 'A row was mapped again before its unmap was committed, or after a commit that failed.',
    advice: 'Commit unmaps first; after a failed commit, leave the row until the device was reset.',
  },
  CHECK_SCHEME: {
    meaning: 'A scheme cannot be used on the platform that its own install set up.',
    advice: 'Declare in `install` what `assess` looks for.',
  },
  CHECK_STATES: {
    meaning: 'A handshake has more states than can be explored.',
    advice: 'Pass a smaller history.',
  },
  CHECK_STATUS: {
    meaning: 'A call of a backend that had to succeed in a test returned another status than Ok.',
    advice: 'Read the lines of DmaBackend that the message names, and mend the backend or the limits that it declares.',
  },
  CHECK_SYNC: {
    meaning: 'A synchronisation goes outside its mapping.',
    advice: 'Keep the offset and the length within the row.',
  },
  CHECK_UNCHECKED: {
    meaning: 'A row was used whose map did not return Ok.',
    advice: 'Check the status of each row.',
  },
  CHECK_UNPUBLISHED: {
    meaning: 'A side of a handshake loaded bytes that the other side had not published.',
    advice: 'Load the index first, and only the entries below it.',
  },
  CHECK_WRITTEN: {
    meaning: 'More bytes are said to be written than were lent, or no integer.',
    advice: 'Clamp what the device says before unmap.',
  },
} as const
