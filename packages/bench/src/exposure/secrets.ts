import type { Random } from './random.ts'

/**
 * What the bytes of the guest look like, so that whoever reads one knows whose it is. No byte is 0, which is what
 * cleared memory holds.
 */
export type Owner = 'guest' | 'attacked' | 'another'

// The lowest value, and how many there are.
const VALUES: Readonly<Record<Owner, readonly [lowest: number, count: number]>> = {
  guest: [0x01, 0x3f],
  another: [0x40, 0x40],
  attacked: [0x80, 0x80],
}

/** Is it a byte that was planted for `owner`? */
export function isOf(owner: Owner, byte: number): boolean {
  const [lowest, count] = VALUES[owner]
  return byte >= lowest && byte < lowest + count
}

// A prime: no page holds what another one holds.
const BLOCK = 65_521

/** Plants secrets in guest RAM and elsewhere, and knows what it planted. */
export class Secrets {
  /** What guest RAM holds, by the CPU. */
  readonly ram: Uint8Array
  /** What was planted there. */
  readonly planted: Uint8Array
  private readonly blocks: Readonly<Record<Owner, Uint8Array>>
  private readonly random: Random

  /** Fills `ram` with what the guest owns. */
  constructor(ram: Uint8Array, random: Random) {
    const block = ([lowest, count]: readonly [number, number]): Uint8Array =>
      Uint8Array.from({ length: BLOCK }, () => lowest + random.below(count))
    this.blocks = { guest: block(VALUES.guest), another: block(VALUES.another), attacked: block(VALUES.attacked) }
    this.random = random
    this.ram = ram
    for (let at = 0; at < ram.length; at += BLOCK)
      ram.set(this.blocks.guest.subarray(0, Math.min(BLOCK, ram.length - at)), at)
    this.planted = ram.slice()
  }

  /** Fills bytes [offset, offset + length) of `bytes`; at most 32 KiB. */
  fill(owner: Owner, bytes: Uint8Array, offset: number, length: number): void {
    const from = this.random.below(BLOCK - length)
    bytes.set(this.blocks[owner].subarray(from, from + length), offset)
    if (bytes.buffer === this.ram.buffer) this.planted.set(bytes.subarray(offset, offset + length), offset)
  }

  /** Clears bytes of guest RAM: nothing secret is there any more. */
  clear(offset: number, length: number): void {
    this.ram.fill(0, offset, offset + length)
    this.planted.fill(0, offset, offset + length)
  }
}
