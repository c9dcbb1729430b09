import { random } from './workload.ts'

export const NETS = ['left', 'right', 'third'] as const
export const DISKS = ['disk0', 'disk1'] as const
export type NetName = (typeof NETS)[number]
export type DiskName = (typeof DISKS)[number]

/** Bytes of each disk. `disk1` answers late and in any order, and cannot read or write its last sector. */
export const DISK_BYTES: Readonly<Record<DiskName, number>> = { disk0: 1 << 20, disk1: 512 << 10 }
export const JUMBO_MTU = 65_535
/** Bytes of guest memory that the operations' own buffers lie in. */
export const ARENA_BYTES = 1 << 20

const SECTOR = 512
const HEADER = 12
const ETHERNET = 14
const LONGEST_TRANSFER = 256 << 10
const JUMBO = JUMBO_MTU + ETHERNET
const PLAIN = 1500 + ETHERNET
// Around the sizes of headers, slots and granules.
const SIZES = [14, 15, 60, 61, 62, 63, 64, 66, 128, 590, 1512, 1513, 1514, 2036, 2037, 2048, 4083, 4084, 4096, 9014]

export interface FrameOp {
  readonly id: number
  readonly from: NetName
  readonly to: readonly NetName[]
  readonly bytes: Uint8Array<ArrayBuffer>
  /** How a driver in `map` mode gets it: `sendCopy`, a buffer of its own, or in place, with or without its header. */
  readonly how: 'copy' | 'own' | 'place' | 'headed'
  /** Offset in the arena, where it lies there. */
  readonly at: number
}

export interface BlkOp {
  readonly id: number
  readonly disk: DiskName
  /** `get` and `put` are reads and writes through memory of the driver's. */
  readonly kind: 'read' | 'write' | 'get' | 'put' | 'flush' | 'id'
  readonly sector: number
  readonly length: number
  /** Offset in the arena, for `read` and `write`. */
  readonly at: number
  readonly bytes: Uint8Array<ArrayBuffer>
  /** What it has to end with. */
  readonly status: 'ok' | 'BLK_IOERR' | 'BLK_RANGE' | 'BLK_LENGTH'
}

/** Where RING_RESET was agreed: one queue of each is reset; a disk has but one. */
export interface QueueResetStep {
  readonly kind: 'queueReset'
  readonly names: readonly (NetName | DiskName)[]
  readonly which: 'receive' | 'transmit'
}

export type Step =
  | { readonly kind: 'send'; readonly frames: readonly FrameOp[] }
  | { readonly kind: 'blk'; readonly ops: readonly BlkOp[] }
  | { readonly kind: 'pump'; readonly budget: number }
  | { readonly kind: 'reset'; readonly names: readonly (NetName | DiskName)[] }
  | QueueResetStep
  /** Where SUSPEND was agreed: each is suspended, and resumed after the step that follows. */
  | { readonly kind: 'suspend'; readonly names: readonly (NetName | DiskName)[] }

/** Operations that are in flight together; at its end all of them are done. */
interface Round {
  readonly steps: readonly Step[]
  /** The arena as the round begins. */
  readonly arena: Uint8Array<ArrayBuffer>
}

/** What to do, whatever the scheme. */
export interface Script {
  readonly seed: number
  /** left and right on a wire and third on a loopback, or all three on a switch. */
  readonly network: 'wire' | 'switch'
  readonly rounds: readonly Round[]
  /** Guest memory is a `WebAssembly.Memory` that grows now and then, in callbacks too. */
  readonly grows: boolean
  readonly queueSize: number
}

/** FNV-1a over words and the bytes that are left, and the length. */
export function digest(bytes: Uint8Array): string {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice()
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length >>> 2)
  let hash = 0x811c9dc5
  for (let i = 0; i < words.length; i++) {
    hash = Math.imul(hash ^ words[i], 0x01000193)
    hash ^= hash >>> 15
  }
  for (let i = words.length * 4; i < bytes.length; i++) hash = Math.imul(hash ^ bytes[i], 0x01000193)
  return `${bytes.length}:${(hash >>> 0).toString(16)}`
}

/** Makes the script of a seed. */
export function makeScript(seed: number, roundCount: number): Script {
  return new Generator(seed).script(roundCount)
}

