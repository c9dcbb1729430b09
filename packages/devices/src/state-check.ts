import { DeviceError } from './errors.ts'

/** The first number that 32 bits do not hold. */
export const U32: number = 2 ** 32

/** Checks the fields of a state before any of them is used. Every method throws DeviceError `DEVICE_STATE`. */
export class StateCheck {
  private readonly part: string

  /** `part` names what the state is for, in errors. */
  constructor(part: string) {
    this.part = part
  }

  /** A plain object whose `format` is `format`. */
  object(state: unknown, format: string): void {
    if (typeof state !== 'object' || state === null) this.wrong(`a state is an object, not ${String(state)}`, {})
    const { format: found } = state as { format?: unknown }
    if (found !== format) this.wrong(`format ${String(found)} is not ${format}`, { format: found })
  }

  /** An integer from 0 up to and without `limit`. */
  integer(name: string, value: unknown, limit: number): void {
    if (Number.isInteger(value) && (value as number) >= 0 && (value as number) < limit) return
    this.wrong(`${name} ${String(value)} must be an integer from 0 to ${limit - 1}`, { [name]: value })
  }

  /** An array of `length` integers from 0 up to and without `limit`. */
  integers(name: string, list: unknown, length: number, limit: number): void {
    if (!Array.isArray(list) || list.length !== length) {
      const found = Array.isArray(list) ? `${list.length}` : 'no array'
      this.wrong(`${name} must have ${length} numbers, not ${found}; make this one with the options of the other`, {
        field: name,
        length,
      })
    }
    ;(list as unknown[]).forEach((value, i) => {
      this.integer(`${name}[${i}]`, value, limit)
    })
  }

  wrong(message: string, details: Readonly<Record<string, unknown>>): never {
    throw new DeviceError('DEVICE_STATE', this.part, message, details)
  }
}
