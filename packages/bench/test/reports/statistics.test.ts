import { describe, expect, test } from 'vitest'
import { geometricMean, meanRatioInterval, ratioInterval, STUDENT_T } from '../../src/reports/statistics.ts'

// The part of Student's t distribution above a point: Simpson's rule over its density.
function above(point: number, freedom: number): number {
  // Γ((n + 1) / 2) / Γ(n / 2), from that of n - 2.
  let ratio = freedom % 2 === 1 ? 1 / Math.sqrt(Math.PI) : Math.sqrt(Math.PI) / 2
  for (let n = freedom % 2 === 1 ? 3 : 4; n <= freedom; n += 2) ratio *= (n - 1) / (n - 2)
  const density = (x: number): number =>
    (ratio / Math.sqrt(freedom * Math.PI)) * (1 + x ** 2 / freedom) ** (-(freedom + 1) / 2)
  const steps = 4000
  const width = point / steps
  let sum = density(0) + density(point)
  for (let i = 1; i < steps; i++) sum += density(i * width) * (i % 2 === 1 ? 4 : 2)
  return 0.5 - (sum * width) / 3
}

test.each(STUDENT_T.map((point, i) => [i + 1, point]))(
  'with %i degrees of freedom 2.5 %% of the distribution lie above %d',
  (freedom, point) => {
    expect(above(point, freedom)).toBeCloseTo(0.025, 4)
  },
)

/** Normally distributed numbers, the same in every run. */
function normals(seed: number): () => number {
  let state = seed
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}

describe('the interval of two sets of times', () => {
  test("is Welch's, of the logarithms", () => {
    // Variances of 2, so that each mean has an error of 1 and there are 2 degrees of freedom.
    const { least, most } = ratioInterval([1, Math.E ** 2], [Math.E ** 4, Math.E ** 6]) ?? { least: 0, most: 0 }
    expect([Math.log(least), Math.log(most)]).toEqual([
      expect.closeTo(4 - 4.303 * Math.SQRT2),
      expect.closeTo(4 + 4.303 * Math.SQRT2),
    ])
  })

  test.each([
    [[1], [1, 2]],
    [[1, 2], [1]],
  ])('is none where either has one time: %j and %j', (before, after) => {
    expect(ratioInterval(before, after)).toBe(null)
  })

  test('is a point where nothing varies', () => {
    expect(ratioInterval([2, 2], [4, 4])).toEqual({ least: expect.closeTo(2), most: expect.closeTo(2) })
  })

  test.each([
    [3, 3, 0.05, 0.05],
    [5, 5, 0.02, 0.1],
    [10, 4, 0.1, 0.02],
  ])('has the true ratio in it in 95 of 100 runs, with %i and %i processes that vary by %d and %d', (m, n, s, t) => {
    const normal = normals(m * 100 + n)
    const draw = (count: number, ns: number, spread: number): number[] =>
      Array.from({ length: count }, () => ns * Math.exp(spread * normal()))
    const runs = 4000
    let inside = 0
    for (let i = 0; i < runs; i++) {
      const { least, most } = ratioInterval(draw(m, 60, s), draw(n, 72, t)) ?? { least: 0, most: 0 }
      if (least <= 1.2 && 1.2 <= most) inside++
    }
    expect(inside / runs).toBeGreaterThan(0.94)
    expect(inside / runs).toBeLessThan(0.98)
  })
})

describe('the interval of a mean of ratios', () => {
  test("is Student's, of the logarithms", () => {
    const { least, most } = meanRatioInterval([Math.E, Math.E ** 2, Math.E ** 3]) ?? { least: 0, most: 0 }
    const margin = 4.303 / Math.sqrt(3)
    expect([Math.log(least), Math.log(most)]).toEqual([expect.closeTo(2 - margin), expect.closeTo(2 + margin)])
  })

  test('is none for one ratio', () => {
    expect(meanRatioInterval([2])).toBe(null)
  })
})

test('the geometric mean of a ratio and its inverse is 1', () => {
  expect(geometricMean([4, 1 / 4])).toBeCloseTo(1)
})
