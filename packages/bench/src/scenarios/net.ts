import { Frames } from '@guestdma/devices'
import { NO_BUFFER, type ReceivedFrames } from '@guestdma/drivers'
import { FrameBatch, LoopbackLink } from 'guestdma'
import type { Subject } from '../contract/result.ts'
import { defineScenario, type Prepared, type Scenario, type Variant } from '../contract/scenario.ts'
import { bufferModeOf, bufferRing, countersOf, machineFor, NONE, type Schemes, Sides } from './machines.ts'

const BYTES = [60, 64, 128, 256, 512, 1024, 1514]
const BATCHES = [1, 4, 16, 32, 64, 256]
const RINGS = ['split', 'packed'] as const
const STRIDE = 2048
// A frame begins 16 bytes into its buffer, right after its virtio header.
const HEADROOM = 16
const BUDGET = 256
// Bytes of a frame that are copied away before they are read: Ethernet, IPv6 and TCP.
const HEADERS = 64
const MAC = [2, 0, 0, 0, 0, 1]

/** Frames go out in batches and are counted by a link that does nothing else. */
export function transmit(schemes: Schemes): Scenario {
  return defineScenario({
    driver: 'net',
    operation: 'transmit',
    modes: ['map', 'pool'],
    bytes: BYTES,
    rings: RINGS,
    batches: BATCHES,
    possible,
    cold: ['map'],
    async prepare(variant: Variant): Promise<Prepared> {
      const { batch: size, bytes, mode, backend } = variant
      const batch = new FrameBatch(size)
      batch.count = size
      batch.length.fill(bytes)
      batch.headed = mode === 'map'
      if (backend === NONE) return nothing(batch)
      let frames = 0
      const link = {
        transmit({ count }: Frames): number {
          frames += count
          return count
        },
      }
      const machine = await machineFor(schemes, variant, {
        type: 'net',
        name: 'net0',
        mode: bufferModeOf(variant),
        device: { mac: MAC, link },
      })
      const net = machine.net('net0')
      const { model: device } = machine.device('net0')
      const sides = new Sides(machine, 'net0', variant)
      const ring = bufferRing(machine, variant, STRIDE)
      let next = 0
      return {
        round(): number {
          if (mode === 'pool') {
            for (let i = 0; i < size; i++) batch.buffer[i] = net.acquire()
          } else {
            for (let i = 0; i < size; i++) {
              batch.address[i] = ring.base + next * STRIDE + HEADROOM
              next = next + 1 === ring.count ? 0 : next + 1
            }
          }
          const taken = net.send(batch)
          sides.device()
          device.poll(BUDGET)
          sides.driver()
          net.poll(BUDGET)
          return check(taken, size)
        },
        counters: () => ({ ...countersOf(machine, 'net0', sides), framesSeen: frames }),
        driverShare: (run) => sides.driverShare(run),
        close: () => machine.close(),
      }
    },
  })
}

/** Frames come in in batches, and the driver's user reads the type of each. */
export function receive(schemes: Schemes): Scenario {
  return defineScenario({
    driver: 'net',
    operation: 'receive',
    modes: ['map', 'pool', 'pool-header'],
    bytes: BYTES,
    rings: RINGS,
    batches: BATCHES,
    possible,
    cold: [],
    async prepare(variant: Variant): Promise<Prepared> {
      const { batch: size, bytes, backend } = variant
      if (backend === NONE) return nothing(new FrameBatch(size))
      const reader = readerFor(variant)
      const machine = await machineFor(schemes, variant, {
        type: 'net',
        name: 'net0',
        mode: bufferModeOf(variant),
        device: { mac: MAC },
        observer: reader,
      })
      const net = machine.net('net0')
      const device = machine.netModel('net0')
      // As a link hands over what arrived meanwhile.
      const arrived = Frames.of(...new Array<Uint8Array>(size).fill(new Uint8Array(bytes).fill(0x5a)))
      const sides = new Sides(machine, 'net0', variant)
      // Receive buffers are posted by the first poll.
      machine.pump()
      return {
        round(): number {
          sides.device()
          const taken = device.receiveEach(arrived, 0, size)
          device.poll(BUDGET)
          sides.driver()
          net.poll(BUDGET)
          return check(taken, size)
        },
        counters: () => ({ ...countersOf(machine, 'net0', sides), framesSeen: reader.seen, typesSeen: reader.types }),
        driverShare: (run) => sides.driverShare(run),
        close: () => machine.close(),
      }
    },
  })
}

