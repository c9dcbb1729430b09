import type { Random } from '../contract/random.ts'

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
const PAGE = 4096

/** Plants secrets in guest RAM and elsewhere, and knows what it planted. */
export class Secrets {
  /** What guest RAM holds, by the CPU. */
  readonly ram: Uint8Array
  // Pages of RAM that hold anything else than the blocks of the guest's.
  private readonly pages = new Map<number, Uint8Array>()
  private readonly blocks: Readonly<Record<Owner, Uint8Array>>
  private readonly random: Random

  /** Fills `ram` with what the guest owns. */
  constructor(ram: Uint8Array, random: Random) {
    const bytes = Uint8Array.from({ length: BLOCK }, () => random.below(256))
    const block = ([lowest, count]: readonly [number, number]): Uint8Array =>
      bytes.map((byte) => lowest + (byte % count))
    this.blocks = { guest: block(VALUES.guest), another: block(VALUES.another), attacked: block(VALUES.attacked) }
    this.random = random
    this.ram = ram
    this.refill(ram, 0)
  }

  /** Fills bytes [offset, offset + length) of `bytes`; at most 32 KiB. */
  fill(owner: Owner, bytes: Uint8Array, offset: number, length: number): void {
    const from = this.random.below(BLOCK - length)
    bytes.set(this.blocks[owner].subarray(from, from + length), offset)
    if (bytes.buffer === this.ram.buffer) this.remember(offset, length)
  }

  /** Clears bytes of guest RAM: nothing secret is there any more. */
  clear(offset: number, length: number): void {
    this.ram.fill(0, offset, offset + length)
    this.remember(offset, length)
  }

  /** What was planted at an offset of guest RAM; 0 where it was cleared. */
  plantedAt(offset: number): number {
    return this.pages.get(Math.floor(offset / PAGE))?.[offset % PAGE] ?? this.blocks.guest[offset % BLOCK]
  }

  private remember(offset: number, length: number): void {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const number = Math.floor(at / PAGE)
      const stop = Math.min(end, (number + 1) * PAGE)
      const page = this.pages.get(number) ?? this.page(number)
      page.set(this.ram.subarray(at, stop), at % PAGE)
      at = stop
    }
  }

  private page(number: number): Uint8Array {
    const page = new Uint8Array(PAGE)
    this.refill(page, number * PAGE)
    this.pages.set(number, page)
    return page
  }

  // Fills `bytes` with what RAM held at `offset` in the beginning.
  private refill(bytes: Uint8Array, offset: number): void {
    for (let at = 0; at < bytes.length; ) {
      const from = (offset + at) % BLOCK
      const part = this.blocks.guest.subarray(from, from + bytes.length - at)
      bytes.set(part, at)
      at += part.length
    }
  }
}
