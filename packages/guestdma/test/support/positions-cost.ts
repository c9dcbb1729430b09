import type { BusWindows } from '@guestdma/devices'
import type { MeterSnapshot } from '@guestdma/memory'
import { expect } from 'vitest'
import { pattern } from './machines.ts'
import type { Site } from './positions.ts'

/** Accesses to a device's own memory so far. */
export function snapshot({ made }: Site, device: string): MeterSnapshot {
  const [{ region }] = (made.device(device).port as BusWindows).windows
  return (region.meter as NonNullable<typeof region.meter>).snapshot()
}

const PACKETS = 64

/** What it costs to send and to receive one packet, on average over a batch. */
export async function cost(here: Site, bytes: number): Promise<MeterSnapshot> {
  const { made, frames } = here
  made.pump()
  frames.length = 0
  const before = snapshot(here, 'net0')
  for (let i = 0; i < PACKETS; i++) expect(made.net('net0').sendCopy(pattern(bytes, i))).toBe(true)
  made.pump()
  expect(frames.length).toBe(PACKETS)
  const after = snapshot(here, 'net0')
  const widths = (key: 'loads' | 'stores'): MeterSnapshot['loads'] => ({
    1: (after[key][1] - before[key][1]) / PACKETS,
    2: (after[key][2] - before[key][2]) / PACKETS,
    4: (after[key][4] - before[key][4]) / PACKETS,
    8: (after[key][8] - before[key][8]) / PACKETS,
  })
  return {
    loads: widths('loads'),
    stores: widths('stores'),
    bytesLoaded: (after.bytesLoaded - before.bytesLoaded) / PACKETS,
    bytesStored: (after.bytesStored - before.bytesStored) / PACKETS,
  }
}

/** Of all widths together. */
export const accesses = ({ loads, stores }: MeterSnapshot): number =>
  [loads, stores].flatMap((counts) => Object.values(counts) as number[]).reduce((sum, count) => sum + count, 0)
