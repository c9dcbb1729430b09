import { setImmediate as turn } from 'node:timers/promises'
import { type DmaProvider, type PoolFact, platformOffer } from '@guestdma/dma'
import { BLK_FEATURES, DeviceSession, NET_FEATURES, type VirtioDriver } from '@guestdma/drivers'
import { type DeviceAddress, GuestMemory, guestAddress, Region, SpanAllocator } from '@guestdma/memory'
import { SharedMemory, waitReadable } from '@guestdma/node'
import { DEVICE_ID_NET, NET_FEATURE_DEPENDENCIES } from '@guestdma/spec'
import { negotiate, type Wait } from '@guestdma/transport'
import type { VhostUserTransport } from '../../src/index.ts'

/** Guest RAM that no back end is given, unless a test shares it. */
export const RAM_BASE = 0x8000_0000
export const RAM_BYTES = 16 << 20
/** Where a device sees a pool: at no address of the guest. */
export const POOL_DEVICE = 0x12_3456_0000
const POOL_BYTES = 4 << 20

/** How long anything here may take on a loaded machine. */
export const DEADLINE_MS = 15_000
const WAIT: Wait = { pump: () => {}, deadlineMs: DEADLINE_MS }

/** A guest with RAM of its own and a pool in shared memory. */
export interface Guest {
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly pool: SharedMemory
  readonly poolFact: PoolFact
  close(): void
}

export function newGuest(shared?: SharedMemory): Guest {
  const pool = SharedMemory.create('pool', POOL_BYTES)
  const buffer = shared?.buffer ?? new ArrayBuffer(RAM_BYTES)
  const memory = new GuestMemory([{ base: RAM_BASE, length: RAM_BYTES, memory: buffer }])
  const window = { region: new Region(pool.buffer, 'pool'), offset: 0, length: POOL_BYTES }
  return {
    memory,
    ram: new SpanAllocator(guestAddress(RAM_BASE), RAM_BYTES),
    pool,
    poolFact: { window, device: POOL_DEVICE as DeviceAddress, home: 'guest-ram' },
    close: () => pool.close(),
  }
}

export interface SessionOptions {
  readonly transport: VhostUserTransport
  readonly guest: Guest
  readonly provider: DmaProvider
}

/** From reset to a session, as a composition does it. */
export async function openSession(options: SessionOptions): Promise<DeviceSession> {
  const { transport, guest, provider } = options
  const { memory, ram } = guest
  const net = transport.deviceId === DEVICE_ID_NET
  const { features, backend } = await negotiate({
    transport,
    understood: net ? NET_FEATURES : BLK_FEATURES,
    dependencies: net ? NET_FEATURE_DEPENDENCIES : [],
    providers: [provider],
    dma: provider.id,
    wait: WAIT,
    offer: (offered) =>
      platformOffer({
        enforcedBy: 'construction',
        device: transport.name,
        offered,
        transport: { kind: transport.kind, transitional: transport.transitional },
        ramReachable: false,
        pool: guest.poolFact,
        memory,
        ram,
        listed: new Set([provider.id]),
      }),
  })
  return new DeviceSession({ transport, features, backend, memory, ram, wait: WAIT })
}

/** Runs a driver as an owner's loop does, asleep while there is nothing to do, until `promise` settles. */
export async function run<T>(driver: VirtioDriver, promise: Promise<T>, pump?: () => number): Promise<T> {
  let settled = false
  const end = (): void => {
    settled = true
  }
  promise.then(end, end)
  await until(driver, () => settled, pump)
  return promise
}

/** As {@link run}, until `done`. `pump`: lets a back end in this process work, and returns how much it did. */
async function until(driver: VirtioDriver, done: () => boolean, pump = (): number => 0): Promise<void> {
  const transport = driver.session.transport as VhostUserTransport
  for (const end = performance.now() + DEADLINE_MS; !done(); ) {
    if (performance.now() > end) throw new Error(`nothing happened for ${DEADLINE_MS} ms`)
    if (driver.poll(256) + pump() === 0) {
      const { descriptors } = transport
      if (descriptors.length > 0 && waitReadable(descriptors, 2).length > 0) driver.interrupt()
    }
    await turn()
  }
}
