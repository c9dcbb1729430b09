// What a block device meets in the middle of a batch: a store, a listener or a port that changes what the batch stands on.
import { Region } from '@guestdma/memory'
import {
  STATUS_DRIVER_OK,
  STATUS_SUSPEND,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
} from '@guestdma/spec'
import { beforeEach, describe, expect, test } from 'vitest'
import {
  BlkDevice,
  type BlkDeviceOptions,
  type BlockRequest,
  type BusWindows,
  everything,
  MemoryBlockStore,
  MmioRegisters,
} from '../src/index.ts'
import { DISK_BYTES, header, status } from './support/devices.ts'
import { Driver, type Element, Ram, type RingPlace } from './support/guest.ts'
import { type Guest, packedGuest, splitGuest } from './support/ring-guests.ts'

const IN = 0
const OUT = 1
const GET_ID = 8
const FORMATS = ['split', 'packed'] as const

/** Calls `during` in the request for a sector, before it is served. */
class Meddling extends MemoryBlockStore {
  readonly sectors: number[] = []
  during: (request: BlockRequest) => void = () => {}
  declare onCapacity: (() => void) | undefined

  override get capacity(): number {
    this.onCapacity?.()
    return super.capacity
  }

  override read(request: BlockRequest): void {
    this.sectors.push(request.sector)
    this.during(request)
    super.read(request)
  }

  override write(request: BlockRequest): void {
    this.sectors.push(request.sector)
    this.during(request)
    super.write(request)
  }
}

