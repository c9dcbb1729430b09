import type { Machine } from 'guestdma'
import type { Attacker, Look } from './attacker.ts'
import { type Amounts, EXPOSURE_CLASSES, noAmounts } from './classes.ts'
import { VirtualClock } from './clock.ts'
import type { Random } from './random.ts'
import type { Leave, Traffic } from './traffic.ts'

/** What a campaign found. */
export interface Findings {
  readonly readable: Amounts
  readonly writable: Amounts
  /** Operations that the driver took, in all measured batches together. */
  readonly taken: number
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
  /** Milliseconds. */
  private readonly period: number
  private readonly clock = new VirtualClock()
  private readonly sums: Look = { readable: noAmounts(), writable: noAmounts() }
  private latest: Look = { readable: noAmounts(), writable: noAmounts() }
  private counting = false
  // Whether the owner of the machine's loop would come if it were called.
  private awake = false

  constructor(options: {
    machine: Machine
    attacker: Attacker
    traffic: Traffic
    neighbour: Traffic
    random: Random
    leave: Leave
    period: number
  }) {
    this.machine = options.machine
    this.attacker = options.attacker
    this.traffic = options.traffic
    this.neighbour = options.neighbour
    this.random = options.random
    this.leave = options.leave
    this.period = options.period
  }

  /** Runs batches that do not count, until every buffer was used, and then those that do. */
  run(before: number, counted: number): Findings {
    return this.clock.during(() => {
      // Receive buffers are posted.
      this.machine.pump()
      let taken = 0
      this.leave.given = false
      for (let i = 0; i < before; i++) this.batch(i)
      this.counting = true
      for (let i = before; i < before + counted; i++) taken += this.batch(i)
      const average = (sums: Amounts): Amounts => {
        const amounts = noAmounts()
        for (const name of EXPOSURE_CLASSES) amounts[name] = sums[name] / (counted * this.period)
        return amounts
      }
      return { readable: average(this.sums.readable), writable: average(this.sums.writable), taken }
    })
  }

  private batch(number: number): number {
    const { neighbour, period, traffic } = this
    const at = (quarter: number): number => (number + quarter / 4) * period
    let taken = 0
    // The owner sleeps until it is told that the batch before is done.
    this.awake = false
    if (number > 0) {
      traffic.complete()
      neighbour.complete()
    }
    traffic.begin()
    neighbour.begin()
    this.pass(at(1))
    this.awake = true
    if (number > 0) {
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
