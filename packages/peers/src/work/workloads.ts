import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import type { ReceivedFrames } from '@guestdma/drivers'
import type { Peer } from '@guestdma/node'
import type { Machine } from 'guestdma'
import type { CaseProgress } from '../matrix/case.ts'

const SECTOR = 512

/** Numbers that are the same in each run (mulberry32). */
function seeded(seed: number): (limit: number) => number {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % limit
  }
}

/** Bytes that depend on their place and on `seed`. */
export function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >>> 8) * 7 + seed * 17 + 7) & 0xff
  return bytes
}

/** @throws Error that names the first byte that differs */
export function expectSame(what: string, found: Uint8Array, expected: Uint8Array): void {
  if (found.length !== expected.length) throw new Error(`${what}: ${found.length} bytes for ${expected.length}`)
  for (let i = 0; i < found.length; i++) {
    if (found[i] === expected[i]) continue
    throw new Error(`${what}: byte ${i} is ${found[i]} where ${expected[i]} was written`)
  }
}

/** @throws Error unless `found` is `expected` */
export function expectIs(what: string, found: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)]
  if (a !== b) throw new Error(`${what}: ${a} where ${b} is right`)
}

/**
 * Writes and reads at random places, several requests at once, and compares the whole disk with a model at the end.
 * Returns what the disk holds.
 */
export async function diskWork(
  machine: Machine,
  name: string,
  disk: Uint8Array,
  { saw }: CaseProgress,
  { rounds = 24, seed = 1, most = 64 << 10 }: { rounds?: number; seed?: number; most?: number } = {},
): Promise<Uint8Array> {
  const model = disk.slice()
  const random = seeded(seed)
  const sectors = model.length / SECTOR
  const blk = machine.blk(name)
  for (let round = 0; round < rounds; round++) {
    saw(`disk: round ${round} of ${rounds}`)
    const requests: Promise<unknown>[] = []
    // Within a round no two requests meet, since a device may order them as it likes.
    for (let part = 0; part < 4; part++) {
      const from = Math.floor((part * sectors) / 4)
      const room = Math.floor(((part + 1) * sectors) / 4) - from
      const count = Math.min(room, 1 + random(Math.min(room, most / SECTOR)))
      const at = from + random(room - count + 1)
      if (random(2) === 0) {
        const data = pattern(count * SECTOR, random(250))
        model.set(data, at * SECTOR)
        requests.push(blk.writeBytes(at, data))
      } else {
        const expected = model.slice(at * SECTOR, (at + count) * SECTOR)
        requests.push(blk.readBytes(at, count * SECTOR).then((found) => expectSame(`sector ${at}`, found, expected)))
      }
    }
    await machine.run(Promise.all(requests))
  }
  await machine.run(blk.flush())
  await wholeDisk(machine, name, model)
  return model
}

/** Reads the whole disk and compares it. */
export async function wholeDisk(machine: Machine, name: string, expected: Uint8Array): Promise<void> {
  const blk = machine.blk(name)
  const step = 32 << 10
  for (let at = 0; at < expected.length; at += step) {
    const length = Math.min(step, expected.length - at)
    const found = await machine.run(blk.readBytes(at / SECTOR, length))
    expectSame(`the disk from byte ${at} on`, found, expected.subarray(at, at + length))
  }
}

interface Work {
  readonly rounds?: number
  /** For each round. */
  readonly deadlineMs?: number
}

/** A station of a test network: what it received, and what its driver tells. */
export class Station {
  readonly frames: Uint8Array[] = []
  readonly observer = {
    frames: (batch: ReceivedFrames): void => {
      for (let i = 0; i < batch.count; i++) this.frames.push(batch.copy(i))
    },
  }
}

