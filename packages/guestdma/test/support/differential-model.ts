import { type BlkOp, DISK_BYTES, DISKS, type DiskName, digest, NETS, type Script } from './differential-script.ts'

/** Everything that a script leaves behind and that no scheme may change. */
export interface Outcome {
  /** By `receiver<sender`: the frames in order. */
  readonly received: Readonly<Record<string, readonly string[]>>
  /** By request, in the order of the script: how it ended, and what it read. */
  readonly requests: readonly string[]
  /** At the end of each round: the memory that the operations' buffers lie in, and everything around them. */
  readonly arenas: readonly string[]
  readonly disks: readonly string[]
}

/** The names of all streams of frames. */
export function streams({ network }: Script): string[] {
  if (network === 'wire') return ['right<left', 'left<right', 'third<third']
  return NETS.flatMap((to) => NETS.filter((from) => from !== to).map((from) => `${to}<${from}`))
}

/** What a disk is at the beginning. */
export function blankDisk(name: DiskName): Uint8Array<ArrayBuffer> {
  return BLANK.slice(0, DISK_BYTES[name])
}

const BLANK = Uint8Array.from({ length: Math.max(...Object.values(DISK_BYTES)) }, (_, i) => (i >>> 9) * 7 + i)

/** A request's line in {@link Outcome.requests}. */
export function line({ id, kind, disk }: BlkOp, status: string, data: string): string {
  return `${id} ${kind} ${disk}: ${status}${data === '' ? '' : ` ${data}`}`
}

/** What a script has to leave behind: computed from the script alone, without driver, device, queue or backend. */
export function expected(script: Script): Outcome {
  const received: Record<string, string[]> = Object.fromEntries(streams(script).map((name) => [name, []]))
  const images = Object.fromEntries(DISKS.map((name) => [name, blankDisk(name)])) as Record<DiskName, Uint8Array>
  const requests: string[] = []
  const arenas: string[] = []
  for (const { steps, arena } of script.rounds) {
    const after = arena.slice()
    for (const step of steps) {
      if (step.kind === 'send') {
        for (const { from, to, bytes } of step.frames)
          for (const name of to) received[`${name}<${from}`].push(digest(bytes))
      } else if (step.kind === 'blk') {
        for (const op of step.ops) requests.push(line(op, op.status, execute(op, images[op.disk], after)))
      }
    }
    arenas.push(digest(after))
  }
  return { received, requests, arenas, disks: DISKS.map((name) => digest(images[name])) }
}

// Requests of one round do not clash, so their order does not matter.
function execute(
  { kind, sector, length, at, bytes, status, disk }: BlkOp,
  image: Uint8Array,
  arena: Uint8Array,
): string {
  if (status !== 'ok') return ''
  const from = sector * 512
  switch (kind) {
    case 'write':
    case 'put':
      image.set(bytes, from)
      return ''
    case 'read':
      arena.set(image.subarray(from, from + length), at)
      return digest(image.slice(from, from + length))
    case 'get':
      return digest(image.slice(from, from + length))
    case 'id':
      return `${disk} of the differential`.slice(0, 20)
    default:
      return ''
  }
}