class Generator {
  private readonly seed: number
  private readonly next: () => number
  // For the steps between the others, which stay what their seeds were chosen for; its own seed is chosen likewise.
  private readonly more: () => number
  private readonly network: Script['network']
  private ids = 0
  // Of the round under way.
  private arena = new Uint8Array(ARENA_BYTES)
  private cursor = 0
  private taken: { disk: DiskName; from: number; to: number; write: boolean }[] = []

  constructor(seed: number) {
    this.seed = seed
    this.next = random(seed)
    this.more = random(seed ^ 0xc)
    this.network = (seed >>> 1) % 2 === 0 ? 'wire' : 'switch'
  }

  script(roundCount: number): Script {
    const { seed, network } = this
    const queueSize = [4, 8, 16][this.below(3)]
    const rounds: Round[] = []
    // A switch learns where everybody is before anything is sent to one device.
    if (network === 'switch') rounds.push(this.round(() => [{ kind: 'send', frames: NETS.map((n) => this.hello(n)) }]))
    while (rounds.length < roundCount) rounds.push(this.round(() => this.interrupted(this.steps())))
    const grows = (seed >>> 2) % 2 === 1
    return { seed, network, rounds, grows, queueSize }
  }

  private below(limit: number): number {
    return this.next() % limit
  }

  private data(length: number): Uint8Array<ArrayBuffer> {
    const words = new Uint32Array((length + 3) >>> 2)
    let state = this.next() | 1
    for (let i = 0; i < words.length; i++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      words[i] = state
    }
    return new Uint8Array(words.buffer, 0, length)
  }

  private round(make: () => Step[]): Round {
    this.arena = new Uint8Array(ARENA_BYTES).fill(this.below(256))
    this.cursor = this.below(8192)
    this.taken = []
    return { steps: make(), arena: this.arena }
  }

  private steps(): Step[] {
    const steps: Step[] = []
    for (let left = 6 + this.below(6); left > 0; left--) {
      const what = this.below(16)
      if (what < 7) {
        const frames = Array.from({ length: 1 + this.below(this.below(3) === 0 ? 40 : 8) }, () => this.frame())
        steps.push({ kind: 'send', frames })
      } else if (what < 12) {
        steps.push({ kind: 'blk', ops: Array.from({ length: 1 + this.below(6) }, () => this.request()) })
      } else if (what < 13) {
        steps.push({ kind: 'pump', budget: this.below(3) === 0 ? 1 + this.below(8) : 64 })
      } else {
        const names = [...NETS, ...DISKS].filter(() => this.below(4) === 0)
        if (names.length > 0) steps.push({ kind: 'reset', names })
      }
    }
    return steps
  }

  // Queues are reset, and devices suspended, between any two steps.
  private interrupted(steps: Step[]): Step[] {
    const { more } = this
    const some = (): (NetName | DiskName)[] => {
      const all = [...NETS, ...DISKS]
      const first = all[more() % all.length]
      return all.filter((name) => name === first || more() % 4 === 0)
    }
    for (let left = 2 + (more() % 3); left > 0; left--) {
      const which = more() % 2 === 0 ? 'receive' : 'transmit'
      const step: Step =
        left % 2 === 0 ? { kind: 'queueReset', names: some(), which } : { kind: 'suspend', names: some() }
      // Both move all that is under way. A reset of a device is to find something.
      let at = more() % (steps.length + 1)
      while (steps.slice(at, at + 2).some(({ kind }) => kind === 'reset')) at++
      steps.splice(at, 0, step)
    }
    return steps
  }

  private hello(from: NetName): FrameOp {
    return this.frameOf(from, 60, 'copy', NETS.length)
  }

  private frame(): FrameOp {
    const from = NETS[this.below(8) < 7 ? this.below(2) : 2]
    const others = NETS.length - 1
    // To one of the others, or now and then to both.
    const to = this.network === 'wire' || this.below(6) > 0 ? this.below(others) : NETS.length
    const plain = from === 'third' || (this.network === 'switch' && this.peers(from, to).includes('third'))
    const longest = plain ? PLAIN : JUMBO
    const kind = this.below(32)
    const least = this.network === 'wire' ? 1 : ETHERNET
    let size = SIZES[this.below(SIZES.length)]
    if (kind < 8) size = least + this.below(128)
    else if (kind === 8) size = longest - this.below(3)
    else if (kind === 9) size = least + this.below(longest - least)
    return this.frameOf(from, Math.min(size, longest), (['copy', 'own', 'place', 'headed'] as const)[this.below(4)], to)
  }

