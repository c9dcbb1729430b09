import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import { random } from './workload.ts'

/** What of a run has two values or more, beside what its rows say: `asking`, and the ring features of all devices. */
const LEVELS = {
  /** The device asks its port for each access; otherwise it may use what the port says about windows. */
  asking: [true, false],
  packed: [false, true],
  indirect: [true, false],
  eventIndex: [true, false],
  /** Not offered; one used element for each chain; one for a batch. */
  inOrder: ['no', 'each', 'batches'],
  notificationData: [false, true],
  /** Only PCI has a register for it. */
  notifConfigData: [false, true],
  /** Single queues are reset in the middle of the script. */
  ringReset: [true, false],
  /** Devices are suspended and resumed in the middle of the script. */
  suspend: [true, false],
  orderPlatform: [false, true],
} as const

/** One value of each: how the devices of a run are made. */
export type Choice = { readonly [K in keyof typeof LEVELS]: (typeof LEVELS)[K][number] }

/** The ring features that are switched by a choice, and whether they are to be agreed on. */
export function ringFeatures(choice: Choice): (readonly [bit: number, wanted: boolean])[] {
  return [
    [VIRTIO_F_RING_PACKED, choice.packed],
    [VIRTIO_F_INDIRECT_DESC, choice.indirect],
    [VIRTIO_F_EVENT_IDX, choice.eventIndex],
    [VIRTIO_F_IN_ORDER, choice.inOrder !== 'no'],
    [VIRTIO_F_NOTIFICATION_DATA, choice.notificationData],
    [VIRTIO_F_NOTIF_CONFIG_DATA, choice.notifConfigData],
    [VIRTIO_F_ORDER_PLATFORM, choice.orderPlatform],
    [VIRTIO_F_RING_RESET, choice.ringReset],
    [VIRTIO_F_SUSPEND, choice.suspend],
  ]
}

const NAMES = Object.keys(LEVELS) as (keyof Choice)[]
const pairOf = (a: string, b: string): string => (a < b ? `${a}, ${b}` : `${b}, ${a}`)

/** All pairs of values that stand in one row, each as `name=value, name=value`. */
export function pairsIn(row: Readonly<Record<string, unknown>>): string[] {
  const values = Object.entries(row).map(([name, value]) => `${name}=${String(value)}`)
  return values.flatMap((a, i) => values.slice(i + 1).map((b) => pairOf(a, b)))
}

/** All pairs that have to occur: those of two values that are chosen, and those of one and a value of the rows. */
export function pairsAsked(rows: readonly Readonly<Record<string, unknown>>[]): Set<string> {
  const given = new Set(rows.flatMap((row) => Object.entries(row).map(([name, value]) => `${name}=${String(value)}`)))
  const chosen = NAMES.map((name) => LEVELS[name].map((value) => `${name}=${String(value)}`))
  const pairs = new Set<string>()
  chosen.forEach((values, i) => {
    for (const a of values) for (const b of [...given, ...chosen.slice(i + 1).flat()]) pairs.add(pairOf(a, b))
  })
  return pairs
}

/**
 * Chooses for each row such that every pair occurs in some row: one value after another, each time the one that brings
 * the most pairs that did not occur, and of several any.
 */
export function cover<T extends Readonly<Record<string, unknown>>>(rows: readonly T[]): (T & Choice)[] {
  const missing = pairsAsked(rows)
  const next = random(rows.length)
  return rows.map((row, n) => {
    const made: Record<string, unknown> = { ...row }
    // Each time another one is chosen first, and has the most pairs to find.
    for (const name of NAMES.map((_, i) => NAMES[(i + n) % NAMES.length])) {
      const before = Object.entries(made)
      const gain = (value: unknown): number =>
        before.filter(([other, its]) => missing.has(pairOf(`${name}=${String(value)}`, `${other}=${String(its)}`)))
          .length
      const most = Math.max(...LEVELS[name].map(gain))
      const best = LEVELS[name].filter((value) => gain(value) === most)
      made[name] = best[next() % best.length]
    }
    for (const pair of pairsIn(made)) missing.delete(pair)
    return made as T & Choice
  })
}

/** Any choice; `pick(n)` returns an integer below n. */
export function anyChoice(pick: (limit: number) => number): Choice {
  return Object.fromEntries(NAMES.map((name) => [name, LEVELS[name][pick(LEVELS[name].length)]])) as unknown as Choice
}
