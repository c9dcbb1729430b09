import type { AccessFault, BusWindows, DeviceFault } from '@guestdma/devices'
import { ACCESS_READ, ACCESS_WRITE } from '@guestdma/memory'
import type { Machine } from 'guestdma'
import { describe, expect, it } from 'vitest'
import {
  HeldStore,
  MAC,
  MODES,
  machineOver,
  PLATFORMS,
  pattern,
  settled,
  TRANSPORTS,
  type TransportName,
} from './support/machines.ts'

const SECRET = new TextEncoder().encode('correct horse battery staple')

/** What a device gets that reads `length` bytes at a device address: the bytes, or null where its port refuses. */
function steal(made: Machine, device: string, address: number, length: number): Uint8Array | null {
  const { port } = made.device(device)
  port.refresh()
  port.request[0] = address
  const granted = port.resolve(length, ACCESS_READ)
  return granted < length ? null : port.region.u8.slice(port.offset, port.offset + length)
}

/** Does a device find these bytes anywhere within its reach? */
function finds(made: Machine, device: string, bytes: Uint8Array): boolean {
  const needle = Buffer.from(bytes)
  const { windows } = made.device(device).port as BusWindows
  return windows.some(({ region, offset, length }) => Buffer.from(region.u8.buffer, offset, length).includes(needle))
}

/** A block write in flight whose buffer has a secret right behind it, in the same page. */
async function lent(
  transport: TransportName,
  platform: string,
  mode: 'map' | 'pool',
): Promise<{ made: Machine; secret: number; store: HeldStore; faults: (AccessFault | DeviceFault)[] }> {
  const store = new HeldStore(new Uint8Array(64 * 512))
  const made = await machineOver(transport)([
    { type: 'blk', name: 'disk0', platform, mode, device: { store } },
    { type: 'net', name: 'net0', platform, mode, device: { mac: MAC } },
  ])
  const faults: (AccessFault | DeviceFault)[] = []
  made.events.on('fault', ({ device, fault }) => {
    if (device === 'disk0') faults.push(fault)
  })
  made.pump()
  const page = made.ram.allocate(4096, 4096)
  const secret = page + 512
  made.memory.write(page, pattern(512, 3))
  made.memory.write((page + 512) as typeof page, SECRET)
  made
    .blk('disk0')
    .write(0, page, 512)
    .catch(() => {})
  await settled()
  made.pump()
  expect(store.held.length).toBe(1)
  return { made, secret, store, faults }
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  describe.each(MODES)('exposure in %s mode: a device that reaches for a secret next to a lent buffer', (mode) => {
    it('direct: gets it, can change it, and leaves no trace', async () => {
      const { made, secret, faults } = await lent(transport, 'direct', mode)
      expect(steal(made, 'disk0', secret, SECRET.length)).toEqual(SECRET)
      expect(finds(made, 'disk0', SECRET)).toBe(true)
      const { port } = made.device('disk0')
      port.request[0] = secret
      expect(port.resolve(4, ACCESS_WRITE)).toBe(4)
      expect(faults).toEqual([])
      expect(made.counters().devices.disk0.faults).toBe(0)
    })

    it('shared-pool: gets nothing, finds it nowhere, and every attempt is recorded, counted and emitted', async () => {
      const { made, secret, faults } = await lent(transport, 'shared-pool', mode)
      expect(steal(made, 'disk0', secret, SECRET.length)).toBeNull()
      const { port } = made.device('disk0')
      port.request[0] = secret
      expect(port.resolve(4, ACCESS_WRITE)).toBe(0)
      expect(finds(made, 'disk0', SECRET)).toBe(false)
      // What was lent is there, though.
      expect(finds(made, 'disk0', pattern(512, 3))).toBe(true)
      const expected = [
        { port: 'disk0', address: secret, length: SECRET.length, access: ACCESS_READ, reason: 'unmapped' },
        { port: 'disk0', address: secret, length: 4, access: ACCESS_WRITE, reason: 'unmapped' },
      ]
      expect(faults).toEqual(expected)
      expect((port as BusWindows).faults.last()).toEqual(expected)
      expect(made.counters().devices.disk0.faults).toBe(2)
    })

    it('shared-pool: neither the edges of the pool nor addresses beyond every memory give anything', async () => {
      const { made } = await lent(transport, 'shared-pool', mode)
      const [{ base, length }] = (made.device('disk0').port as BusWindows).windows
      for (const address of [base - 1, base + length, 0, 2 ** 52, 2 ** 53 - 1])
        expect(steal(made, 'disk0', address, 1)).toBeNull()
      expect(steal(made, 'disk0', base + length - 1, 1)).not.toBeNull()
      expect(steal(made, 'disk0', base + length - 1, 2)).toBeNull()
    })

    it('shared-pool: one device does not reach the pool of another', async () => {
      const { made } = await lent(transport, 'shared-pool', mode)
      const [{ base }] = (made.device('net0').port as BusWindows).windows
      expect(steal(made, 'disk0', base, 16)).toBeNull()
      expect(finds(made, 'net0', pattern(512, 3))).toBe(false)
    })

    it.each(PLATFORMS)('reset/revokes: after close nothing is reached any more on %s', async (platform) => {
      const { made, secret, store } = await lent(transport, platform, mode)
      const windows = [...(made.device('disk0').port as BusWindows).windows]
      await made.close()
      expect(steal(made, 'disk0', secret, 1)).toBeNull()
      for (const { base } of windows) expect(steal(made, 'disk0', base, 1)).toBeNull()
      store.release()
      made.pump()
      expect(made.ram.live).toBe(1)
    })
  })
})
