import { MemoryBlockStore } from '@guestdma/devices'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { createMachine, directScheme, type Machine, sharedPoolScheme, virtioIommuScheme } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { pattern, ranges } from './support/machines.ts'

const DISK = 1 << 20

interface Wanted {
  readonly transport: 'mmio' | 'pci'
  /** Entries that the device has, and that the driver asks for. */
  readonly entries?: number
  readonly asked?: number
  readonly decline?: readonly number[]
  readonly scheme?: typeof directScheme
}

async function withDisk(
  { transport, entries = 128, asked = entries, decline = [], scheme = directScheme }: Wanted,
  body: (machine: Machine) => Promise<void> | void,
): Promise<void> {
  const store = new MemoryBlockStore(new Uint8Array(DISK))
  const offer = [VIRTIO_F_RING_PACKED]
  const machine = await createMachine({
    memory: ranges(),
    transport,
    schemes: [scheme()],
    devices: [
      {
        type: 'blk',
        name: 'disk',
        device: { store, offer, accessPlatform: 'offered', queueSize: entries },
        queueSize: asked,
        decline,
      },
    ],
  })
  const disk = machine.blk('disk')
  const data = pattern(30 * 512, 7)
  await machine.run(disk.writeBytes(3, data))
  expect(await machine.run(disk.readBytes(3, data.length))).toEqual(data)
  await machine.reset('disk')
  expect(await machine.run(machine.blk('disk').readBytes(3, data.length))).toEqual(data)
  await body(machine)
  expect(machine.device('disk').model?.faults.last()).toEqual([])
  await machine.close()
}

describe.each(['mmio', 'pci'] as const)('packed rings over %s', (transport) => {
  it.each([directScheme, sharedPoolScheme, virtioIommuScheme])(
    'are agreed on where they are offered: %o',
    {
      tags: ['6.1/ring-packed'],
    },
    (scheme) =>
      withDisk({ transport, scheme: scheme as typeof directScheme }, (machine) => {
        expect(machine.device('disk').negotiated.features.has(VIRTIO_F_RING_PACKED)).toBe(true)
      }),
  )

  it('are not where the driver declines', () =>
    withDisk({ transport, decline: [VIRTIO_F_RING_PACKED] }, (machine) => {
      expect(machine.device('disk').negotiated.features.has(VIRTIO_F_RING_PACKED)).toBe(false)
    }))

  it.each([3, 5, 100, 128])(
    'have %i entries where so many are asked for',
    { tags: ['4.1.4.3.2/packed-size'] },
    (asked) =>
      withDisk({ transport, asked }, (machine) => {
        expect(machine.device('disk').model?.queues[0].size).toBe(asked)
      }),
  )

  it(
    'hold no list that is longer than the device allows',
    {
      tags: ['2.8.17/device-limit', '2.8.19/device-limit'],
    },
    () =>
      withDisk({ transport, entries: 4, asked: 128 }, (machine) => {
        expect(machine.device('disk').model?.queues[0].size).toBe(4)
      }),
  )
})
