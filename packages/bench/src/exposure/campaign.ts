import type { Machine } from 'guestdma'
import type { Attacker, Look } from './attacker.ts'
import { type Amounts, EXPOSURE_CLASSES, noAmounts } from './classes.ts'
import { VirtualClock } from './clock.ts'
import type { Random } from './random.ts'
import type { Traffic } from './traffic.ts'

/** What a campaign found. */
export interface Findings {
  readonly readable: Amounts
  readonly writable: Amounts
  /** Operations that the driver took, in all measured batches together. */
  readonly taken: number
}

// Each batch passes through these, and each takes a part of its period.
const PHASES = 4

/**
 * Traffic and attack on a virtual clock. A batch's period has four phases of equal length: nothing is lent yet; the
 * driver has lent the batch; the device completed it and the driver does not know; the driver took it back, and the
 * owner has it. The attacker looks at the begin of each phase, once within it, and whenever a timer fired.
 */
export class Campaign {
  private readonly machine: Machine
  private readonly attacker: Attacker
  private readonly traffic: Traffic
  // The attacked device's neighbour works in the same rhythm.
  private readonly neighbour: Traffic
  private readonly random: Random
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
    period: number
  }) {
    this.machine = options.machine
    this.attacker = options.attacker
    this.traffic = options.traffic
    this.neighbour = options.neighbour
    this.random = options.random
    this.period = options.period
  }

  /** Runs batches that do not count, until every buffer was used, and then those that do. */
  run(before: number, counted: number): Findings {
    return this.clock.during(() => {
      this.machine.pump()
      let taken = 0
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
    const phase = (n: number): number => (number + n / PHASES) * period
    this.awake = true
    this.pump()
    this.pass(phase(1))
    // The owner is busy, or sleeps until the device tells it that the batch is done.
    this.awake = false
    const taken = traffic.begin()
    neighbour.begin()
    this.pass(phase(2))
    traffic.complete()
    neighbour.complete()
    this.pass(phase(3))
    neighbour.take(() => {})
    let read = false
    traffic.take((busy) => {
      read = true
      this.awake = !busy
      this.pump()
      this.pass(phase(4))
    })
    if (!read) throw new Error('nothing came back to its owner')
    return taken
  }

  // A phase: the attacker looks at its begin and at some moment within.
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
