import { type Element, type Ram, Ring } from './guest.ts'
import { PackedRing } from './packed-ring.ts'

const NEXT = 1
const WRITE = 2

/** A driver's side that both formats have. */
export interface Guest {
  readonly areas: Uint32Array
  /** What a device may write beside buffers, as spans. */
  readonly writable: readonly (readonly [from: number, length: number])[]
  /** Makes chains available together, and returns their ids. There must be room. */
  offer(chains: readonly (readonly Element[])[]): number[]
  /** The ids that were used since the last call, in order. */
  reap(): number[]
}

export interface SplitGuest extends Guest {
  readonly ring: Ring
}

export interface PackedGuest extends Guest {
  readonly ring: PackedRing
}

export function splitGuest(ram: Ram, size: number): SplitGuest {
  const ring = new Ring(ram, size)
  const free = Array.from({ length: size }, (_, i) => i)
  const lists = new Map<number, number[]>()
  const list = (elements: readonly Element[]): number => {
    const rows = free.splice(0, elements.length)
    elements.forEach(({ address, length, w }, i) => {
      const flags = (w === true ? WRITE : 0) | (i + 1 < rows.length ? NEXT : 0)
      ring.describe(rows[i], address, length, flags, rows[i + 1] ?? 0)
    })
    lists.set(rows[0], rows)
    return rows[0]
  }
  return {
    ring,
    areas: Uint32Array.of(ring.desc, 0, ring.avail, 0, ring.used, 0),
    writable: [[ring.used, 6 + 8 * size]],
    offer: (chains) => {
      const heads = chains.map(list)
      ring.offer(...heads)
      return heads
    },
    reap: () => {
      const ids = ring.reap().map(({ id }) => id)
      for (const id of ids) free.push(...(lists.get(id) ?? []))
      return ids
    },
  }
}

export function packedGuest(ram: Ram, size: number): PackedGuest {
  const ring = new PackedRing(ram, size)
  const free = Array.from({ length: size }, (_, i) => i)
  return {
    ring,
    areas: Uint32Array.of(ring.desc, 0, ring.avail, 0, ring.used, 0),
    writable: [
      [ring.desc, 16 * size],
      [ring.used, 4],
    ],
    offer: (chains) =>
      chains.map((elements) => {
        const id = free.shift() as number
        ring.offer(id, ...elements)
        return id
      }),
    reap: () => {
      const ids = ring.reap().map(([id]) => id)
      free.push(...ids)
      return ids
    },
  }
}
