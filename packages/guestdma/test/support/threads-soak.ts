// What threads.soak.ts does to one device in a worker: work, at random, with a worker that dies now and then.
import { setImmediate as turn } from 'node:timers/promises'
import { FrameBatch } from 'guestdma'
import { expect } from 'vitest'
import { type Threads, threads, type Wanted } from './workers.ts'
import { random } from './workload.ts'

export interface SoakGoal {
  /** Packets or requests, or the time that there is for them; whichever is reached first. */
  readonly count: number
  readonly milliseconds: number
}

/** A device in a worker, and how it is reached. */
type Soaked = Required<Pick<Wanted, 'scheme' | 'packed' | 'bus'>>

const inWords = ({ scheme, packed, bus }: Soaked): string => `${scheme}, ${bus}, ${packed ? 'packed' : 'split'}`

/** Packets or requests that each case moves at least. */
const LEAST = 100
/** Deaths of the worker in one case, spread over it. */
const KILLS = 2
const BATCH = 32

/** Ends the worker at times that are spread over a case, and brings the device back once its driver has noticed. */
class Deaths {
  count = 0
  /** Has the driver noticed that its worker is dead? */
  noticed = false
  private dead = false
  private readonly far: Threads
  private readonly goal: SoakGoal
  private readonly begin = performance.now()

  constructor(far: Threads, goal: SoakGoal) {
    this.far = far
    this.goal = goal
    far.machine.events.on('needsReset', () => {
      this.noticed = true
    })
  }

  /** Is there more to be done, after `done` packets or requests? */
  more(done: number): boolean {
    // A busy machine does little in a share of the time, and what is little proves nothing.
    return this.dead || this.count < KILLS || this.progress(done) < 1 || done <= LEAST
  }

  maybe(done: number): void {
    if (this.dead || this.count >= KILLS || this.progress(done) < (this.count + 0.5) / KILLS) return
    this.count++
    this.dead = true
    void this.far.thread().terminate()
  }

  async recover(): Promise<void> {
    await this.far.worker.restart()
    await this.far.machine.reset('far')
    this.dead = this.noticed = false
  }

  private progress(done: number): number {
    const { count, milliseconds } = this.goal
    return Math.max(done / count, (performance.now() - this.begin) / milliseconds)
  }
}

const mix = (value: number): number => {
  const mixed = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d)
  return (mixed ^ (mixed >>> 12)) >>> 0
}
const lengthOf = (sequence: number): number => 60 + (mix(sequence) % 200)

/**
 * Frames go out with numbers in them and come back over a loopback link. Sometimes the driver keeps the ring full, and
 * sometimes it waits asleep until all came back.
 */
export async function netSoak(wanted: Soaked, goal: SoakGoal, seed: number): Promise<string> {
  const far = await threads({ type: 'net', ...wanted })
  const { machine } = far
  const deaths = new Deaths(far, goal)
  const next = random(seed)
  let sent = 0
  let received = 0
  let expected = 0
  let wrong: string | null = null
  let wake: (() => void) | null = null
  machine.events.on('needsReset', () => wake?.())
  machine.device('far').observer.frames = ({ region, offset, length, count }) => {
    for (let i = 0; i < count; i++) {
      const at = offset[i]
      const sequence = region.view.getUint32(at + 14)
      const check = region.view.getUint32(at + length[i] - 4)
      if (sequence !== expected || length[i] !== lengthOf(sequence) || check !== mix(sequence)) {
        // What is thrown here would surface elsewhere.
        wrong ??= `frame ${sequence} of ${length[i]} bytes and ${check} came where ${expected} was due`
        wake?.()
      }
      expected++
    }
    received += count
    if (expected === sent) wake?.()
  }
  const batch = new FrameBatch(BATCH)
  const send = (count: number): void => {
    const net = machine.net('far')
    let rows = 0
    for (; rows < count; rows++) {
      const buffer = net.acquire()
      if (buffer < 0) break
      const at = net.bufferOffset(buffer)
      const length = lengthOf(sent + rows)
      net.bufferRegion.view.setUint32(at + 14, sent + rows)
      net.bufferRegion.view.setUint32(at + length - 4, mix(sent + rows))
      batch.buffer[rows] = buffer
      batch.length[rows] = length
    }
    batch.count = rows
    const taken = rows === 0 ? 0 : net.send(batch)
    for (let row = taken; row < rows; row++) net.release(batch.buffer[row])
    sent += taken
  }
  for (let round = 0; wrong === null && deaths.more(received); round++) {
    for (let burst = next() % 64; burst >= 0 && !deaths.noticed; burst--) {
      send(1 + (next() % BATCH))
      machine.pump()
    }
    deaths.maybe(received)
    if (round % 8 === 0 && !deaths.noticed && expected !== sent) {
      await machine.run(
        new Promise<void>((resolve) => {
          wake = resolve
        }),
      )
      wake = null
    } else await turn()
    if (!deaths.noticed) continue
    await deaths.recover()
    // What was under way is gone with the worker, and no more than that.
    expected = sent
  }
  while (wrong === null && expected !== sent) {
    machine.pump()
    await turn()
  }
  expect(wrong).toBe(null)
  expect(received).toBeGreaterThan(LEAST)
  await far.close()
  return `${inWords(wanted)}: ${received} packets came back of ${sent}, ${deaths.count} workers died`
}