/** One frame goes out, comes back over a loopback link, and is seen: latency rather than throughput. */
export function pingPong(schemes: Schemes): Scenario {
  return defineScenario({
    driver: 'net',
    operation: 'ping-pong',
    modes: ['map', 'pool', 'pool-header'],
    bytes: BYTES,
    rings: RINGS,
    batches: [1],
    cold: [],
    async prepare(variant: Variant): Promise<Prepared> {
      const { bytes, backend } = variant
      const batch = new FrameBatch(1)
      batch.count = 1
      batch.length[0] = bytes
      if (backend === NONE) return nothing(batch)
      const reader = readerFor(variant)
      const machine = await machineFor(schemes, variant, {
        type: 'net',
        name: 'net0',
        mode: bufferModeOf(variant),
        device: { mac: MAC, link: new LoopbackLink() },
        observer: reader,
      })
      const net = machine.net('net0')
      const { model: device } = machine.device('net0')
      const sides = new Sides(machine, 'net0', variant)
      const pollBoth = (): number => {
        sides.device()
        const moved = device.poll(BUDGET)
        sides.driver()
        return moved + net.poll(BUDGET)
      }
      return {
        round(): number {
          const before = reader.seen
          batch.buffer[0] = net.acquire()
          net.send(batch)
          while (pollBoth() > 0);
          return check(reader.seen - before, 1)
        },
        counters: () => ({ ...countersOf(machine, 'net0', sides), framesSeen: reader.seen, typesSeen: reader.types }),
        driverShare: (run) => sides.driverShare(run),
        close: () => machine.close(),
      }
    },
  })
}

// Copies of the edges of so many buffers find no room at once.
function possible({ backend, batch }: Subject): boolean {
  return backend !== 'virtio-iommu-bounce' || batch < 256
}

/** Whoever is given received frames, and reads from each where its payload goes. */
interface Reader {
  seen: number
  /** Sum of what was read, so that it is used. */
  types: number
  frames(batch: ReceivedFrames): void
}

// In `pool-header` the headers are copied first, and read where the device cannot change them any more.
function readerFor({ mode }: Variant): Reader {
  const copied = new Uint8Array(HEADERS)
  return {
    seen: 0,
    types: 0,
    frames:
      mode === 'pool-header'
        ? function (this: Reader, { count, region: { u8 }, offset, length }: ReceivedFrames): void {
            for (let i = 0; i < count; i++) {
              const from = offset[i]
              const bytes = length[i] < HEADERS ? length[i] : HEADERS
              for (let at = 0; at < bytes; at++) copied[at] = u8[from + at]
              this.types += (copied[12] << 8) | copied[13]
            }
            this.seen += count
          }
        : function (this: Reader, { count, region: { u8 }, offset }: ReceivedFrames): void {
            for (let i = 0; i < count; i++) this.types += (u8[offset[i] + 12] << 8) | u8[offset[i] + 13]
            this.seen += count
          },
  }
}

// What the loops of this file cost by themselves.
function nothing(batch: FrameBatch): Prepared {
  let next = 0
  let seen = 0
  return {
    round(): number {
      for (let i = 0; i < batch.capacity; i++) {
        batch.address[i] = next * STRIDE + HEADROOM
        batch.buffer[i] = NO_BUFFER
        next = (next + 1) & 255
      }
      seen += batch.capacity
      return batch.capacity
    },
    counters: () => ({ framesSeen: seen }),
    close: async () => {},
  }
}

// A round that did less than it should would make every figure look better.
function check(done: number, size: number): number {
  if (done !== size) throw new Error(`${done} of ${size} frames went through`)
  return done
}
