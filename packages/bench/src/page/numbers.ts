/** A number as it is read: three digits that count, thousands apart, and millions as such. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '–'
  const size = Math.abs(value)
  if (size === 0) return '0'
  if (size >= 1e6) return (value < 0 ? '-' : '') + scaled(size, '').trim()
  if (size >= 100) return Math.round(value).toLocaleString('en')
  if (size < 0.001) return value.toExponential(1)
  return String(Number(value.toPrecision(3)))
}

const UNITS = ['', 'k', 'M', 'G', 'T'] as const

/** A number with the unit that its size asks for, such as `4 kB`. */
export function scaled(value: number, unit: string): string {
  if (value < 1) return `${figure(value)} ${unit}`
  let power = Math.min(UNITS.length - 1, Math.floor(Math.log10(value) / 3))
  if (Number((value / 1000 ** power).toPrecision(3)) >= 1000 && power < UNITS.length - 1) power++
  return `${Number((value / 1000 ** power).toPrecision(3))} ${UNITS[power]}${unit}`
}

/** A time with the unit that its size asks for. */
export function time(ns: number): string {
  if (ns < 1e3) return `${figure(ns)} ns`
  if (ns < 1e6) return `${figure(ns / 1e3)} µs`
  return ns < 1e9 ? `${figure(ns / 1e6)} ms` : `${figure(ns / 1e9)} s`
}

/** Ticks of a logarithmic scale: some of each decade where there is room for them, else as many decades as there is room for. */
export function logTicks(low: number, high: number, most = 7): number[] {
  const first = Math.floor(Math.log10(low))
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => first + i)
  const within = (tick: number): boolean => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)
  for (const digits of [
    [1, 1.5, 2, 3, 5, 7],
    [1, 2, 5],
  ]) {
    const fine = powers.flatMap((power) => digits.map((digit) => digit * 10 ** power)).filter(within)
    if (fine.length <= most) return fine
  }
  const decades = powers.map((power) => 10 ** power).filter(within)
  const step = Math.ceil(decades.length / most)
  return decades.filter((_, i) => i % step === 0)
}

/** A logarithmic axis that has a place for values that no logarithm has: zero, and `null` for none. */
export interface LogAxis {
  /** Where a value goes on the scale. */
  place(value: number | null): number
  /** From which value on to which one the scale goes. */
  readonly domain: readonly [number, number]
  readonly ticks: readonly number[]
  format(tick: number): string
  /** The band of values that have no logarithm; `null` where no value is in it. */
  readonly band: { readonly from: number; readonly to: number; readonly centre: number } | null
}

/**
 * Makes an axis for values.
 *
 * @param zero what stands below the band
 * @param format of the other ticks
 * @param most how many ticks beside the band there is room for
 */
export function logAxis(
  values: readonly (number | null)[],
  zero: string,
  format: (value: number) => string,
  most = 8,
): LogAxis {
  const above = values.filter((value): value is number => value !== null && Number.isFinite(value) && value > 0)
  const low = above.length === 0 ? 1 : Math.floor(Math.log10(Math.min(...above)) + 1e-9)
  const first = above.length === 0 ? 0 : low
  const last = Math.max(first + 1, above.length === 0 ? 1 : Math.ceil(Math.log10(Math.max(...above)) - 1e-9))
  const banded = above.length < values.length
  const step = Math.ceil((last - first + 1) / most)
  const decades = Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step))
  // The band is as wide as a decade of an axis of eight decades.
  const width = Math.max(0.25, (last - first) / 8)
  const centre = 10 ** (first - width)
  const from = 10 ** (first - 1.5 * width)
  return {
    place: (value) => (value !== null && value > 0 ? value : centre),
    domain: [banded ? from : 10 ** first, 10 ** last],
    ticks: banded ? [centre, ...decades] : decades,
    format: (tick) => (banded && tick === centre ? zero : format(tick)),
    band: banded ? { from, to: 10 ** (first - 0.5 * width), centre } : null,
  }
}