/** Frames of all lengths from one station to the other, in both directions; each arrives once, in order. */
export async function netWork(
  machine: Machine,
  names: readonly [string, string],
  stations: readonly [Station, Station],
  { saw }: CaseProgress,
  { rounds = 12, deadlineMs = 20_000 }: Work = {},
): Promise<void> {
  const random = seeded(7)
  // Receive buffers are posted by the first turn. What comes before them waits in QEMU, which then lets the next overtake.
  machine.pump()
  const sent: [Uint8Array[], Uint8Array[]] = [[], []]
  for (let round = 0; round < rounds; round++) {
    saw(`net: round ${round} of ${rounds}`)
    for (const side of [0, 1] as const) {
      for (let i = 0; i < 8; i++) {
        const frame = pattern(60 + random(1455), random(250))
        // Broadcast first, so that whatever is in between knows both stations.
        frame.set(round === 0 ? BROADCAST : (machine.net(names[1 - side]).mac ?? BROADCAST))
        frame.set(machine.net(names[side]).mac ?? OWN, 6)
        frame.set([0x88, 0xb5], 12)
        if (!machine.net(names[side]).sendCopy(frame)) throw new Error(`${names[side]} took no frame`)
        sent[side].push(frame)
      }
    }
    const until = performance.now() + deadlineMs
    const missing = (): boolean =>
      ([0, 1] as const).some((side) => stations[1 - side].frames.length < sent[side].length)
    while (missing()) {
      machine.pump()
      await turn()
      if (performance.now() > until) {
        const got = stations.map(({ frames }) => frames.length)
        throw new Error(`of ${sent.map(({ length }) => length)} frames the other side got ${got.reverse()}`)
      }
    }
  }
  for (const side of [0, 1] as const) {
    const { frames } = stations[1 - side]
    expectIs(`frames of ${names[side]}`, frames.length, sent[side].length)
    for (const [i, frame] of sent[side].entries()) expectSame(`frame ${i} of ${names[side]}`, frames[i], frame)
  }
}

const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
const OWN = [2, 0, 0, 0, 0, 1]

/** Frames to a station that sends each back with its two addresses exchanged. */
export async function echoWork(
  machine: Machine,
  name: string,
  station: Station,
  { saw }: CaseProgress,
  { rounds = 20, deadlineMs = 20_000 }: Work = {},
): Promise<void> {
  const random = seeded(11)
  // A station that has just started drops what comes before it forwards.
  const first = pattern(60, 1)
  first.set([2, 0, 0, 0, 0, 9, ...(machine.net(name).mac ?? OWN), 0x88, 0xb5])
  station.frames.length = 0
  const sendUntil = performance.now() + deadlineMs
  while (station.frames.length === 0) {
    machine.net(name).sendCopy(first)
    for (let i = 0; i < 100 && station.frames.length === 0; i++) {
      machine.pump()
      await turn()
    }
    if (performance.now() > sendUntil) throw new Error('no frame came back at all')
  }
  // What is still on its way is not taken for what comes next.
  for (const end = performance.now() + 50; performance.now() < end; machine.pump()) await turn()
  for (let round = 0; round < rounds; round++) {
    saw(`echo: round ${round} of ${rounds}`)
    station.frames.length = 0
    const sent = Array.from({ length: 16 }, () => {
      const frame = pattern(60 + random(1455), random(250))
      frame.set([2, 0, 0, 0, 0, 9])
      frame.set(machine.net(name).mac ?? OWN, 6)
      frame.set([0x88, 0xb5], 12)
      return frame
    })
    for (const frame of sent) if (!machine.net(name).sendCopy(frame)) throw new Error(`${name} took no frame`)
    for (const until = performance.now() + deadlineMs; station.frames.length < sent.length; ) {
      machine.pump()
      await turn()
      if (performance.now() > until) throw new Error(`of ${sent.length} frames ${station.frames.length} came back`)
    }
    for (const [i, frame] of sent.entries()) {
      const echo = frame.slice()
      echo.set(frame.subarray(6, 12), 0)
      echo.set(frame.subarray(0, 6), 6)
      expectSame(`the echo of frame ${i}`, station.frames[i], echo)
    }
  }
}

/** Lets the event loop run until something is so. Throws Error that says what did not come, and what the peer printed. */
export async function until(
  what: string | (() => string),
  done: () => boolean,
  peer?: Peer,
  deadlineMs = 30_000,
): Promise<void> {
  for (const end = performance.now() + deadlineMs; !done(); ) {
    const ended = peer?.ended ?? false
    if (ended || performance.now() > end) {
      const said =
        peer === undefined ? '' : `; ${peer.command} ${ended ? 'ended' : 'runs'} and printed: ${peer.output()}`
      throw new Error(`waited for ${typeof what === 'string' ? what : what()}${said}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

/** Where a server of this case may listen. The file is its own to remove. */
export function socketPath(): string {
  return join(tmpdir(), `guestdma-${randomBytes(6).toString('hex')}.sock`)
}
