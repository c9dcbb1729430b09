import type { ExposureClass, ExposureResult } from '../harness/result.ts'

/** Bytes by class. */
export type Amounts = Record<ExposureClass, number>

/** All classes, in the order of tables. */
export const EXPOSURE_CLASSES: readonly ExposureClass[] = [
  'foreign',
  'slack',
  'stale',
  'direction',
  'mutable',
  'other-devices',
  'own-residue',
  'metadata',
]

export function noAmounts(): Amounts {
  return Object.fromEntries(EXPOSURE_CLASSES.map((name) => [name, 0])) as Amounts
}

// What a device had already, and what every scheme exposes.
const NOT_COUNTED: readonly ExposureClass[] = ['own-residue', 'metadata']

/**
 * One figure for each kind of access: bytes that a device reached without being lent them, on average over time. It is
 * the sum of all classes but `own-residue`, which tells a device nothing new and is read by nobody, and `metadata`,
 * which every scheme exposes.
 */
export function exposed({ readable, writable }: Pick<ExposureResult, 'readable' | 'writable'>): {
  readonly readable: number
  readonly writable: number
} {
  const sum = (amounts: Readonly<Amounts>): number =>
    EXPOSURE_CLASSES.reduce((total, name) => (NOT_COUNTED.includes(name) ? total : total + amounts[name]), 0)
  return { readable: sum(readable), writable: sum(writable) }
}
