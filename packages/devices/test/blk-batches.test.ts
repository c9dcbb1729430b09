// Requests that a block device takes together, where one of them changes what the others stand on.
import { describe, expect, test } from 'vitest'
import { type BlkDevice, type BlockRequest, type BlockStore, type BusWindows, MemoryBlockStore } from '../src/index.ts'
import { type AnyBlkMachine, blkMachineOver, DISK_BYTES, header, status } from './support/devices.ts'
import { Ram } from './support/guest.ts'

const IN = 0
const OUT = 1

/** Serves requests at once, and calls `during` in the one for sector 1. */
class Meddling extends MemoryBlockStore {
  readonly sectors: number[] = []
  during: () => void = () => {}

  override read(request: BlockRequest): void {
    this.meddle(request)
    super.read(request)
  }

  override write(request: BlockRequest): void {
    this.meddle(request)
    super.write(request)
  }

  private meddle({ sector }: BlockRequest): void {
    this.sectors.push(sector)
    if (sector === 1) this.during()
  }
}

let m: AnyBlkMachine

function boot(store: BlockStore, ...features: number[]): void {
  m = blkMachineOver('mmio', { store }, 16, new Ram())
  m.driver.start([m.ring], ...features)
}

/** Offers one request for each sector, 0 and up, without a doorbell. Returns where data and statuses are. */
function offer(count: number, type = IN): { data: number; cell: number }[] {
  return Array.from({ length: count }, (_, sector) => {
    const data = m.ram.put(new Uint8Array(512).fill(0x55))
    const cell = status(m.ram)
    m.ring.offer(m.ring.chain(header(m.ram, type, sector), { address: data, length: 512, w: type === IN }, cell))
    return { data, cell: cell.address }
  })
}

const disk = (): Uint8Array<ArrayBuffer> => new Uint8Array(DISK_BYTES).map((_, i) => 1 + (i >>> 9))

function again(device: BlkDevice): void {
  const port = device.port as BusWindows
  port.setWindows(port.windows)
}

describe('requests that are taken together', () => {
  test.each([IN, OUT])('are each executed once where the store moves memory in one of them: type %i', (type) => {
    const store = new Meddling(disk())
    boot(store, 9)
    store.during = () => again(m.device)
    const requests = offer(4, type)
    m.driver.kick(0)
    m.device.poll(64)
    expect(store.sectors).toEqual([0, 1, 2, 3])
    expect(m.ring.reap()).toHaveLength(4)
    expect(requests.map(({ cell }) => m.ram.get(cell, 1)[0])).toEqual([0, 0, 0, 0])
    if (type === IN) expect(requests.map(({ data }) => m.ram.get(data, 1)[0])).toEqual([1, 2, 3, 4])
    else expect([...store.bytes.subarray(0, 2048)].every((byte) => byte === 0x55)).toBe(true)
    expect([m.device.inFlight, m.device.faults.count]).toEqual([0, 0])
  })

  test('are not executed any more where the store revokes what they need', () => {
    const store = new Meddling(disk())
    boot(store, 9)
    const requests = offer(3)
    store.during = () => {
      const port = m.device.port as BusWindows
      const [window] = port.windows
      // What lies before the third request's data stays reachable.
      port.setWindows([{ ...window, length: requests[2].data - window.base }])
    }
    m.driver.kick(0)
    m.device.poll(64)
    expect(store.sectors).toEqual([0, 1])
    expect(requests.map(({ data }) => m.ram.get(data, 1)[0])).toEqual([1, 2, 0x55])
    expect([m.device.live, m.device.inFlight, m.ring.reap().length]).toEqual([false, 0, 2])
  })

  test.each([
    [
      'the device',
      (): void => {
        m.driver.status = 0
      },
    ],
    ['the queue', (): void => m.driver.resetQueue(0)],
  ])('are dropped where the store has %s reset', (_, reset) => {
    const store = new Meddling(disk())
    boot(store, 9, 40)
    store.during = reset
    const requests = offer(3)
    m.driver.kick(0)
    m.device.poll(64)
    expect(store.sectors).toEqual([0, 1])
    expect(requests.map(({ cell }) => m.ram.get(cell, 1)[0])).toEqual([0, 0xff, 0xff])
    expect([m.device.inFlight, m.ring.usedIndex]).toEqual([0, 0])
  })

  test('stay in the ring from the first one on that finds no room', () => {
    const waiting: BlockRequest[] = []
    const late = (request: BlockRequest): void => void waiting.push(request)
    m = blkMachineOver(
      'mmio',
      { store: { capacity: DISK_BYTES, read: late, write: late, flush: late }, stagingBytes: 8192 },
      16,
    )
    m.driver.start([m.ring], 9)
    offer(4)
    m.driver.kick(0)
    m.device.poll(64)
    expect(waiting.map(({ sector }) => sector)).toEqual([0, 1])
    waiting[1].done(0)
    m.device.poll(64)
    expect(waiting.map(({ sector }) => sector)).toEqual([0, 1, 2])
    waiting[0].done(0)
    waiting[2].done(0)
    m.device.poll(64)
    waiting[3].done(0)
    m.device.poll(64)
    expect(m.ring.reap().map(({ length }) => length)).toEqual([513, 513, 513, 513])
  })
})
