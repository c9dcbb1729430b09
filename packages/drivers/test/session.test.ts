import { BlkDriver, DeviceSession, NetDriver } from '@guestdma/drivers'
import {
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
} from '@guestdma/spec'
import { TransportLostError } from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { rigsOver, TRANSPORTS } from './support/rig.ts'

const LIVE = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK

describe.each(TRANSPORTS)('over %s', (transport) => {
  const { makeBlk, makeNet, makeRig } = rigsOver(transport)

  describe('session/status: bits are added to what the device says (virtio 1.4 §2.1.1)', () => {
    it('start and giveUp do not clear DEVICE_NEEDS_RESET', { tags: ['2.1.1/no-clearing'] }, async () => {
      const { device, session } = await makeNet({ queueSize: 8 })
      expect(device.status).toBe(LIVE)
      device.status = (LIVE & ~STATUS_DRIVER_OK) | STATUS_DEVICE_NEEDS_RESET
      session.start()
      expect(device.status).toBe(LIVE | STATUS_DEVICE_NEEDS_RESET)
      session.giveUp()
      expect(device.status).toBe(LIVE | STATUS_DEVICE_NEEDS_RESET | STATUS_FAILED)
    })
  })

  describe('config/optional: a field is read only with its feature (virtio 1.4 §2.5.2)', () => {
    it('a net device without MAC, MTU and STATUS needs no configuration at all', {
      tags: ['2.5.1/optional-fields', '2.5.1/no-size-limit', '2.5.1/large-enough'],
    }, async () => {
      const { device, net } = await makeNet({ queueSize: 8, features: [], config: new Uint8Array(0) })
      expect([device.status, net.mac, net.mtu]).toEqual([LIVE, null, 1500])
    })

    it('a block device without optional features has a capacity and nothing else', {
      tags: ['2.5.1/no-size-limit', '2.5.1/large-enough'],
    }, async () => {
      const config = new Uint8Array(8)
      config[0] = 64
      const { device, disk } = await makeBlk({ queueSize: 8, features: [], config })
      expect([device.status, disk.capacity, disk.blockSize]).toEqual([LIVE, 64, 512])
    })
  })

  it('a driver refuses a device of another type before anything is read of it', async () => {
    const disk = await makeRig(DEVICE_ID_BLOCK)
    expect(() => new NetDriver(disk.session)).toThrow(/type 2, and this driver is for type 1/)
    const net = await makeRig(DEVICE_ID_NET)
    expect(() => new BlkDriver(net.session)).toThrow(expect.objectContaining({ code: 'DRIVER_DEVICE_TYPE' }))
  })

  describe('session/wait', () => {
    it('a deadline by which close could not wait is refused when the session is made', async () => {
      const { session } = await makeNet({ queueSize: 8 })
      const { transport, features, backend, memory, ram } = session
      const wait = { pump: (): void => {}, deadlineMs: Number.NaN }
      expect(() => new DeviceSession({ transport, features, backend, memory, ram, wait })).toThrow(
        expect.objectContaining({ code: 'TRANSPORT_WAIT' }),
      )
    })
  })

  describe('session/lost: a transport whose other end is gone', () => {
    it('close detaches the device, gives all memory back and says why', async () => {
      let detached = 0
      const rig = await makeNet({ queueSize: 8, detach: () => ++detached > 0 })
      rig.device.lost = true
      const error = await rig.net.close().catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK', details: { quarantined: false } })
      expect((error as Error).cause).toBeInstanceOf(TransportLostError)
      expect(detached).toBe(1)
      expect(rig.ram.live).toBe(0)
    })

    it('close keeps its memory out of use where nothing can revoke', async () => {
      const rig = await makeNet({ queueSize: 8 })
      const { live } = rig.ram
      rig.device.lost = true
      await expect(rig.net.close()).rejects.toMatchObject({
        code: 'TRANSPORT_DEVICE_STUCK',
        details: { quarantined: true },
      })
      expect(rig.ram.live).toBe(live)
    })

    it('giveUp tells nobody and does not throw', async () => {
      const { device, session } = await makeNet({ queueSize: 8 })
      device.lost = true
      expect(() => session.giveUp()).not.toThrow()
    })
  })
})
