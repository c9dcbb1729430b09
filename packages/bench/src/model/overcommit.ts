import { Random } from '../contract/random.ts'
import { ModelError } from './errors.ts'
import { EventQueue } from './event-queue.ts'

/** What is simulated. Times are ns. */
export interface OvercommitOptions {
  readonly virtualCpus: number
  readonly cores: number
  /** What a virtual CPU spends on one packet: copies, clears, accesses to the device's memory, doorbells. */
  readonly bounce: number
  /** What the device spends on one packet. */
  readonly device: number
  /** On a core of its own, which it polls on; or a thread among the others, which sleeps when it has nothing to do. */
  readonly deviceOn: 'own-core' | 'shared-cores'
  /** The mean time between two packets of one virtual CPU. */
  readonly interval: number
  /** `random` (exponential intervals), or `even`. Default: `random`. */
  readonly arrivals?: 'random' | 'even'
  /** How long a thread runs while others wait. Default: 3,000,000. */
  readonly slice?: number
  /** What it costs a core to change its thread. Default: 0. */
  readonly contextSwitch?: number
  /** How long packets arrive. Default: 1,000,000,000. */
  readonly duration?: number
  readonly seed: number
}

/** What came of it. Times are ns. */
export interface OvercommitResult {
  readonly offered: number
  readonly completed: number
  /** Completed packets for each second, over all virtual CPUs, while packets arrived. */
  readonly perSecond: number
  /** From a packet's arrival until the device is done with it, of completed packets; `NaN` if none was. */
  readonly latency: {
    readonly mean: number
    readonly p50: number
    readonly p99: number
    readonly p999: number
    readonly most: number
  }
  /** The longest time for which a virtual CPU did not run. */
  readonly starved: number
}

/** A virtual CPU, or the device where it shares cores. */
interface Thread {
  readonly isDevice: boolean
  /** Arrival times of packets that wait for it, in order, from `first` on. */
  readonly arrived: number[]
  first: number
  /** What is left of the packet at the front. */
  left: number
  core: Core | null
  queued: boolean
  /** When it ran last. */
  stopped: number
}

interface Core {
  thread: Thread | null
  /** From when its thread's work is still to be accounted for; later than now during a change of threads. */
  from: number
  sliceEnd: number
  /** Events of an earlier turn are void. */
  turn: number
}

type Event =
  | { readonly kind: 'arrival'; readonly thread: Thread }
  | { readonly kind: 'core'; readonly core: Core; readonly turn: number }

const DEFAULTS = { arrivals: 'random', slice: 3e6, contextSwitch: 0, duration: 1e9 } as const

/** Bounds that keep a run below some seconds. */
const MOST_CPUS = 4096
const MOST_PACKETS = 5_000_000
/** What is left of a packet is a sum of differences: below this it is nothing. */
const ROUNDING = 1e-3

/**
 * Simulates virtual CPUs that always have something to run, packets first, on fewer cores. Threads take turns, first
 * come, first served. A virtual CPU copies its own packets, so a packet waits until the one that it belongs to runs.
 * Pure: the same options give the same result.
 *
 * @throws ModelError `MODEL_SIMULATION`
 */
export function simulateOvercommit(options: OvercommitOptions): OvercommitResult {
  const given = { ...DEFAULTS, ...options }
  check(given)
  return new Simulation(given).run()
}

class Simulation {
  private readonly events: EventQueue<Event> = new EventQueue()
  private readonly cpus: readonly Thread[]
  private readonly cores: readonly Core[]
  private readonly device: Thread
  private readonly waiting: Thread[] = []
  private readonly latencies: number[] = []
  private readonly o: Required<OvercommitOptions>
  private readonly random: Random
  private offered = 0
  private deviceFree = 0
  private starved = 0
  private inTime = 0

  constructor(options: Required<OvercommitOptions>) {
    this.o = options
    this.random = new Random(this.o.seed)
    this.cpus = Array.from({ length: this.o.virtualCpus }, () => thread(false))
    this.cores = Array.from({ length: this.o.cores }, () => ({ thread: null, from: 0, sliceEnd: 0, turn: 0 }))
    this.device = thread(true)
  }

  run(): OvercommitResult {
    const { duration } = this.o
    for (const cpu of this.cpus) {
      this.enqueue(cpu, 0)
      this.arriveNext(cpu, 0)
    }
    // Packets that are under way at the end are not waited for.
    for (let time = this.events.time; time <= duration; time = this.events.time) {
      const event = this.events.take()
      if (event.kind === 'arrival') this.arrive(event.thread, time)
      else if (event.turn === event.core.turn) this.coreEvent(event.core, time)
    }
    for (const cpu of this.cpus) if (cpu.core === null) this.sawGap(duration - cpu.stopped)
    const sorted = Float64Array.from(this.latencies).sort()
    const mean = sorted.reduce((sum, latency) => sum + latency, 0) / sorted.length
    const at = (q: number): number => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN
    return {
      offered: this.offered,
      completed: sorted.length,
      perSecond: (this.inTime * 1e9) / duration,
      latency: { mean, p50: at(0.5), p99: at(0.99), p999: at(0.999), most: at(1) },
      starved: this.starved,
    }
  }