  private peers(from: NetName, to: number): NetName[] {
    if (this.network === 'wire') return [from === 'left' ? 'right' : from === 'right' ? 'left' : 'third']
    const others = NETS.filter((name) => name !== from)
    return to < others.length ? [others[to]] : others
  }

  private frameOf(from: NetName, size: number, wanted: FrameOp['how'], peer: number): FrameOp {
    const bytes = this.data(size)
    const to = this.peers(from, peer)
    if (this.network === 'switch') {
      bytes.fill(to.length === 1 ? 0 : 0xff, 0, 6)
      if (to.length === 1) bytes.set(macOf(to[0]))
      bytes.set(macOf(from), 6)
    }
    const lead = wanted === 'headed' ? HEADER : 0
    const at = wanted === 'place' || wanted === 'headed' ? this.place(size + lead) : -1
    if (at < 0) return { id: this.ids++, from, to, bytes, how: wanted === 'own' ? 'own' : 'copy', at }
    this.arena.fill(0, at, at + lead)
    this.arena.set(bytes, at + lead)
    return { id: this.ids++, from, to, bytes, how: wanted, at: at + lead }
  }

  private request(): BlkOp {
    const disk = DISKS[this.below(2)]
    const id = this.ids++
    const plain = { id, disk, sector: 0, length: 0, at: -1, bytes: new Uint8Array(0), status: 'ok' as const }
    const kind = this.below(16)
    if (kind === 0) return { ...plain, kind: 'flush' }
    if (kind === 1) return { ...plain, kind: 'id' }
    const sectors = DISK_BYTES[disk] / SECTOR
    if (kind === 2) return { ...plain, kind: 'get', sector: sectors - 1, length: 2 * SECTOR, status: 'BLK_RANGE' }
    if (kind === 3) return { ...plain, kind: 'get', length: SECTOR + 1 + this.below(SECTOR - 1), status: 'BLK_LENGTH' }
    const write = this.below(2) === 0
    if (kind === 4 && disk === 'disk1')
      return this.transfer(plain, write, sectors - 1, SECTOR, 'BLK_IOERR', this.below(4) === 0)
    const most = this.below(8) === 0 ? LONGEST_TRANSFER / SECTOR : this.below(3) === 0 ? 48 : 4
    const count = 1 + this.below(most)
    const sector = this.below(sectors - count - 1)
    const clash = this.taken.some(
      (other) => other.disk === disk && other.from < sector + count && other.to > sector && (write || other.write),
    )
    if (clash) return { ...plain, kind: 'flush' }
    this.taken.push({ disk, from: sector, to: sector + count, write })
    return this.transfer(plain, write, sector, count * SECTOR, 'ok', this.below(4) === 0)
  }

  private transfer(
    plain: Omit<BlkOp, 'kind'>,
    write: boolean,
    sector: number,
    length: number,
    status: BlkOp['status'],
    whole: boolean,
  ): BlkOp {
    // What a failed read leaves in its buffer is nobody's promise.
    const own = whole || status !== 'ok'
    const at = own ? -1 : this.place(length)
    const bytes = write ? this.data(length) : plain.bytes
    if (at >= 0 && write) this.arena.set(bytes, at)
    const kind = at < 0 ? (write ? 'put' : 'get') : write ? 'write' : 'read'
    return { ...plain, kind, sector, length, at, bytes, status }
  }

  // Somewhere behind what was placed before: right behind it, at 2 modulo 4, at an odd address, or further off. -1: the
  // arena is full.
  private place(length: number): number {
    const how = this.below(5)
    let at = this.cursor
    if (how === 1) at = (at & ~3) + 6
    else if (how === 2) at |= 1
    else if (how === 3) at += this.below(5000)
    else if (how === 4) at = Math.ceil(at / 4096) * 4096 + [0, 2, 4094][this.below(3)]
    if (at + length + 64 > ARENA_BYTES) return -1
    this.cursor = at + length
    return at
  }
}

/** The address of a net device: its last byte tells which. */
export function macOf(name: NetName): number[] {
  return [2, 0, 0, 0, 0, NETS.indexOf(name)]
}
