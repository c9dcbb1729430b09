import { MachineError } from './errors.ts'

/** What a value must be: in words, as they stand behind "must be", and whether it is. */
export interface Rule {
  readonly right: string
  readonly holds: (value: unknown) => boolean
  readonly optional: boolean
}

/** One rule for each key of `T`. Other keys are refused. */
export type Rules<T> = { readonly [K in keyof Required<T>]: Rule }

export type Fields = Readonly<Record<string, unknown>>

export function must(right: string, holds: (value: unknown) => boolean): Rule {
  return { right, holds, optional: false }
}

export function may(right: string, holds: (value: unknown) => boolean): Rule {
  return { right, holds, optional: true }
}

export function mayBeOneOf(...values: readonly string[]): Rule {
  return may(values.map((value) => `'${value}'`).join(' or '), (value) => values.includes(value as string))
}

export function mayBeBoolean(): Rule {
  return may('true or false', (value) => typeof value === 'boolean')
}

export function mayBeFunction(right: string): Rule {
  return may(right, isFunction)
}

export function mayBeInteger(least: number, most: number = Number.MAX_SAFE_INTEGER): Rule {
  const right =
    most === Number.MAX_SAFE_INTEGER ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`
  return may(right, isInteger(least, most))
}

/** One place of a configuration: whose it is, and the path to it, such as `devices[1].device`. */
export interface Place {
  readonly part: string
  readonly path: string
}

/**
 * Checks an object against its rules, unknown keys first. `inner` are the rules of an object one level below, where a key
 * that is unknown here may belong.
 *
 * @throws MachineError `MACHINE_CONFIG`
 */
export function checkFields<T>(at: Place, fields: Fields, rules: Rules<T>, inner?: Inner): void {
  const known = Object.keys(rules)
  for (const key of Object.keys(fields)) if (!known.includes(key)) refuseKey(at, key, known, inner)
  for (const [key, rule] of Object.entries<Rule>(rules)) {
    const value = fields[key]
    if (rule.optional && value === undefined) continue
    if (!rule.holds(value)) refuse(at, key, rule.right, value)
  }
}

export interface Inner {
  readonly key: string
  readonly rules: object
}

/** Throws `MACHINE_CONFIG` for the value at `key`. */
export function refuse({ part, path }: Place, key: string, right: string, value: unknown): never {
  const at = key === '' ? path : join(path, key)
  const found = describe(value)
  throw new MachineError('MACHINE_CONFIG', part, `${at} must be ${right}, not ${found}`, { path: at, value: found })
}

function refuseKey({ part, path }: Place, key: string, known: readonly string[], inner: Inner | undefined): never {
  const at = join(path, key)
  const near = nearest(key, known)
  const advice =
    inner !== undefined && key in inner.rules
      ? `it belongs to ${join(path, inner.key)}`
      : near !== null
        ? `did you mean '${near}'?`
        : `there are ${known.join(', ')}`
  throw new MachineError('MACHINE_CONFIG', part, `there is no option ${at}; ${advice}`, { path: at, known })
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`
}

/** The known name that fewest edits lead to, unless that is nearly another word. */
function nearest(key: string, known: readonly string[]): string | null {
  const [first] = known
    .map((name) => ({ name, edits: edits(key.toLowerCase(), name.toLowerCase()) }))
    .filter(({ name, edits }) => edits <= Math.max(1, Math.floor(name.length / 3)))
    .sort((a, b) => a.edits - b.edits)
  return first?.name ?? null
}

/** Levenshtein's distance. */
function edits(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i)
  for (let i = 0; i < from.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < to.length; j++) {
      next.push(Math.min(row[j + 1] + 1, next[j] + 1, row[j] + (from[i] === to[j] ? 0 : 1)))
    }
    row = next
  }
  return row[to.length]
}

function describe(value: unknown): string {
  if (typeof value === 'string') return value.length > 40 ? `'${value.slice(0, 40)}…'` : `'${value}'`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) return describeArray(value)
  const name: unknown = value.constructor?.name
  if (typeof name !== 'string' || name === '' || name === 'Object') return 'an object'
  return `${/^[AEIO]/i.test(name) ? 'an' : 'a'} ${name}`
}

function describeArray(values: readonly unknown[]): string {
  if (values.length === 0) return 'an empty array'
  return values.length <= 8 && values.every((value) => typeof value !== 'object')
    ? `[${values.map(describe).join(', ')}]`
    : `an array of ${values.length}`
}

export function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function isFunction(value: unknown): boolean {
  return typeof value === 'function'
}

export function isString(value: unknown): value is string {
  return typeof value === 'string'
}

export function isInteger(least: number, most: number = Number.MAX_SAFE_INTEGER): (value: unknown) => boolean {
  return (value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most
}

/** An array without holes whose every item passes. */
export function isList(value: unknown, of: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && Array.from(value as unknown[]).every(of)
}

/** An object with these methods. */
export function has(value: unknown, ...methods: readonly string[]): boolean {
  return isObject(value) && methods.every((method) => isFunction(value[method]))
}
