import { DmaMappings, type PoolFact } from '@guestdma/dma'
import { type DeviceAddress, GuestMemory, Region } from '@guestdma/memory'
import { BounceBackend, type BounceBackendOptions, BouncePool, SLOT_BYTES } from '../../src/index.ts'

export const BASE = 0x8000_0000
export const RAM = 1 << 20
/** The pool is not in guest RAM, and neither its offset nor its device address is 0. */
export const POOL_OFFSET = 4096
export const POOL_DEVICE = 0x3_0000_0000

export function newPool(slots: number, reserve?: number): { pool: BouncePool; fact: PoolFact } {
  const region = new Region(new ArrayBuffer(POOL_OFFSET + slots * SLOT_BYTES + 4096), 'pool')
  region.u8.fill(0xa5)
  const window = { region, offset: POOL_OFFSET, length: slots * SLOT_BYTES }
  const fact: PoolFact = { window, device: POOL_DEVICE as DeviceAddress, home: 'device-memory' }
  return {
    fact,
    pool: new BouncePool({ name: 'test pool', pool: fact, ...(reserve === undefined ? {} : { reserve }) }),
  }
}

export interface Rig {
  readonly pool: BouncePool
  readonly backend: BounceBackend
  readonly memory: GuestMemory
  /** The guest's bytes, and the pool's from slot 0 on. */
  readonly ram: Uint8Array
  readonly slots: Uint8Array
}

export function rig(slots: number, options: Partial<BounceBackendOptions> & { reserve?: number } = {}): Rig {
  const { reserve, ...rest } = options
  const { pool } = options.pool === undefined ? newPool(slots, reserve) : { pool: options.pool }
  const buffer = new ArrayBuffer(RAM)
  const memory = new GuestMemory([{ base: BASE, length: RAM, memory: buffer }])
  const backend = new BounceBackend({ name: 'test bounce', memory, ...rest, pool })
  return {
    pool,
    backend,
    memory,
    ram: new Uint8Array(buffer),
    slots: pool.region.u8.subarray(POOL_OFFSET, POOL_OFFSET + slots * SLOT_BYTES),
  }
}

/** Fills in a row and maps it. */
export function map(
  backend: BounceBackend,
  m: DmaMappings,
  row: number,
  at: number,
  length: number,
  direction = 2,
): number {
  m.guest[row] = BASE + at
  m.length[row] = length
  m.direction[row] = direction
  return backend.map(m, row)
}

export const table = (rows: number, standing = false): DmaMappings => new DmaMappings(rows, standing)

/** The code of the error that is thrown. */
export function code(body: () => unknown): string {
  try {
    body()
  } catch (error) {
    return (error as { code: string }).code
  }
  return 'nothing was thrown'
}
