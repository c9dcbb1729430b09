// Who listens to a ring may revoke it in the middle of a publication.
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { describe, expect, test } from 'vitest'
import { everything, MmioRegisters, NetDevice } from '../src/index.ts'
import { packet, RecordingLink } from './support/devices.ts'
import { Driver, pattern, Ram } from './support/guest.ts'
import { packedGuest, splitGuest } from './support/ring-guests.ts'

describe.each(['split', 'packed'] as const)('the transmit queue of a network device over a %s ring', (format) => {
  test('is not touched once who listens revoked it within a publication', () => {
    const ram = new Ram()
    const port = everything(ram.memory)
    const link = new RecordingLink()
    let due = 0
    const device = new NetDevice({
      name: 'net0',
      port,
      link,
      offer: [VIRTIO_F_RING_PACKED],
      onWork: () => due++,
    })
    const driver = new Driver(new MmioRegisters(device, {}))
    const [receive, transmit] = [0, 1].map(() => (format === 'packed' ? packedGuest(ram, 8) : splitGuest(ram, 8)))
    const ringEnd = ram.alloc(0, 1)
    const packed = format === 'packed' ? [VIRTIO_F_RING_PACKED] : []
    driver.start([receive.ring, transmit.ring], VIRTIO_F_EVENT_IDX, ...packed)
    const ring = (): Uint8Array => ram.bytes.slice(ram.at(transmit.ring.desc), ram.at(ringEnd))
    const all = port.windows
    let before: Uint8Array | null = null
    ram.hook = () => {
      const [address] = ram.writes.at(-1) as [number, number]
      if (address >= ringEnd || before !== null) return
      // There is more meanwhile.
      transmit.offer([[packet(ram, pattern(80))]])
      const [window] = all
      const skip = ringEnd - window.base
      port.setWindows([{ ...window, base: ringEnd, offset: window.offset + skip, length: window.length - skip }])
      before = ring()
    }
    transmit.offer([[packet(ram, pattern(64))]])
    driver.kick(1)
    device.poll(64)
    expect(before).not.toBeNull()
    expect(ring()).toEqual(before)
    expect([device.live, link.frames.length]).toEqual([false, 1])
    expect(due).toBeGreaterThan(0)
  })
})
