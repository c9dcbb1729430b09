import { MemoryBlockStore } from '@guestdma/devices'
import { VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA } from '@guestdma/spec'
import { describe, expect, it } from 'vitest'
import { machine, pattern } from './support/machines.ts'

describe('what a doorbell says (virtio 1.4 §2.9)', () => {
  it.each([
    ['pci', [VIRTIO_F_NOTIF_CONFIG_DATA]],
    ['pci', [VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA]],
    // There is no register for such data.
    ['mmio', []],
  ] as const)(
    'over %s, where all of it is offered, is agreed on: %j',
    { tags: ['6.1/notif-config-data'] },
    async (transport, agreed) => {
      const optional = [VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA]
      const offer = transport === 'mmio' ? optional.slice(0, 1) : agreed
      const store = new MemoryBlockStore(pattern(64 << 10))
      const one = await machine([{ type: 'blk', name: 'disk0', device: { store, offer } }], { transport })
      const { features } = one.device('disk0').negotiated
      expect(optional.filter((bit) => features.has(bit))).toEqual(agreed)
      expect(await one.run(one.blk('disk0').readBytes(8, 4096))).toEqual(pattern(64 << 10).slice(4096, 8192))
      expect(one.blkModel('disk0').faults.last()).toEqual([])
      await one.close()
    },
  )
})