const SECTORS = 2048
const SECTOR = 512

/** Random reads and writes, many at a time, beside a model of the disk. */
export async function blkSoak(wanted: Soaked, goal: SoakGoal, seed: number): Promise<string> {
  const disk = new SharedArrayBuffer(SECTORS * SECTOR)
  const far = await threads({ type: 'blk', ...wanted, config: { disk } })
  const { machine } = far
  const deaths = new Deaths(far, goal)
  const next = random(seed)
  // Each sector holds one number over and over; a write that was cut off may have happened or not.
  const model = new Uint32Array(SECTORS)
  const addresses = Array.from({ length: BATCH }, () => machine.ram.allocate(4 * SECTOR, 64))
  const words = (address: number, count: number): Uint32Array => {
    const { region, offset } = machine.memory.window(address as never, count * SECTOR)
    return new Uint32Array(region.u8.buffer, offset, (count * SECTOR) / 4)
  }
  let done = 0
  let failed = 0
  let stamp = 0
  const one = async (slot: number): Promise<void> => {
    const count = 1 + (next() % 4)
    // Slots have sectors of their own, since the order of requests is nobody's promise.
    const sector = slot * (SECTORS / BATCH) + (next() % (SECTORS / BATCH - count))
    const address = addresses[slot]
    const data = words(address, count)
    const blk = machine.blk('far')
    if (next() % 2 === 0) {
      data.fill(0xffff_ffff)
      await blk.read(sector, address, count * SECTOR)
      for (let i = 0; i < data.length; i++) {
        const expectedWord = model[sector + Math.floor((i * 4) / SECTOR)]
        if (data[i] !== expectedWord) throw new Error(`sector ${sector} word ${i}: ${data[i]}, not ${expectedWord}`)
      }
    } else {
      const value = ++stamp
      data.fill(value)
      const before = model.slice(sector, sector + count)
      try {
        await blk.write(sector, address, count * SECTOR)
        model.fill(value, sector, sector + count)
      } catch (error) {
        settleCutOff(new Uint32Array(disk), model, sector, before, value)
        throw error
      }
    }
    done++
  }
  for (; deaths.more(done); deaths.maybe(done)) {
    const outcomes = await machine.run(Promise.allSettled(addresses.map((_, slot) => one(slot))))
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') continue
      expect(outcome.reason).toMatchObject({ code: 'DRIVER_DEVICE_BROKEN' })
      failed++
    }
    if (deaths.noticed) await deaths.recover()
  }
  expect(done).toBeGreaterThan(LEAST)
  await far.close()
  return `${inWords(wanted)}: ${done} block requests, ${failed} cut off, ${deaths.count} workers died`
}

// The worker is gone, so the disk does not change any more: each sector is as it was or as it should have become.
function settleCutOff(disk: Uint32Array, model: Uint32Array, sector: number, before: Uint32Array, value: number): void {
  for (let i = 0; i < before.length; i++) {
    const at = ((sector + i) * SECTOR) / 4
    const found = disk[at]
    if (found !== before[i] && found !== value) throw new Error(`sector ${sector + i} holds ${found}`)
    for (let word = 0; word < SECTOR / 4; word++) {
      if (disk[at + word] !== found) throw new Error(`sector ${sector + i} is torn`)
    }
    model[sector + i] = found
  }
}
