/** Something in a file that cannot be used. */
export interface Flaw {
  /** Where it is, for example `results[3].ring`. */
  readonly field: string
  /** What is there, `undefined` where nothing is. */
  readonly found: unknown
  /** What would be right. */
  readonly needed: string
}

/** Looks for the first flaw of a value that came from a file. */
export type Check = (value: unknown, field: string) => Flaw | undefined

/** A check for each field of a type. A field that is added to the type and forgotten here does not compile. */
export type Fields<T> = { readonly [Name in keyof T]-?: Check }

function checkThat(needed: string, holds: (value: unknown) => boolean): Check {
  return (found, field) => (holds(found) ? undefined : { field, found, needed })
}

export const isText: Check = checkThat('a text', (value) => typeof value === 'string')
export const isFlag: Check = checkThat('true or false', (value) => typeof value === 'boolean')
export const isAmount: Check = checkThat('a number from 0 on', (value) => Number.isFinite(value) && Number(value) >= 0)
export const isPositive: Check = checkThat('a number above 0', (value) => Number.isFinite(value) && Number(value) > 0)
export const isShare: Check = checkThat(
  'a number from 0 to 1',
  (value) => Number.isFinite(value) && Number(value) >= 0 && Number(value) <= 1,
)
export const isNumber: Check = checkThat('a number', (value) => Number.isFinite(value))
export const isCount: Check = checkThat(
  'a whole number from 0 on',
  (value) => Number.isSafeInteger(value) && Number(value) >= 0,
)
export const isOrdinal: Check = checkThat(
  'a whole number from 1 on',
  (value) => Number.isSafeInteger(value) && Number(value) >= 1,
)

export function isOneOf(...values: readonly string[]): Check {
  return checkThat(values.map((value) => `'${value}'`).join(' or '), (value) => values.includes(value as string))
}

/** A list of at least so many elements, each of which passes. */
export function isListOf(element: Check, least = 0): Check {
  return (found, field) => {
    if (!Array.isArray(found) || found.length < least)
      return { field, found, needed: least === 0 ? 'a list' : `a list of at least ${least}` }
    return first(found, (value, i) => element(value, `${field}[${i}]`))
  }
}

/** An object with names of the writer's choice. */
export function isRecordOf(value: Check, least = 0): Check {
  return (found, field) => {
    if (!isObject(found) || Object.keys(found).length < least)
      return { field, found, needed: least === 0 ? 'an object' : `an object of at least ${least} field` }
    return first(Object.entries(found), ([name, one]) => value(one, `${field}.${name}`))
  }
}

export function isNullOr(check: Check): Check {
  return (found, field) => (found === null ? undefined : check(found, field))
}

/** A field that may be absent. */
export function isOptional(check: Check): Check {
  return (found, field) => (found === undefined ? undefined : check(found, field))
}

/** An object of these fields. Others are left alone, since later programs may write more, unless `only` is true. */
export function isObjectOf<T>(fields: Fields<T>, only = false): Check {
  const known = Object.entries<Check>(fields)
  return (found, field) => {
    if (!isObject(found)) return { field, found, needed: 'an object' }
    const inside = (name: string): string => (field === '' ? name : `${field}.${name}`)
    const flaw = first(known, ([name, check]) => check(found[name], inside(name)))
    if (flaw !== undefined || !only) return flaw
    const other = Object.keys(found).find((name) => !Object.hasOwn(fields as object, name))
    if (other === undefined) return undefined
    const names = known.map(([name]) => name).join(', ')
    return { field: inside(other), found: found[other], needed: `no other field than ${names}` }
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function first<T>(list: readonly T[], flawOf: (value: T, index: number) => Flaw | undefined): Flaw | undefined {
  for (const [i, value] of list.entries()) {
    const flaw = flawOf(value, i)
    if (flaw !== undefined) return flaw
  }
  return undefined
}
