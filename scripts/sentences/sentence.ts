import type { Reason } from './reasons.ts'

/** The keyword of RFC 2119, or several where one sentence has several. */
type Level = string

/** Who has to do what a sentence asks; `both` where the text asks it of drivers and devices at once. */
type Side = 'driver' | 'device' | 'both'

/**
 * What a sentence asks, in our words. A sentence without a reason has a test. One entry may stand for several sentences
 * of one part that is not built: `count` tells how many.
 */
type Entry = readonly [level: Level, asks: string, reason?: Reason, count?: number]

/** Sentences of a section of virtio 1.4, by their short names. */
export interface Section {
  readonly number: string
  readonly title: string
  readonly side: Side
  readonly sentences: Readonly<Record<string, Entry>>
}

export interface Chapter {
  readonly title: string
  readonly sections: readonly Section[]
}

/** An entry with what its place says. */
export interface Sentence {
  /** The section's number and the short name: `2.7.10.1/doorbell-by-flags`. Tests name it as their tag. */
  readonly key: string
  readonly level: Level
  readonly side: Side
  readonly asks: string
  readonly reason: Reason | undefined
  readonly count: number
}

/** The sentences of a section. */
export function sentencesOf({ number, side, sentences }: Section): Sentence[] {
  return Object.entries(sentences).map(([name, [level, asks, reason, count = 1]]) => ({
    key: `${number}/${name}`,
    level,
    side,
    asks,
    reason,
    count,
  }))
}
