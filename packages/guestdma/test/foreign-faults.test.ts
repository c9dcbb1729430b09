// What a foreign driver does wrong with a pool or a region of its device (docs/rfc-findings.md), and these do not.
import type { BusWindows } from '@guestdma/devices'
import { GuestMemory, guestAddress } from '@guestdma/memory'
import { type Machine, SCHEMES } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { BASE, HeldStore, MAC, machine, outcome, pattern, RecordingLink, ranges, settled } from './support/machines.ts'

const SECRET = 'what a page held when its last owner freed it\n'
const RAM = 8 << 20
const LENGTH = 16 << 10

/** Guest RAM that is nothing but recycled pages. */
function recycled(): GuestMemory {
  const memory = new GuestMemory(ranges(RAM))
  memory.write(guestAddress(BASE), new Uint8Array(Buffer.alloc(RAM, SECRET)))
  return memory
}

/** Copies of the secret within a device's reach. */
function found(made: Machine, device: string): number {
  const { windows } = made.device(device).port as BusWindows
  return windows.filter(({ region, offset, length }) => Buffer.from(region.u8.buffer, offset, length).includes(SECRET))
    .length
}

describe.each(['shared-pool', 'on-device'])('over %s, whose buffers are bounced', (scheme) => {
  const site = (
    memory: GuestMemory,
    poolBytes: number,
    store: HeldStore,
    link = new RecordingLink(),
  ): Promise<Machine> =>
    machine(
      [
        { type: 'blk', name: 'disk0', mode: 'map', device: { store } },
        { type: 'net', name: 'net0', mode: 'map', queueSize: 256, device: { mac: MAC, link } },
      ],
      { memory, schemes: [SCHEMES[scheme]({ poolBytes })], transport: 'pci' },
    )

  it('what a buffer held before it was lent to be filled does not reach the device', async () => {
    const store = new HeldStore(pattern(LENGTH))
    const made = await site(recycled(), 1 << 20, store)
    const at = made.ram.allocate(LENGTH, 512)
    made.memory.write(at, new Uint8Array(Buffer.alloc(LENGTH, SECRET)))
    const read = made.blk('disk0').read(0, at, LENGTH)
    made.pump()
    await settled()
    made.pump()
    // The read's buffer is lent now, and so are receive buffers.
    expect(store.held).toHaveLength(1)
    expect(made.counters().devices.net0.backend.maps).toBeGreaterThan(32)
    expect([found(made, 'disk0'), found(made, 'net0')]).toEqual([0, 0])
    store.release()
    await made.run(read)
    expect(made.memory.read(at, LENGTH)).toEqual(pattern(LENGTH))
    await made.close()
  })

  it('a request that is larger than the pool goes in pieces that fit, and not round for ever', async () => {
    const store = new HeldStore(pattern(1 << 20))
    const made = await site(new GuestMemory(ranges(RAM)), 256 << 10, store)
    made.pump()
    const at = made.ram.allocate(1 << 20, 512)
    const state = outcome(made.blk('disk0').read(0, at, 1 << 20))
    let longest = 0
    for (let turn = 0; turn < 100 && state() === 'pending'; turn++) {
      made.pump()
      for (; store.held.length > 0; store.release()) longest = Math.max(longest, store.held[0].data.length)
      await settled()
    }
    expect(state()).toBe('ok')
    expect(made.memory.read(at, 1 << 20)).toEqual(pattern(1 << 20))
    expect(longest).toBeLessThan(256 << 10)
    await made.close()
  })

  it('a full receive ring leaves room for each frame that is sent', async () => {
    const link = new RecordingLink()
    const made = await site(new GuestMemory(ranges(RAM)), 512 << 10, new HeldStore(pattern(4096)), link)
    made.pump()
    for (let i = 1; i <= 300; i++) {
      expect(made.net('net0').sendCopy(pattern(1514, i))).toBe(true)
      made.pump()
      expect(link.frames).toHaveLength(i)
    }
    expect(link.frames[299]).toEqual(pattern(1514, 300))
    await made.close()
  })
})
