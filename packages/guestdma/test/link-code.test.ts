import { eachFrame, type Frames } from '@guestdma/devices'
import { DMA_FAILED, type DmaBackend, directScheme } from '@guestdma/dma'
import { FrameBatch } from '@guestdma/drivers'
import { VIRTIO_F_EVENT_IDX } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { createMachine, type Machine } from '../src/index.ts'
import { TRANSPORTS } from './support/machines.ts'

const MAC = [2, 0, 0, 0, 0, 1]
const ranges = () => [{ base: 0x8000_0000, length: 8 << 20, memory: new ArrayBuffer(8 << 20) }]

describe.each(TRANSPORTS)('over %s', (transport) => {
  describe('what a link calls while it is handed a frame', () => {
    test.each([[[]], [[VIRTIO_F_EVENT_IDX]]])(
      'may send: the doorbell is not lost (ring/notification), without features %j',
      async (withhold) => {
        const seen: number[] = []
        let machine: Machine | undefined
        const link = {
          transmit: eachFrame((frame) => {
            seen.push(frame[0])
            if (seen.length === 1) machine?.net('net0').sendCopy(new Uint8Array(60).fill(2))
          }),
        }
        machine = await createMachine({
          transport,
          memory: ranges(),
          schemes: [directScheme()],
          devices: [{ type: 'net', name: 'net0', device: { mac: MAC, link, withhold } }],
        })
        machine.net('net0').sendCopy(new Uint8Array(60).fill(1))
        machine.pump()
        expect(seen).toEqual([1, 2])
        await machine.close()
      },
    )

    test('may stop the device: nothing more is sent (init/status)', async () => {
      let batches = 0
      let machine: Machine | undefined
      const link = {
        transmit({ count }: Frames): number {
          batches++
          machine?.netModel('net0').needsReset('stopped by its link')
          return count
        },
      }
      machine = await createMachine({
        transport,
        memory: ranges(),
        schemes: [directScheme()],
        devices: [{ type: 'net', name: 'net0', device: { mac: MAC, link } }],
      })
      const net = machine.net('net0')
      const batch = new FrameBatch(40)
      batch.count = 40
      batch.length.fill(60)
      for (let i = 0; i < 40; i++) batch.buffer[i] = net.acquire()
      expect(net.send(batch)).toBe(40)
      machine.pump()
      expect(batches).toBe(1)
      expect(net.broken?.code).toBe('DRIVER_DEVICE_BROKEN')
      await machine.close()
    })
  })

  test('a commit that fails takes the batch back: its buffers are the caller’s, once (reset/revokes)', async () => {
    let failing = false
    const direct = directScheme()
    const scheme = {
      ...direct,
      provider: {
        ...direct.provider,
        create: async (...args: Parameters<typeof direct.provider.create>): Promise<DmaBackend> => {
          const backend = await direct.provider.create(...args)
          return Object.create(backend, { commitMaps: { value: () => (failing ? DMA_FAILED : backend.commitMaps()) } })
        },
      },
    }
    let frames = 0
    const link = { transmit: eachFrame(() => frames++) }
    const machine = await createMachine({
      transport,
      memory: ranges(),
      schemes: [scheme],
      devices: [{ type: 'net', name: 'net0', device: { mac: MAC, link } }],
    })
    const net = machine.net('net0')
    machine.pump()
    const batch = new FrameBatch(1)
    batch.count = 1
    batch.length[0] = 60
    const buffer = net.acquire()
    batch.buffer[0] = buffer
    failing = true
    expect(net.send(batch)).toBe(0)
    failing = false
    // A frame of the caller's own takes the same id; completing it must not release the buffer above.
    const own = new FrameBatch(1)
    own.count = 1
    own.headed = true
    own.length[0] = 60
    own.address[0] = machine.ram.allocate(128, 64) + 16
    expect(net.send(own)).toBe(1)
    machine.pump()
    expect(frames).toBe(1)
    expect(net.acquire()).not.toBe(buffer)
    expect(net.send(batch)).toBe(1)
    machine.pump()
    expect(frames).toBe(2)
    await machine.close()
  })
})