  private arriveNext(cpu: Thread, now: number): void {
    const { arrivals, interval } = this.o
    const gap = arrivals === 'even' ? interval : -Math.log(1 - this.random.fraction()) * interval
    this.events.add(now + gap, { kind: 'arrival', thread: cpu })
  }

  private arrive(cpu: Thread, now: number): void {
    this.offered++
    this.give(cpu, now, now)
    this.arriveNext(cpu, now)
  }

  // A packet that arrived at `arrived` is now the work of a thread.
  private give(to: Thread, arrived: number, now: number): void {
    const { core } = to
    if (core !== null) this.account(core, now)
    if (to.first === to.arrived.length) to.left = this.costOf(to)
    to.arrived.push(arrived)
    if (core !== null) this.plan(core, now)
    else if (to.isDevice && !to.queued) this.enqueue(to, now)
  }

  private enqueue(next: Thread, now: number): void {
    next.queued = true
    this.waiting.push(next)
    const idle = this.cores.find((core) => core.thread === null)
    if (idle !== undefined) this.switchTo(idle, now)
    else for (const core of this.cores) this.plan(core, now)
  }

  private switchTo(core: Core, now: number): void {
    const next = this.waiting.shift()
    if (next === undefined) {
      core.thread = null
      core.turn++
      return
    }
    next.queued = false
    next.core = core
    if (!next.isDevice) this.sawGap(now - next.stopped)
    core.thread = next
    core.from = now + this.o.contextSwitch
    core.sliceEnd = core.from + this.o.slice
    this.plan(core, now)
  }

  // When something happens on a core next: its thread's packet is done, or its time is up and somebody waits.
  private plan(core: Core, now: number): void {
    const { thread: running } = core
    if (running === null) return
    const done = running.first < running.arrived.length ? core.from + running.left : Infinity
    const end = this.waiting.length > 0 ? Math.max(now, core.sliceEnd) : Infinity
    core.turn++
    const time = Math.min(done, end)
    if (time < Infinity) this.events.add(time, { kind: 'core', core, turn: core.turn })
  }

  // What the core's thread did until now.
  private account(core: Core, now: number): void {
    const { thread: running } = core
    if (running === null || now <= core.from) return
    if (running.first < running.arrived.length) running.left -= now - core.from
    core.from = now
  }

  private coreEvent(core: Core, now: number): void {
    const running = core.thread as Thread
    this.account(core, now)
    if (running.first < running.arrived.length && running.left <= ROUNDING) this.finish(running, now)
    const sleeps = running.isDevice && running.first === running.arrived.length
    if (!sleeps && (now < core.sliceEnd || this.waiting.length === 0)) {
      this.plan(core, now)
      return
    }
    running.core = null
    running.stopped = now
    if (!sleeps) {
      running.queued = true
      this.waiting.push(running)
    }
    this.switchTo(core, now)
  }

  private finish(done: Thread, now: number): void {
    const arrived = done.arrived[done.first++]
    if (done.first === done.arrived.length) {
      done.arrived.length = 0
      done.first = 0
    } else {
      done.left = this.costOf(done)
    }
    if (done.isDevice) {
      this.complete(arrived, now)
    } else if (this.o.deviceOn === 'own-core') {
      this.deviceFree = Math.max(this.deviceFree, now) + this.o.device
      this.complete(arrived, this.deviceFree)
    } else {
      this.give(this.device, arrived, now)
    }
  }

  private complete(arrived: number, now: number): void {
    this.latencies.push(now - arrived)
    if (now <= this.o.duration) this.inTime++
  }

  private costOf({ isDevice }: Thread): number {
    return isDevice ? this.o.device : this.o.bounce
  }

  private sawGap(gap: number): void {
    if (gap > this.starved) this.starved = gap
  }
}

function thread(isDevice: boolean): Thread {
  return { isDevice, arrived: [], first: 0, left: 0, core: null, queued: false, stopped: 0 }
}

function check(options: Required<OvercommitOptions>): void {
  const { virtualCpus, cores, bounce, device, interval, slice, contextSwitch, duration, seed } = options
  const refuse = (part: string, value: number, needed: string): never => {
    throw new ModelError('MODEL_SIMULATION', part, `${value}: ${needed} is needed`, { value })
  }
  for (const [part, value] of Object.entries({ virtualCpus, cores }))
    if (!Number.isInteger(value) || value < 1 || value > MOST_CPUS)
      refuse(part, value, `a whole number from 1 to ${MOST_CPUS}`)
  for (const [part, value] of Object.entries({ interval, slice, duration }))
    if (!Number.isFinite(value) || value <= 0) refuse(part, value, 'a number above 0')
  for (const [part, value] of Object.entries({ bounce, device, contextSwitch }))
    if (!Number.isFinite(value) || value < 0) refuse(part, value, 'a number from 0 on')
  if (!Number.isInteger(seed)) refuse('seed', seed, 'a whole number')
  const packets = (duration / interval) * virtualCpus
  if (packets > MOST_PACKETS) refuse('interval', interval, `an interval for at most ${MOST_PACKETS} packets in all`)
}
