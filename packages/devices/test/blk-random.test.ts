// A block device against stores and drivers that do anything in any order, in the middle of a batch too. Whatever they
// do, each request is executed once, used once, answered as its store said, and in order where that was agreed on.
import {
  STATUS_DRIVER_OK,
  STATUS_SUSPEND,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BlkDevice, type BlockRequest, type BlockStore, BusWindows, everything, MmioRegisters } from '../src/index.ts'
import { header, status } from './support/devices.ts'
import { BASE, Driver, type Element, Ram, type RingPlace } from './support/guest.ts'
import { type Guest, packedGuest, splitGuest } from './support/ring-guests.ts'

const IN = 0
const OUT = 1
const FLUSH = 4
const GET_ID = 8
const UNKNOWN = 99
const SIZE = 16
const QUEUES = 2
const SECTORS = 4096
// Ends with its data intact.
const OK = 0
const IOERR = 1
const UNSUPP = 2

const HOW = ['now', 'error', 'later', 'throw', 'done and throw', 'twice', 'another', 'another and later'] as const
const MEANWHILE = [
  'nothing',
  'move',
  'grow',
  'forget',
  'kick',
  'poll',
  'capacity',
  'suspend',
  'reset queue',
  'reset device',
] as const

interface Behaviour {
  readonly how: (typeof HOW)[number]
  readonly meanwhile: (typeof MEANWHILE)[number]
}

const behaviour: fc.Arbitrary<Behaviour> = fc.record({
  how: fc.oneof({ weight: 4, arbitrary: fc.constantFrom('now' as const, 'later' as const) }, fc.constantFrom(...HOW)),
  meanwhile: fc.oneof(
    { weight: 8, arbitrary: fc.constant('nothing' as const) },
    { weight: 3, arbitrary: fc.constantFrom(...MEANWHILE.slice(1, 8)) },
    { weight: 1, arbitrary: fc.constantFrom('reset queue' as const, 'reset device' as const) },
  ),
})
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('offer' as const),
      queue: fc.nat(QUEUES - 1),
      type: fc.constantFrom(IN, IN, IN, OUT, OUT, OUT, FLUSH, GET_ID, UNKNOWN),
      sectors: fc.integer({ min: 1, max: 9 }),
      cuts: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('kick' as const), queue: fc.nat(QUEUES - 1) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('poll' as const), budget: fc.constantFrom(0, 1, 2, 3, 64) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('finish' as const), which: fc.nat(7) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('move' as const, 'grow' as const, 'forget' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('learn' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('listen' as const), meanwhile: fc.constantFrom(...MEANWHILE) }) },
)
const scenario = fc.record({
  inOrder: fc.boolean(),
  through: fc.boolean(),
  maxInFlight: fc.integer({ min: 1, max: 6 }),
  stagingPages: fc.constantFrom(2, 3, 4, 64),
  budget: fc.constantFrom(1, 2, 64),
  eventIndex: fc.boolean(),
  behaviours: fc.array(behaviour, { minLength: 1, maxLength: 12 }),
  steps: fc.array(step, { minLength: 3, maxLength: 60 }),
})

interface Asked {
  readonly type: number
  readonly sector: number
  readonly queue: number
  readonly bytes: number
  readonly data: number
  readonly cell: number
  asks: number
  // What its store ended it with.
  ended: number | null
  used: number
  // Memory at the moment at which it became void.
  void: Uint8Array | null
}

const PAGE = 4096

/** Reaches all of RAM, once it was told where a page is. */
class AskingPort extends BusWindows {
  pending = false
  readonly forgotten = new Set<number>()
  private readonly asked = new Set<number>()

  override resolve(length: number, access: 1 | 2): number {
    const granted = super.resolve(length, access)
    const first = Math.floor(this.request[0] / PAGE)
    const last = Math.floor((this.request[0] + granted - 1) / PAGE)
    this.pending = false
    for (let page = first; page <= last; page++) {
      if (!this.forgotten.has(page)) continue
      this.asked.add(page)
      this.pending = true
    }
    if (this.forgotten.size > 0) this.window[1] = 0
    return this.pending ? 0 : granted
  }

  forget(from: number, to: number): void {
    for (let page = Math.floor(from / PAGE); page * PAGE < to; page++) this.forgotten.add(page)
    this.window.fill(0)
    this.epoch++
  }

  get asks(): boolean {
    return this.asked.size > 0
  }

