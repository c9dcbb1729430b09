// Random guests on one loop that polls a device only because `onWork` said so. Whenever it is at rest, nothing that could
// go on is left: a chain waits only for what its guest or its store has not given yet.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type BlockRequest, LearningSwitch, LoopbackLink, type NetLink, Wire } from '../src/index.ts'
import {
  type AnyBlkMachine,
  type AnyNetMachine,
  blkMachineOver,
  DISK_BYTES,
  header,
  netMachineOver,
  packet,
  status,
  TRANSPORTS,
} from './support/devices.ts'
import { EventLoop } from './support/event-loop.ts'
import { pattern, Ring } from './support/guest.ts'

const SIZE = 16

/** A net guest: it sends while its ring has room, posts buffers, and may reset its device. */
class NetGuest {
  readonly m: AnyNetMachine
  rx: Ring
  tx: Ring
  sent = 0
  received = 0
  private readonly features: readonly number[]

  constructor(name: string, link: NetLink, loop: EventLoop, features: readonly number[], transport: 'mmio' | 'pci') {
    this.m = netMachineOver(transport, { name, link, onWork: loop.onWork(name), queueSize: SIZE }, SIZE)
    loop.add(this.m.device)
    this.features = features
    this.rx = this.m.rx
    this.tx = this.m.tx
    this.m.driver.start([this.rx, this.tx], ...features)
  }

  get posted(): number {
    return (this.rx.index - this.rx.usedIndex) & 0xffff
  }

  get unsent(): number {
    return (this.tx.index - this.tx.usedIndex) & 0xffff
  }

  post(): void {
    if (this.posted === SIZE) return
    this.rx.offer(this.rx.chain({ address: this.m.ram.alloc(128), length: 128, w: true }))
    this.m.driver.kick(0)
  }

  send(to: number): void {
    if (this.unsent === SIZE) return
    const frame = pattern(60, to)
    frame.fill(to, 0, 6)
    this.tx.offer(this.tx.chain(packet(this.m.ram, frame)))
    this.sent++
    this.m.driver.kick(1)
  }

  reset(): void {
    this.m.driver.status = 0
    this.rx = new Ring(this.m.ram, SIZE)
    this.tx = new Ring(this.m.ram, SIZE)
    this.m.driver.start([this.rx, this.tx], ...this.features)
  }
}

/** A block guest over a store that answers when it is told to. */
class BlkGuest {
  readonly m: AnyBlkMachine
  readonly waiting: BlockRequest[] = []
  ring: Ring

  constructor(loop: EventLoop, transport: 'mmio' | 'pci') {
    const take = (r: BlockRequest): void => void this.waiting.push(r)
    const store = { capacity: DISK_BYTES, read: take, write: take, flush: take }
    const options = { name: 'disk', store, maxInFlight: 3, onWork: loop.onWork('disk'), queueSize: SIZE }
    this.m = blkMachineOver(transport, options, SIZE)
    loop.add(this.m.device)
    this.ring = this.m.ring
    this.m.driver.start([this.ring], 9, 29, 40)
  }

  get unanswered(): number {
    return (this.ring.index - this.ring.usedIndex) & 0xffff
  }

  read(): void {
    if (3 * (this.unanswered + 1) > SIZE) return
    const { ram } = this.m
    this.ring.offer(this.ring.chain(header(ram, 0), { address: ram.alloc(512), length: 512, w: true }, status(ram)))
    this.m.driver.kick(0)
  }

  answer(which: number): void {
    if (this.waiting.length > 0) this.waiting.splice(which % this.waiting.length, 1)[0].done(0)
  }

  reset(queueOnly: boolean): void {
    const ring = new Ring(this.m.ram, SIZE)
    if (queueOnly) {
      this.m.driver.resetQueue(0)
      while (this.m.driver.queueReset(0)) this.answer(0)
      this.m.driver.queue(0, ring)
    } else {
      this.m.driver.status = 0
      this.m.driver.start([ring], 9, 29, 40)
    }
    this.ring = ring
  }
}

type Step = readonly [what: number, who: number]
const steps = fc.array(fc.tuple(fc.nat(9), fc.nat(3)), { minLength: 50, maxLength: 120 })

describe.each(TRANSPORTS)('at rest nothing is left that could go on: over %s', (transport) => {
  const run = (link: string, features: readonly number[], budget: number, all: readonly Step[]): void => {
    const loop = new EventLoop()
    const wire = new Wire({ frames: 2 })
    const back = new LoopbackLink({ frames: 2 })
    const hub = new LearningSwitch({ ports: 3, frames: 2, dropWhenFull: false })
    const links: NetLink[] = link === 'wire' ? [wire.a, wire.b] : link === 'loopback' ? [back] : [...hub.ports]
    const guests = links.map((end, i) => new NetGuest(`net${i}`, end, loop, features, transport))
    const disk = new BlkGuest(loop, transport)
    const settle = (): void => {
      loop.run(budget)
      // Frames are held back only while somebody who should take them has posted too little.
      if (guests.every(({ posted }) => posted > 0))
        expect(guests.map(({ unsent }) => unsent)).toEqual(guests.map(() => 0))
      if (disk.waiting.length === 0) expect(disk.unanswered).toBe(0)
    }
    loop.run(budget)
    for (const [what, who] of all) {
      const guest = guests[who % guests.length]
      if (what < 3) guest.send((who + 1) % guests.length)
      else if (what < 5) guest.post()
      else if (what === 5) disk.read()
      else if (what === 6) disk.answer(who)
      else if (what === 7 && who === 0) guest.reset()
      else if (what === 7 && who === 1) disk.reset(false)
      else if (what === 7 && who === 2) disk.reset(true)
      else if (what === 8) settle()
      else if (what === 9 && who === 0) guest.m.device.setLink(!guest.m.device.linkUp)
      else disk.read()
    }
    for (const { m } of guests) m.device.setLink(true)
    // In the end everybody takes what there is.
    for (let i = 0; i < 40; i++) {
      for (const guest of guests) while (guest.posted < SIZE && i < 39) guest.post()
      while (disk.waiting.length > 0) disk.answer(0)
      settle()
    }
    expect([guests.map(({ unsent }) => unsent), disk.unanswered]).toEqual([guests.map(() => 0), 0])
    expect(loop.asleep).toBe(true)
  }

  test.each(['wire', 'loopback', 'switch'])('%s', (link) => {
    fc.assert(
      fc.property(steps, fc.boolean(), fc.constantFrom(1, 3, 64), (all, event, budget) => {
        run(link, event ? [15, 29, 40] : [40], budget, all)
      }),
      { numRuns: 40 },
    )
  })
})
