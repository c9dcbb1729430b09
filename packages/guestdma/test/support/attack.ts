// What a device in a worker does that uses every grant for as long as it may: it asks for an address again and again, and
// reads what it was granted many times before it asks anew. Both threads share these words.
import type { BusPort } from '@guestdma/memory'

export const TARGET_LOW = 0
export const TARGET_HIGH = 1
/** Words that were read, and how many of them were odd. */
export const READS = 2
export const ODD = 3
/** Times that the address was asked for. */
export const ROUNDS = 4

const ASKS = 8
const READS_OF_A_GRANT = 400

/** One poll of the device. */
export function attack(port: BusPort, words: Int32Array): void {
  for (let ask = 0; ask < ASKS; ask++) {
    port.request[0] = Atomics.load(words, TARGET_HIGH) * 2 ** 32 + (Atomics.load(words, TARGET_LOW) >>> 0)
    Atomics.add(words, ROUNDS, 1)
    if (port.resolve(4, 1) !== 4) continue
    const { region, offset } = port
    for (let i = 0; i < READS_OF_A_GRANT; i++)
      if ((Atomics.load(region.u32, offset >>> 2) & 1) === 1) Atomics.add(words, ODD, 1)
    Atomics.add(words, READS, READS_OF_A_GRANT)
  }
}
