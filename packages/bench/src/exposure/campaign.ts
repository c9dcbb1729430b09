import type { Machine } from 'guestdma'
import type { Random } from '../contract/random.ts'
import type { Attacker, Look } from './attacker.ts'
import { type Amounts, EXPOSURE_CLASSES, noAmounts } from './classes.ts'
import { VirtualClock } from './clock.ts'
import type { Leave, Traffic } from './traffic.ts'

/** What a campaign found. */
export interface Findings {
  readonly readable: Amounts
  readonly writable: Amounts
  /** Operations that came back in all measured batches together, how many batches those were, and how long they took. */
  readonly taken: number
  readonly batches: number
  readonly milliseconds: number
}

/**
 * Traffic and attack on a virtual clock. A batch comes in each period. It is lent for a period and a quarter: the device
 * completes it after a whole period, when the next batch was lent, and the driver takes it back a quarter later. Then its
 * owner has it for half a period, and uses the memory for something else. The attacker looks whenever something
 * happened, once within each stretch between, and whenever a timer fired.
 */
export class Campaign {
  private readonly machine: Machine
  private readonly attacker: Attacker
  private readonly traffic: Traffic
  // The attacked device's neighbour works in the same rhythm.
  private readonly neighbour: Traffic
  private readonly random: Random
  private readonly leave: Leave
  private readonly perMillisecond: number
  private readonly clock = new VirtualClock()
  private readonly sums: Look = { readable: noAmounts(), writable: noAmounts() }
  private latest: Look = { readable: noAmounts(), writable: noAmounts() }
  private counting = false
  private first = true
  // Whether the owner of the machine's loop would come if it were called.
  private awake = false

  constructor(options: {
    machine: Machine
    attacker: Attacker
    traffic: Traffic
    neighbour: Traffic
    random: Random
    leave: Leave
    perMillisecond: number
  }) {
    this.machine = options.machine
    this.attacker = options.attacker
    this.traffic = options.traffic
    this.neighbour = options.neighbour
    this.random = options.random
    this.leave = options.leave
    this.perMillisecond = options.perMillisecond
  }

  /** Runs `before` batches that do not count, and then whole batches for at least so many milliseconds. */
  run(before: number, milliseconds: number): Findings {
    return this.clock.during(() => {
      // Receive buffers are posted.
      this.machine.pump()
      this.leave.given = false
      for (let i = 0; i < before; i++) this.batch()
      this.counting = true
      const begin = this.clock.now
      let taken = 0
      let batches = 0
      // Sums of fractions may be a little short.
      for (; this.clock.now - begin < milliseconds * (1 - 1e-9); batches++) taken += this.batch()
      const passed = this.clock.now - begin
      // No more than thousandths of a byte: sums of fractions are a little off.
      const average = (sums: Amounts): Amounts => {
        const amounts = noAmounts()
        for (const name of EXPOSURE_CLASSES) amounts[name] = Math.round((sums[name] / passed) * 1000) / 1000
        return amounts
      }
      const { readable, writable } = this.sums
      return { readable: average(readable), writable: average(writable), taken, batches, milliseconds: passed }
    })
  }

  // Returns how many operations of the batch before came back.
  private batch(): number {
    const { clock, neighbour, traffic } = this
    const begin = clock.now
    const at = (quarter: number): number => begin + (quarter / 4) * (traffic.size / this.perMillisecond)
    const first = this.first
    let taken = 0
    this.first = false
    // The owner sleeps until it is told that the batch before is done.
    this.awake = false
    if (!first) {
      traffic.complete()
      neighbour.complete()
    }
    traffic.begin()
    neighbour.begin()
    this.pass(at(1))
    this.awake = true
    if (!first) {
      neighbour.take(() => {})
      taken = traffic.take((busy) => {
        this.awake = !busy
        this.pump()
        this.pass(at(3))
      })
      this.awake = true
    }
    this.pump()
    this.pass(at(4))
    return taken
  }

  // Until `end`: the attacker looks at the begin and at some moment within.
  private pass(end: number): void {
    const { clock, random } = this
    this.look()
    this.until(clock.now + ((end - clock.now) * random.below(1024)) / 1024)
    this.look()
    this.until(end)
  }

  private until(end: number): void {
    this.clock.until(
      end,
      (milliseconds) => this.passed(milliseconds),
      () => {
        this.pump()
        this.look()
      },
    )
  }

  private pump(): void {
    if (this.awake && this.machine.due) this.machine.pump()
  }

  private look(): void {
    this.latest = this.attacker.look()
  }

  private passed(milliseconds: number): void {
    if (!this.counting) return
    for (const access of ['readable', 'writable'] as const)
      for (const name of EXPOSURE_CLASSES) this.sums[access][name] += this.latest[access][name] * milliseconds
  }
}