  learn(): void {
    for (const page of this.asked) this.forgotten.delete(page)
    this.asked.clear()
  }
}

class World implements BlockStore {
  readonly capacity: number = SECTORS * 512
  readonly ram: Ram
  readonly port: AskingPort
  readonly device: BlkDevice
  readonly driver: Driver
  readonly guests: (Guest | null)[] = []
  readonly bySector = new Map<number, Asked>()
  readonly outstanding: Map<number, Asked>[] = []
  readonly order: number[][] = []
  readonly held: { request: BlockRequest; asked: Asked | null; void: boolean; write: boolean }[] = []
  readonly wrong: unknown[] = []
  private readonly features: number[]
  private turn = 0
  private due = false
  private sector = 1
  private listening: Behaviour['meanwhile'] = 'nothing'
  private inside = false
  readonly format: 'split' | 'packed'
  readonly given: {
    inOrder: boolean
    through: boolean
    maxInFlight: number
    stagingPages: number
    budget: number
    eventIndex: boolean
    behaviours: readonly Behaviour[]
  }

  constructor(format: 'split' | 'packed', given: World['given']) {
    this.format = format
    this.given = given
    this.ram = new Ram(0x10_0000, true)
    this.port = new AskingPort('p', everything(this.ram.memory).windows)
    this.device = new BlkDevice({
      name: 'blk0',
      port: this.port,
      store: this,
      queues: QUEUES,
      queueSize: SIZE,
      maxInFlight: given.maxInFlight,
      stagingBytes: given.stagingPages * 4096,
      writeback: !given.through,
      onWork: () => {
        this.due = true
      },
      offer: [VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED],
    })
    this.driver = new Driver(new MmioRegisters(this.device, {}))
    this.features = [
      VIRTIO_BLK_F_FLUSH,
      VIRTIO_BLK_F_MQ,
      VIRTIO_F_RING_RESET,
      VIRTIO_F_SUSPEND,
      VIRTIO_BLK_F_CONFIG_WCE,
    ]
    if (format === 'packed') this.features.push(VIRTIO_F_RING_PACKED)
    if (given.inOrder) this.features.push(VIRTIO_F_IN_ORDER)
    if (given.eventIndex) this.features.push(VIRTIO_F_EVENT_IDX)
    this.start()
    this.ram.hook = () => {
      const what = this.listening
      this.listening = 'nothing'
      this.meddle(what, 0)
    }
  }

  private start(): void {
    this.port.forgotten.clear()
    for (let q = 0; q < QUEUES; q++) {
      this.guests[q] = this.guest()
      this.outstanding[q] = new Map()
      this.order[q] = []
    }
    this.driver.start(
      this.guests.map((guest) => (guest as Guest & { ring: RingPlace }).ring),
      ...this.features,
    )
  }

  private guest(): Guest {
    return this.format === 'packed' ? packedGuest(this.ram, SIZE) : splitGuest(this.ram, SIZE)
  }

  private memoryOf({ data, bytes, cell }: Asked): Uint8Array {
    return Uint8Array.from([...this.ram.get(data, bytes), ...this.ram.get(cell, 1)])
  }

  private drop(q: number): void {
    for (const asked of this.outstanding[q].values()) asked.void = this.memoryOf(asked)
    for (const held of this.held) if (held.asked === null || held.asked.queue === q) held.void = true
    this.outstanding[q].clear()
    this.order[q] = []
    this.guests[q] = null
  }

  private resetQueue(q: number): void {
    if (this.guests[q] === null || (this.driver.status & STATUS_SUSPEND) !== 0) return
    this.reap(q)
    this.driver.resetQueue(q)
    this.drop(q)
  }

  private resetDevice(): void {
    for (let q = 0; q < QUEUES; q++) if (this.guests[q] !== null) this.reap(q)
    this.driver.status = 0
    for (let q = 0; q < QUEUES; q++) this.drop(q)
    this.start()
  }

  // All of memory, or the rings alone.
  private forget(): void {
    if (this.turn % 2 === 0) this.port.forget(BASE, this.ram.alloc(0, 1))
    else for (const guest of this.guests) if (guest !== null) this.port.forget(guest.areas[0], guest.areas[4] + 6)
  }

  // What the others do when the device waits for them. False: nobody does anything, and the device is not due.
  private goesOn(): boolean {
    this.enable()
    if (this.port.asks) this.learn()
    else if (!this.due && this.held.length > 0) this.finish(0)
    return this.due
  }

