/** Where a value lies with 95 % confidence. */
export interface Interval {
  readonly least: number
  readonly most: number
}

/** How sure an {@link Interval} is. */
export const CONFIDENCE = 0.95

/** Two-sided 95 % points of Student's t, for 1 to 30 degrees of freedom. */
export const STUDENT_T: readonly number[] = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
]

/**
 * The ratio of two times, as an interval: Welch's t-interval of the difference of the logarithms. Processes slow down by
 * factors, so logarithms are closer to a normal distribution than times are; nothing is assumed of their spreads.
 *
 * @param before,after independent measurements, each above 0
 * @returns `null` where either has fewer than two, since nothing then tells how much they differ by chance
 */
export function ratioInterval(before: readonly number[], after: readonly number[]): Interval | null {
  if (before.length < 2 || after.length < 2) return null
  const [a, b] = [before, after].map((times) => {
    const logs = times.map(Math.log)
    return { mean: mean(logs), error: variance(logs) / logs.length, freedom: logs.length - 1 }
  })
  const error = a.error + b.error
  // The Welch-Satterthwaite equation.
  const freedom = error === 0 ? 1 : error ** 2 / (a.error ** 2 / a.freedom + b.error ** 2 / b.freedom)
  return around(b.mean - a.mean, Math.sqrt(error), freedom)
}

/**
 * The geometric mean of ratios, as an interval: the t-interval of the mean of their logarithms.
 *
 * @param ratios independent of each other, each above 0
 * @returns `null` where there are fewer than two
 */
export function meanRatioInterval(ratios: readonly number[]): Interval | null {
  if (ratios.length < 2) return null
  const logs = ratios.map(Math.log)
  return around(mean(logs), Math.sqrt(variance(logs) / logs.length), logs.length - 1)
}

/** The geometric mean of values above 0. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(mean(values.map(Math.log)))
}

// Freedom is rounded down, and cut at the end of the table, so that an interval is rather too wide than too narrow.
function around(center: number, error: number, freedom: number): Interval {
  const margin = error * STUDENT_T[Math.min(STUDENT_T.length, Math.max(1, Math.floor(freedom))) - 1]
  return { least: Math.exp(center - margin), most: Math.exp(center + margin) }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

// Of a sample: divided by one less than its size.
function variance(values: readonly number[]): number {
  const center = mean(values)
  return values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1)
}
