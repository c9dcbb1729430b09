import { DeviceError } from '../faults/errors.ts'

/** The first number that 32 bits do not hold. */
export const U32: number = 2 ** 32

/**
 * Checks the fields of a state before any of them is used: it comes from a file, or from another machine. Every method
 * throws DeviceError `DEVICE_STATE`.
 */
export class StateCheck {
  private readonly part: string

  /** `part` names what the state is for, in errors. */
  constructor(part: string) {
    this.part = part
  }

  /** An object whose `format` is `format`. */
  format(state: unknown, format: string): void {
    this.object('a state', state)
    const { format: found } = state as { format?: unknown }
    if (found !== format) this.wrong(`format ${describe(found)} is not ${format}`, { format: found })
  }

  object(name: string, value: unknown): void {
    if (typeof value !== 'object' || value === null) {
      this.wrong(`${name} must be an object, not ${describe(value)}`, { [name]: value })
    }
  }

  boolean(name: string, value: unknown): void {
    if (typeof value !== 'boolean') this.wrong(`${name} ${describe(value)} must be true or false`, { [name]: value })
  }

  /** An integer from 0 up to and without `limit`. */
  integer(name: string, value: unknown, limit: number): void {
    if (Number.isInteger(value) && (value as number) >= 0 && (value as number) < limit) return
    this.wrong(`${name} ${describe(value)} must be an integer from 0 to ${limit - 1}`, { [name]: value })
  }

  /** An array of `length`. */
  array(name: string, value: unknown, length: number): void {
    if (Array.isArray(value) && value.length === length) return
    const found = Array.isArray(value) ? value.length : describe(value)
    const message = `${name} must be an array of ${length}, not ${found}; make this one with the options of the other`
    this.wrong(message, { [name]: Array.isArray(value) ? value.length : value })
  }

  /** An array of `length` integers from 0 up to and without `limit`. */
  integers(name: string, value: unknown, length: number, limit: number): void {
    this.array(name, value, length)
    for (let i = 0; i < length; i++) this.integer(`${name}[${i}]`, (value as unknown[])[i], limit)
  }

  wrong(message: string, details: Readonly<Record<string, unknown>>): never {
    throw new DeviceError('DEVICE_STATE', this.part, message, details)
  }
}

/** A value in a message: short, and safe whatever it is. */
export function describe(value: unknown): string {
  if (typeof value === 'number' || typeof value === 'boolean' || value === null) return String(value)
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 40)) : typeof value
}
