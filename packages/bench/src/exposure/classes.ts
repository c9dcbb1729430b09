import type { ExposureClass, ExposureResult } from '../contract/result.ts'

/** Bytes by class. */
export type Amounts = Record<ExposureClass, number>

/** What a byte of each class is, in the order of tables. */
export const EXPOSURE_MEANINGS: Readonly<Record<ExposureClass, string>> = {
  foreign: 'Memory of the guest that was never lent to this device.',
  slack: 'Memory that was never lent to it either, in a granule of which a part is or was lent.',
  stale: 'Bytes that were lent, were taken back, and serve something else by now.',
  direction: 'Bytes of the guest that are lent for the other access alone: to be read, and the device can write them.',
  mutable: 'Bytes of a transfer that completed, which their owner reads while the device can still change them.',
  'other-devices': 'What another device is lent, was lent before, or uses for itself.',
  'own-residue': 'What this same device was lent before, left in its memory. It is in no sum.',
  metadata: 'Rings, tables and cells of the device itself. They are in no sum, since every scheme exposes them.',
}

/** All classes, in the order of tables. */
export const EXPOSURE_CLASSES: readonly ExposureClass[] = Object.keys(EXPOSURE_MEANINGS) as ExposureClass[]

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