describe.each(FORMATS)('a batch of a %s ring', (format) => {
  let ram: Ram
  let port: BusWindows
  let store: Meddling
  let device: BlkDevice
  let driver: Driver
  let guest: Guest
  let place: RingPlace
  let ringEnd: number

  function boot(options: Partial<BlkDeviceOptions> = {}, ...features: number[]): void {
    const size = 32
    ram = new Ram()
    port = everything(ram.memory)
    store = new Meddling(new Uint8Array(DISK_BYTES).map((_, i) => 1 + (i >>> 9)))
    device = new BlkDevice({
      name: 'blk0',
      port,
      store,
      offer: [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER],
      ...options,
    })
    driver = new Driver(new MmioRegisters(device, {}))
    const made = format === 'packed' ? packedGuest(ram, size) : splitGuest(ram, size)
    guest = made
    place = made.ring
    ringEnd = ram.alloc(0, 1)
    driver.start(
      [place],
      ...(format === 'packed' ? [VIRTIO_F_RING_PACKED] : []),
      VIRTIO_F_RING_RESET,
      VIRTIO_BLK_F_FLUSH,
      ...features,
    )
  }

  const ringBytes = (): Uint8Array => ram.bytes.slice(ram.at(place.desc), ram.at(ringEnd))

  /** A request with its data in a page of its own. */
  function chain(type: number, sector: number, length = 512): Element[] {
    const data = { address: ram.put(new Uint8Array(length).fill(0x55)), length, w: type !== OUT }
    return [header(ram, type, sector), data, status(ram)]
  }

  function poll(budget = 64): void {
    driver.kick(0)
    device.poll(budget)
  }

  /** Everything but the ring, which the guest lays down first. */
  function revokeRing(): void {
    const [window] = port.windows
    const skip = ringEnd - window.base
    port.setWindows([{ ...window, base: ringEnd, offset: window.offset + skip, length: window.length - skip }])
  }

  beforeEach(() => boot())

  test('a ring that a store revokes is not written to, also where a later chain is malformed', () => {
    guest.offer([chain(IN, 1), [{ address: 0x10, length: 16 }, status(ram)]])
    let before: Uint8Array = new Uint8Array(0)
    store.during = () => {
      revokeRing()
      before = ringBytes()
    }
    poll()
    expect(store.sectors).toEqual([1])
    expect(ringBytes()).toEqual(before)
    expect(device.live).toBe(false)
  })

  test.each([
    [
      'the device',
      (): void => {
        driver.status = 0
      },
    ],
    ['the queue', (): void => driver.resetQueue(0)],
  ])("nothing is touched once a port's observer reset %s for a later chain", (_, reset) => {
    guest.offer([chain(IN, 1), [{ address: 0x10, length: 16 }, status(ram)]])
    let before: Uint8Array = new Uint8Array(0)
    let asked = 0
    port.faults.observer = () => {
      reset()
      asked = store.sectors.length
      before = ram.bytes.slice()
    }
    poll()
    expect(before.length).toBeGreaterThan(0)
    expect(Buffer.compare(ram.bytes, before)).toBe(0)
    expect([store.sectors.length, device.inFlight]).toEqual([asked, 0])
  })

  test.each([
    ['no status', (): Element[] => [header(ram, IN, 1)]],
    ['a short header', (): Element[] => [{ address: ram.put(new Uint8Array(8)), length: 8 }, status(ram)]],
    ['too long', (): Element[] => chain(IN, 0, 8192)],
  ])('nothing is written once an observer reset the device for a request: %s', (_, make) => {
    let before: Uint8Array = new Uint8Array(0)
    boot({
      observer: () => {
        driver.status = 0
        before = ram.bytes.slice()
      },
      stagingBytes: 4096,
    })
    guest.offer([make()])
    poll()
    expect(before.length).toBeGreaterThan(0)
    expect(Buffer.compare(ram.bytes, before)).toBe(0)
    expect([store.sectors, device.inFlight]).toEqual([[], 0])
  })

  test.each([IN, OUT])('what a store revokes when it is asked for its capacity is not reached: type %i', (type) => {
    const request = chain(type, 1)
    guest.offer([request])
    store.onCapacity = () => {
      const [window] = port.windows
      port.setWindows([{ ...window, length: request[1].address - window.base }])
    }
    let seen = -1
    store.during = ({ data }) => {
      seen = data[0]
    }
    poll()
    if (type === OUT) expect(seen).not.toBe(0x55)
    expect(ram.get(request[1].address, 1)[0]).toBe(0x55)
    expect(ram.get(request[2].address, 1)[0]).toBe(0xff)
  })

  test('a device that its store resets when it is asked for its capacity does nothing more', () => {
    guest.offer([chain(OUT, 1), chain(OUT, 2)])
    store.onCapacity = () => {
      driver.status = 0
    }
    const before = ram.bytes.slice()
    poll()
    expect(store.sectors).toEqual([])
    expect(device.inFlight).toBe(0)
    expect(Buffer.compare(ram.bytes, before)).toBe(0)
  })

  test('a ring that a listener revokes when a batch is published is used no more', () => {
    boot({}, VIRTIO_F_EVENT_IDX)
    guest.offer(Array.from({ length: 2 }, () => chain(GET_ID, 0, 20)))
    let before: Uint8Array = new Uint8Array(0)
    ram.hook = () => {
      const [address] = ram.writes.at(-1) as [number, number]
      if (address >= ringEnd || before.length > 0) return
      // Within the publication: there is more meanwhile.
      guest.offer([chain(GET_ID, 0, 20)])
      revokeRing()
      before = ringBytes()
    }
    poll()
    expect(before.length).toBeGreaterThan(0)
    expect(ringBytes()).toEqual(before)
  })

  test("a listener of one queue may revoke another one's ring, which is not published then", () => {
    const waiting: BlockRequest[] = []
    ram = new Ram()
    port = everything(ram.memory)
    const disk = new MemoryBlockStore(new Uint8Array(DISK_BYTES))
    const { read } = disk
    disk.read = (request) => {
      if (request.sector === 1) waiting.push(request)
      else read.call(disk, request)
    }
    device = new BlkDevice({ name: 'blk0', port, store: disk, queues: 2, offer: [VIRTIO_F_RING_PACKED] })
    driver = new Driver(new MmioRegisters(device, {}))
    const begin = ram.alloc(0, 64)
    const guests = [0, 1].map(() => (format === 'packed' ? packedGuest(ram, 32) : splitGuest(ram, 32)))
    const [first, second] = guests.map((made) => made.ring)
    driver.start([first, second], ...(format === 'packed' ? [VIRTIO_F_RING_PACKED] : []), VIRTIO_BLK_F_MQ)
    const end = ram.alloc(0, 1)
    guests[1].offer([chain(IN, 1)])
    driver.kick(1)
    device.poll(64)
    waiting[0].done(0)
    guests[0].offer([chain(IN, 2)])
    driver.kick(0)
    const bytes = (): Uint8Array => ram.bytes.slice(ram.at(second.desc), ram.at(end))
    let before: Uint8Array = new Uint8Array(0)
    ram.hook = () => {
      const [address] = ram.writes.at(-1) as [number, number]
      if (address < begin || address >= second.desc || before.length > 0) return
      const [window] = port.windows
      const skip = end - window.base
      port.setWindows([
        { ...window, length: second.desc - window.base },
        { ...window, base: end, offset: window.offset + skip, length: window.length - skip },
      ])
      before = bytes()
    }
    device.poll(64)
    expect(before.length).toBeGreaterThan(0)
    expect(bytes()).toEqual(before)
  })

  test('a doorbell of a queue that was set up anew within a publication is not lost', () => {
    boot({}, VIRTIO_F_EVENT_IDX)
    guest.offer([chain(IN, 1)])
    let again: Guest | null = null
    ram.hook = () => {
      const [address] = ram.writes.at(-1) as [number, number]
      if (address >= ringEnd || again !== null) return
      const made = format === 'packed' ? packedGuest(ram, 32) : splitGuest(ram, 32)
      again = made
      driver.resetQueue(0)
      driver.queue(0, made.ring)
      made.offer([chain(IN, 2)])
      driver.kick(0)
    }
    poll()
    for (let i = 0; i < 4; i++) device.poll(64)
    expect(store.sectors).toEqual([1, 2])
    expect((again as Guest | null)?.reap()).toHaveLength(1)
  })

  test('what a listener makes available within a publication is served to the end', () => {
    boot({}, VIRTIO_F_EVENT_IDX)
    guest.offer([chain(IN, 1)])
    ram.hook = () => {
      const [address] = ram.writes.at(-1) as [number, number]
      if (address >= ringEnd) return
      ram.hook = null
      guest.offer([chain(IN, 2), chain(IN, 3), chain(IN, 4)])
    }
    poll(2)
    while (device.poll(2) > 0);
    expect([store.sectors, guest.reap().length]).toEqual([[1, 2, 3, 4], 4])
  })

  test("what a port's observer revokes for a later chain is not reached", () => {
    const request = chain(IN, 1)
    port.faults.observer = () => {
      const [window] = port.windows
      port.setWindows([{ ...window, length: request[1].address - window.base }])
    }
    guest.offer([request, [{ address: 0x10, length: 16 }, status(ram)]])
    poll()
    expect(ram.get(request[1].address, 1)[0]).toBe(0x55)
    expect(ram.get(request[2].address, 1)[0]).toBe(0xff)
    expect(device.live).toBe(false)
  })

  test('a port whose grants never last does not hold a poll', () => {
    const { resolve } = port
    port.resolve = (length, access) => {
      port.epoch++
      const granted = resolve.call(port, length, access)
      // Asked for each buffer.
      port.window[1] = 0
      return granted
    }
    port.window[1] = 0
    guest.offer([chain(IN, 1)])
    poll()
    expect([store.sectors, device.live]).toEqual([[], true])
  })

  test('a long chain behind others is taken as it is alone', () => {
    // Windows of 16 bytes onto one piece of memory, so that a long buffer has as many pieces as a chain may have.
    boot({ stagingBytes: 4 << 20 })
    const region = ram.memory.regions[0]
    const [window] = port.windows
    const offset = window.offset + 0x8_0000
    const far = 0x1_0000_0000
    const count = 65530
    port.setWindows([
      window,
      ...Array.from({ length: count }, (_, i) => ({ base: far + 16 * i, length: 16, region, offset })),
    ])
    const long = (pieces: number): Element[] => [
      header(ram, IN, 0),
      { address: far, length: 16 * pieces, w: true },
      status(ram),
    ]
    guest.offer([long(count - 10)])
    poll()
    expect([device.live, guest.reap().length]).toEqual([true, 1])
    guest.offer([long(32), long(32), long(count - 10)])
    poll()
    expect([device.live, guest.reap().length]).toEqual([true, 3])
  })

  test.each([1, 64])(
    'a device that is suspended in the middle takes nothing more: budget %i (virtio 1.4 §3.4.2)',
    (budget) => {
      boot({}, VIRTIO_F_SUSPEND)
      store.during = ({ sector }) => {
        if (sector === 1) driver.status |= STATUS_SUSPEND
      }
      guest.offer([chain(IN, 1), chain(IN, 2), chain(IN, 3)])
      poll(budget)
      expect([store.sectors, guest.reap().length, device.suspended]).toEqual([[1], 1, true])
      driver.status |= STATUS_DRIVER_OK
      poll()
      expect([store.sectors, guest.reap().length]).toEqual([[1, 2, 3], 2])
    },
  )

  test('who listens to the data is told, whoever listens to the status', () => {
    const silent = new Region(new ArrayBuffer(0x1000), 'memory that nobody listens to')
    port.setWindows([...port.windows, { base: 0x9000_0000, length: 0x1000, region: silent }])
    const request = chain(IN, 1)
    guest.offer([[request[0], request[1], { address: 0x9000_0000, length: 1, w: true }]])
    ram.writes.length = 0
    poll()
    expect(guest.reap()).toHaveLength(1)
    expect(ram.writes).toContainEqual([request[1].address, 512])
  })
})
