import type { Schemes } from '../scenarios/machines.ts'
import { ExposureError } from './errors.ts'

/** What is attacked, and for which setting. */
export interface AttackOptions {
  /** Schemes by name, one's own among them. */
  readonly schemes: Schemes
  /** The name of one of them. */
  readonly backend: string
  readonly driver: 'net' | 'blk'
  /** `transmit` or `receive`; of a disk `read` or `write`. */
  readonly operation: string
  /** `map` or `pool`; of frames that are received `pool-header` too: the headers are copied before they are read. */
  readonly mode: string
  readonly ring: 'split' | 'packed'
  /** Bytes of a frame, or of a request's data. */
  readonly bytes: number
  /** Bytes of guest RAM. Default 64 MiB. */
  readonly ramBytes?: number
  /** Operations per second. Default 100,000. */
  readonly perSecond?: number
  /**
   * How full the ring's 256 entries are at most, when one batch was completed and the next was lent: above 0 and up to 1.
   * Default 0.5.
   */
  readonly ringFill?: number
  /** For how long at least, on a virtual clock; whole batches. Default: 8 batches. */
  readonly seconds?: number
  /** Decides where buffers lie and what is tried. Default 1. */
  readonly seed?: number
}

/** Options that were checked and completed. */
export interface AttackSetting extends Required<Omit<AttackOptions, 'schemes' | 'mode' | 'operation'>> {
  readonly mode: 'map' | 'pool' | 'pool-header'
  readonly operation: 'transmit' | 'receive' | 'read' | 'write'
  /** Operations of one batch. */
  readonly size: number
}

/** Entries of the attacked ring. */
export const QUEUE_SIZE = 256

const MODES: Readonly<Record<string, readonly string[]>> = {
  'net transmit': ['map', 'pool'],
  'net receive': ['map', 'pool', 'pool-header'],
  'blk read': ['map', 'pool'],
  'blk write': ['map', 'pool'],
}

const SIZES = { net: [64, 1514], blk: [512, 4096] } as const

// Pools of 8 MiB for two devices, their rings and buffers have to find room.
const LEAST_RAM = 32 << 20
const MOST_RAM = 2 ** 30
const LONGEST = { net: 1514, blk: 16_384 } as const
const DEFAULT_BATCHES = 8
// More would not end within a day.
const MOST_BATCHES = 1e6

/** @throws ExposureError `EXPOSURE_SCHEME`, `EXPOSURE_WORK`, `EXPOSURE_SETTING` */
export function checkedSetting(options: AttackOptions): AttackSetting {
  const { schemes, backend, driver, operation, mode, ring, bytes } = options
  const { ramBytes = 64 << 20, perSecond = 100_000, ringFill = 0.5, seed = 1 } = options
  if (!Object.hasOwn(schemes, backend)) {
    const message = `there is no scheme '${backend}'; there are ${Object.keys(schemes).join(', ')}`
    throw new ExposureError('EXPOSURE_SCHEME', 'attack', message, { backend })
  }
  const work = (part: string, value: string, known: readonly string[]): void => {
    if (known.includes(value)) return
    const message = `there is no ${part} '${value}'; there are ${known.join(', ')}`
    throw new ExposureError('EXPOSURE_WORK', 'attack', message, { part, value })
  }
  work('driver', driver, Object.keys(SIZES))
  const operations = Object.keys(MODES).filter((name) => name.startsWith(`${driver} `))
  work('operation', `${driver} ${operation}`, operations)
  work(`mode of ${driver} ${operation}`, mode, MODES[`${driver} ${operation}`])
  work('ring', ring, ['split', 'packed'])

  const setting = (part: string, value: number, fits: boolean, needed: string): void => {
    if (fits) return
    throw new ExposureError('EXPOSURE_SETTING', part, `${value}: ${needed} is needed`, { [part]: value })
  }
  const longest = LONGEST[driver]
  if (driver === 'net')
    setting(
      'bytes',
      bytes,
      Number.isInteger(bytes) && bytes >= 60 && bytes <= longest,
      `a whole number from 60 to ${longest}`,
    )
  else
    setting('bytes', bytes, bytes >= 512 && bytes <= longest && bytes % 512 === 0, `a multiple of 512 up to ${longest}`)
  const isRam = ramBytes >= LEAST_RAM && ramBytes <= MOST_RAM && ramBytes % 4096 === 0
  setting('ramBytes', ramBytes, isRam, `a multiple of 4096 from ${LEAST_RAM} to ${MOST_RAM}`)
  setting('perSecond', perSecond, perSecond > 0 && perSecond < Infinity, 'a number above 0')
  setting('ringFill', ringFill, ringFill > 0 && ringFill <= 1, 'a number above 0 and up to 1')
  setting('seed', seed, Number.isSafeInteger(seed), 'a whole number')
  const size = Math.max(1, Math.floor((ringFill * QUEUE_SIZE) / 2))
  const { seconds = (DEFAULT_BATCHES * size) / perSecond } = options
  const mostSeconds = (MOST_BATCHES * size) / perSecond
  setting('seconds', seconds, seconds > 0 && seconds <= mostSeconds, `a number above 0 and up to ${mostSeconds}`)
  return {
    backend,
    driver,
    operation: operation as AttackSetting['operation'],
    mode: mode as AttackSetting['mode'],
    ring,
    bytes,
    ramBytes,
    perSecond,
    ringFill,
    seed,
    size,
    seconds,
  }
}

/**
 * A case for each of the schemes, operations, modes and two sizes, in a setting that suffices for a comparison.
 *
 * @param backends names of schemes
 */
export function exposureCases(backends: readonly string[]): Omit<AttackOptions, 'schemes'>[] {
  return backends.flatMap((backend) =>
    Object.entries(MODES).flatMap(([work, modes]) => {
      const [driver, operation] = work.split(' ') as ['net' | 'blk', string]
      return modes.flatMap((mode) =>
        SIZES[driver].map((bytes) => ({ backend, driver, operation, mode, ring: 'split' as const, bytes })),
      )
    }),
  )
}
