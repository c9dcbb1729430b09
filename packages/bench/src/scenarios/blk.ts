import { RequestBatch } from '@guestdma/drivers'
import { BLK_T_IN, BLK_T_OUT, SECTOR_SIZE } from '@guestdma/spec'
import { MemoryBlockStore } from 'guestdma'
import { defineScenario, type Prepared, type Scenario, type Variant } from '../contract/scenario.ts'
import { bufferModeOf, bufferRing, countersOf, machineFor, NONE, type Schemes, Sides } from './machines.ts'

const DISK = 4 << 20
const BUDGET = 256
const QUEUE_SIZE = 256
// The driver's own, in a megabyte.
const POOL_BUFFERS = 64

/** Requests to a disk in memory, through the driver's synchronous core. */
export function requests(operation: 'read' | 'write', schemes: Schemes): Scenario {
  return defineScenario({
    driver: 'blk',
    operation,
    modes: ['map', 'pool'],
    bytes: [512, 4096],
    rings: ['split', 'packed'],
    batches: [1, 8, 32, 128],
    cold: ['map'],
    possible: ({ mode, batch }) => mode !== 'pool' || batch <= POOL_BUFFERS,
    async prepare(variant: Variant): Promise<Prepared> {
      const { batch: size, bytes, backend } = variant
      const batch = new RequestBatch(size)
      batch.count = size
      batch.type.fill(operation === 'read' ? BLK_T_IN : BLK_T_OUT)
      batch.length.fill(bytes)
      if (backend === NONE) return nothing(batch)
      const store = new MemoryBlockStore(new Uint8Array(DISK).fill(0x5a))
      const machine = await machineFor(schemes, variant, {
        type: 'blk',
        name: 'disk0',
        mode: bufferModeOf(variant),
        queueSize: QUEUE_SIZE,
        device: { store, queueSize: QUEUE_SIZE },
      })
      const { queue } = machine.blk('disk0')
      const { model: device } = machine.device('disk0')
      const sides = new Sides(machine, 'disk0', variant)
      const ring = bufferRing(machine, variant, bytes)
      const sectors = bytes / SECTOR_SIZE
      let next = 0
      let sector = 0
      return {
        round(): number {
          const { buffers } = queue
          for (let i = 0; i < size; i++) {
            batch.sector[i] = sector
            sector = sector + 2 * sectors > DISK / SECTOR_SIZE ? 0 : sector + sectors
            if (buffers !== null) batch.buffer[i] = buffers.acquire()
            else {
              batch.address[i] = ring.base + next * bytes
              next = next + 1 === ring.count ? 0 : next + 1
            }
          }
          const taken = queue.submit(batch)
          sides.device()
          device.poll(BUDGET)
          sides.driver()
          const done = queue.poll(BUDGET)
          if (buffers !== null) for (let i = 0; i < size; i++) buffers.release(batch.buffer[i])
          if (taken !== size || done !== size)
            throw new Error(`${taken} of ${size} requests were taken and ${done} completed`)
          return done
        },
        counters: () => countersOf(machine, 'disk0', sides),
        driverShare: (run) => sides.driverShare(run),
        close: () => machine.close(),
      }
    },
  })
}

function nothing(batch: RequestBatch): Prepared {
  let sector = 0
  let seen = 0
  return {
    round(): number {
      for (let i = 0; i < batch.capacity; i++) {
        batch.sector[i] = sector
        sector = (sector + 1) & 1023
      }
      seen += batch.capacity
      return batch.capacity
    },
    counters: () => ({ requestsSeen: seen }),
    close: async () => {},
  }
}
