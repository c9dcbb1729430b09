import { UsageError } from '../program/errors.ts'

/** A result file, or a set of them, that cannot be used as it is asked. */
export class ReportError extends UsageError<keyof typeof REPORT_CODES> {}

export const REPORT_CODES = {
  REPORT_ENVIRONMENT: {
    meaning: 'Two reports are of different machines, or of different versions of Node.',
    advice: 'Measure both on one machine. `compare --force` compares them all the same.',
  },
  REPORT_FIELD: {
    meaning: 'A field of a file is missing, or its value is not one that the field can have.',
    advice: 'Correct the field that the message names, or let the program that writes such files write it anew.',
  },
  REPORT_FILE: {
    meaning: 'A file cannot be read.',
    advice: 'Name a file that exists and that you may read.',
  },
  REPORT_NO_CASE: {
    meaning: 'Two reports have no case in common.',
    advice: 'Measure the same cases in both.',
  },
  REPORT_PARTS: {
    meaning: 'Reports are not the parts of one run: one is missing, is there twice, or belongs to another run.',
    advice: 'Name the report of each part once. `merge --force` leaves out parts that are missing.',
  },
  REPORT_SCHEMA: {
    meaning: 'A file is not JSON, or is of another schema than the one that is read here.',
    advice: 'Name a file of the schema in the message.',
  },
} as const