  private learn(): void {
    this.port.learn()
    for (const queue of this.device.queues) this.device.notify(queue)
  }

  // A queue whose reset is complete is set up again.
  private enable(): void {
    if (this.device.suspended) this.driver.status |= STATUS_DRIVER_OK
    if ((this.driver.status & STATUS_SUSPEND) !== 0) return
    for (let q = 0; q < QUEUES; q++) {
      if (this.guests[q] !== null || this.driver.queueReset(q)) continue
      // A driver waits until it is ready.
      this.port.forgotten.clear()
      const guest = this.guest()
      this.guests[q] = guest
      this.driver.queue(q, (guest as Guest & { ring: RingPlace }).ring)
    }
  }

  // Whoever resumes a device rings no doorbell before that.
  private kick(q: number): void {
    if (!this.device.suspended) this.driver.kick(q)
  }

  meddle(what: Behaviour['meanwhile'], q: number): void {
    if (this.inside) return
    this.inside = true
    if (what === 'move') this.port.setWindows(this.port.windows)
    else if (what === 'grow') this.ram.wasm?.grow(1)
    else if (what === 'forget') this.forget()
    else if (what === 'kick') for (let i = 0; i < QUEUES; i++) this.kick(i)
    else if (what === 'poll') this.device.poll(64)
    else if (what === 'capacity') this.device.capacityChanged()
    else if (what === 'suspend') this.driver.status |= STATUS_SUSPEND
    else if (what === 'reset queue') this.resetQueue(q)
    else if (what === 'reset device') this.resetDevice()
    this.inside = false
  }

  listen(what: Behaviour['meanwhile']): void {
    this.listening = what
  }

  offer(q: number, type: number, sectors: number, cuts: number): void {
    this.enable()
    const guest = this.guests[q]
    // Room for header, pieces and status of each.
    if (guest === null || this.outstanding[q].size >= 3) return
    const bytes = type === GET_ID ? 20 : type === FLUSH ? 0 : sectors * 512
    const { sector } = this
    this.sector += 16
    const data = this.ram.put(new Uint8Array(bytes).fill(type === OUT ? sector & 0xff : 0xee), 4)
    const cell = status(this.ram)
    const pieces: Element[] = []
    const each = Math.max(1, Math.floor(bytes / cuts))
    for (let at = 0; at < bytes; ) {
      const last = pieces.length + 1 === cuts
      const length = last ? bytes - at : each
      pieces.push({ address: data + at, length, w: type !== OUT })
      at += length
    }
    const asked: Asked = {
      type,
      sector,
      queue: q,
      bytes,
      data,
      cell: cell.address,
      asks: 0,
      ended: null,
      used: 0,
      void: null,
    }
    if (type === IN || type === OUT) this.bySector.set(sector, asked)
    const [id] = guest.offer([[header(this.ram, type, sector), ...pieces, cell]])
    this.outstanding[q].set(id, asked)
    this.order[q].push(id)
  }

  reap(q: number): void {
    const guest = this.guests[q]
    if (guest === null) return
    for (const id of guest.reap()) {
      const asked = this.outstanding[q].get(id)
      if (asked === undefined) throw new Error(`queue ${q} used ${id}, which is not outstanding`)
      if (this.given.inOrder) expect(id).toBe(this.order[q][0])
      this.order[q] = this.order[q].filter((other) => other !== id)
      this.outstanding[q].delete(id)
      asked.used++
      this.check(asked)
    }
  }

  private check(asked: Asked): void {
    const { type, sector, bytes, data, cell, ended } = asked
    const [answer] = this.ram.get(cell, 1)
    const got = this.ram.get(data, bytes)
    if (type === UNKNOWN) expect([answer, got.every((byte) => byte === 0)]).toEqual([UNSUPP, true])
    else if (type === GET_ID) expect([answer, String.fromCharCode(...got.slice(0, 4))]).toEqual([OK, 'blk0'])
    else if (type === FLUSH) expect([OK, IOERR]).toContain(answer)
    else {
      // What cannot ever fit fails at once.
      const fits = asked.asks > 0
      if (type === OUT && this.given.through && ended === OK) expect([OK, IOERR]).toContain(answer)
      else expect(answer).toBe(fits ? ended : IOERR)
      if (type === IN) expect(got.every((byte) => byte === (answer === OK ? sector & 0xff : 0))).toBe(true)
    }
  }

