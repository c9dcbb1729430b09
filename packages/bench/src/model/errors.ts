import { UsageError } from '../program/errors.ts'

/** What the cost model or the simulation is asked that neither can answer. */
export class ModelError extends UsageError<keyof typeof MODEL_CODES> {}

export const MODEL_CODES = {
  MODEL_COUNTER: {
    meaning: 'A result has no counter that the model needs.',
    advice: "Return the backend's and the queues' counters from the scenario, and measure again.",
  },
  MODEL_FILE: {
    meaning: 'A file of parameters cannot be read, or is not a JSON object of numbers.',
    advice: 'Write an object whose keys are names of parameters, and whose values are numbers.',
  },
  MODEL_PARAMETER: {
    meaning: 'There is no parameter of this name.',
    advice: 'Use one of the names that the message lists.',
  },
  MODEL_PROFILE: {
    meaning: 'There is no profile of this name.',
    advice: 'Use one of the names that the message lists.',
  },
  MODEL_SIMULATION: {
    meaning: 'A simulation is asked for with a number that it cannot use.',
    advice: 'Pass a number within the bounds that the message names.',
  },
  MODEL_VALUE: {
    meaning: 'The value of a parameter is no number, or is below the least one.',
    advice: 'Pass a finite number that is not below the one in the message.',
  },
} as const
