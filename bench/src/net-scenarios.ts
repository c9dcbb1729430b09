import { defineScenario, type Prepared, type Scenario, type Variant } from '@guestdma/bench'
import { Frames } from '@guestdma/devices'
import { NO_BUFFER } from '@guestdma/drivers'
import { FrameBatch, LoopbackLink } from 'guestdma'
import { bufferModeOf, bufferRing, countersOf, machineFor, NONE, Sides } from './machines.ts'

const BYTES = [64, 256, 1514]
const BATCHES = [1, 32]
const STRIDE = 2048
// A frame begins 16 bytes into its buffer, right after its virtio header.
const HEADROOM = 16
const BUDGET = 64
const MAC = [2, 0, 0, 0, 0, 1]

/** Frames go out in batches and are counted by a link that does nothing else. */
export const transmit: Scenario = defineScenario({
  driver: 'net',
  operation: 'transmit',
  modes: ['map', 'pool'],
  bytes: BYTES,
  batches: BATCHES,
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
    const machine = await machineFor(variant, {
      type: 'net',
      name: 'net0',
      mode: bufferModeOf(variant),
      device: { mac: MAC, link },
    })
    const net = machine.net('net0')
    const { model: device } = machine.device('net0')
    const sides = new Sides(machine, 'net0')
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
      close: () => machine.close(),
    }
  },
})

/** Frames come in in batches, and the driver's user looks at each. */
export const receive: Scenario = defineScenario({
  driver: 'net',
  operation: 'receive',
  modes: ['map', 'pool'],
  bytes: BYTES,
  batches: BATCHES,
  cold: [],
  async prepare(variant: Variant): Promise<Prepared> {
    const { batch: size, bytes, backend } = variant
    if (backend === NONE) return nothing(new FrameBatch(size))
    let frames = 0
    const observer = {
      frames(batch: { readonly count: number }): void {
        frames += batch.count
      },
    }
    const machine = await machineFor(variant, {
      type: 'net',
      name: 'net0',
      mode: bufferModeOf(variant),
      device: { mac: MAC },
      observer,
    })
    const net = machine.net('net0')
    const device = machine.netModel('net0')
    // As a link hands over what arrived meanwhile.
    const arrived = Frames.of(...new Array<Uint8Array>(size).fill(new Uint8Array(bytes).fill(0x5a)))
    const sides = new Sides(machine, 'net0')
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
      counters: () => ({ ...countersOf(machine, 'net0', sides), framesSeen: frames }),
      close: () => machine.close(),
    }
  },
})

/** One frame goes out, comes back over a loopback link, and is seen: latency rather than throughput. */
export const pingPong: Scenario = defineScenario({
  driver: 'net',
  operation: 'ping-pong',
  modes: ['map', 'pool'],
  bytes: BYTES,
  batches: [1],
  cold: [],
  async prepare(variant: Variant): Promise<Prepared> {
    const { bytes, backend } = variant
    const batch = new FrameBatch(1)
    batch.count = 1
    batch.length[0] = bytes
    if (backend === NONE) return nothing(batch)
    let frames = 0
    const observer = {
      frames(received: { readonly count: number }): void {
        frames += received.count
      },
    }
    const machine = await machineFor(variant, {
      type: 'net',
      name: 'net0',
      mode: bufferModeOf(variant),
      device: { mac: MAC, link: new LoopbackLink() },
      observer,
    })
    const net = machine.net('net0')
    const { model: device } = machine.device('net0')
    const sides = new Sides(machine, 'net0')
    const pollBoth = (): number => {
      sides.device()
      const moved = device.poll(BUDGET)
      sides.driver()
      return moved + net.poll(BUDGET)
    }
    return {
      round(): number {
        const before = frames
        batch.buffer[0] = net.acquire()
        net.send(batch)
        while (pollBoth() > 0);
        return check(frames - before, 1)
      },
      counters: () => ({ ...countersOf(machine, 'net0', sides), framesSeen: frames }),
      close: () => machine.close(),
    }
  },
})

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