  // As a store.
  read(request: BlockRequest): void {
    const asked = this.found(request, IN)
    this.behave(request, asked, () => request.data.fill(request.sector & 0xff))
  }

  write(request: BlockRequest): void {
    const asked = this.found(request, OUT)
    if (!request.data.every((byte) => byte === (request.sector & 0xff))) this.wrong.push('data')
    this.behave(request, asked, () => {})
  }

  flush(request: BlockRequest): void {
    this.behave(request, null, () => {})
  }

  private found({ sector, data }: BlockRequest, type: number): Asked {
    const asked = this.bySector.get(sector) as Asked
    const found = [asked.type, data.length, asked.void, asked.used, ++asked.asks]
    // What is thrown here would be the store's.
    if (`${found}` !== `${[type, asked.bytes, null, 0, 1]}`) this.wrong.push(found)
    return asked
  }

  private behave(request: BlockRequest, asked: Asked | null, serve: () => void): void {
    const { behaviours } = this.given
    const { how, meanwhile } = behaviours[this.turn++ % behaviours.length]
    const held = { request, asked, void: false, write: asked?.type === OUT }
    const end = (ended: typeof OK | typeof IOERR): void => {
      if (asked !== null) asked.ended = ended
      // A flush that follows a write may fail, and the write with it.
      serve()
      request.done(ended)
    }
    if (how === 'another' || how === 'another and later') this.finish(0)
    if (this.turn % 2 === 0) this.meddle(meanwhile, asked?.queue ?? 0)
    if (how === 'throw') {
      if (asked !== null) asked.ended = IOERR
      throw new Error('store')
    }
    if (how === 'later' || how === 'another and later') this.held.push(held)
    else end(how === 'error' ? IOERR : OK)
    if (this.turn % 2 === 1) this.meddle(meanwhile, asked?.queue ?? 0)
    if (how === 'twice') request.done(IOERR)
    if (how === 'done and throw') throw new Error('store')
  }

  finish(which: number): void {
    const [held] = this.held.splice(which % Math.max(1, this.held.length), 1)
    if (held === undefined) return
    const { request, asked } = held
    if (asked !== null) asked.ended = OK
    if (asked?.type === IN) request.data.fill(request.sector & 0xff)
    request.done(OK)
  }

  run(steps: readonly (typeof step extends fc.Arbitrary<infer T> ? T : never)[]): void {
    for (const at of steps) {
      if (at.do === 'offer') this.offer(at.queue, at.type, at.sectors, at.cuts)
      else if (at.do === 'kick') this.kick(at.queue)
      else if (at.do === 'poll') this.device.poll(at.budget)
      else if (at.do === 'finish') this.finish(at.which)
      else if (at.do === 'learn') this.learn()
      else if (at.do === 'listen') this.listen(at.meanwhile)
      else this.meddle(at.do, 0)
      for (let q = 0; q < QUEUES; q++) this.reap(q)
    }
    this.listening = 'nothing'
    for (let q = 0; q < QUEUES; q++) this.kick(q)
    // From here on the device is polled when it asked for that, and not otherwise.
    for (let rounds = 0; this.goesOn(); rounds++) {
      expect(rounds).toBeLessThan(2000)
      this.due = false
      if (this.device.poll(this.given.budget) > 0) this.due = true
      for (let q = 0; q < QUEUES; q++) this.reap(q)
    }
    expect(this.outstanding.map((all) => [...all.values()].map(({ type }) => type))).toEqual([[], []])
    expect([this.device.inFlight, this.driver.status & STATUS_DRIVER_OK]).toEqual([0, STATUS_DRIVER_OK])
    for (const asked of this.bySector.values())
      if (asked.void !== null) expect(this.memoryOf(asked)).toEqual(asked.void)
    const kinds = this.device.faults.last().filter(({ kind }) => kind !== 'host' && kind !== 'request')
    expect([kinds, this.wrong]).toEqual([[], []])
  }
}

describe.each(['split', 'packed'] as const)('any store, any driver: %s', (format) => {
  test('each request is executed once, used once, and answered as its store said', async () => {
    const listeners = process.listeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', () => {})
    try {
      fc.assert(
        fc.property(scenario, ({ steps, ...given }) => {
          new World(format, given).run(steps)
        }),
        { numRuns: 200 },
      )
    } finally {
      await new Promise((resolve) => setImmediate(resolve))
      process.removeAllListeners('uncaughtException')
      for (const listener of listeners) process.on('uncaughtException', listener)
    }
  })
})
