import { UsageError } from '../program/errors.ts'

/** What an attack cannot be run with. Nothing was set up. */
export class ExposureError extends UsageError<keyof typeof EXPOSURE_CODES> {}

export const EXPOSURE_CODES = {
  EXPOSURE_SCHEME: {
    meaning: 'There is no scheme of this name among those that were passed.',
    advice: 'Use one of the names that the message lists.',
  },
  EXPOSURE_SETTING: {
    meaning: 'A number of the setting is none that can be used: a rate, a fill, a length, a duration or a seed.',
    advice: 'Pass a number within the bounds that the message names.',
  },
  EXPOSURE_WORK: {
    meaning: 'The drivers do not do this: an unknown driver, operation, mode or ring, or two that do not go together.',
    advice: 'Use one of the names that the message lists.',
  },
} as const
