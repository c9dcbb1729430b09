import { bouncingScheme, checked, exactScheme, withBackend } from '@guestdma/conformance'
import { type DmaScheme, directScheme } from '@guestdma/dma'
import { createMachine, FrameBatch, sharedPoolScheme } from 'guestdma'

const RAM = 16 << 20
const ROUNDS = 3000

/**
 * Sends frames over five classes of backends, so that no call site is left with one: what careless code allocates then
 * shows, as it would in a program that uses several schemes.
 */
export async function loadCrowd(base: number): Promise<void> {
  for (const scheme of [directScheme(), sharedPoolScheme(), exactScheme(), bouncing(), checkedDirect()]) {
    await using machine = await createMachine({
      memory: [{ base, length: RAM, memory: new ArrayBuffer(RAM) }],
      schemes: [scheme],
      devices: [
        { type: 'net', name: 'net0', device: { mac: [2, 0, 0, 0, 0, 1], link: { transmit: ({ count }) => count } } },
      ],
    })
    const net = machine.net('net0')
    const batch = new FrameBatch(8)
    batch.count = 8
    batch.length.fill(64)
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; i < batch.count; i++) batch.buffer[i] = net.acquire()
      const sent = net.send(batch)
      for (let i = sent; i < batch.count; i++) net.release(batch.buffer[i])
      machine.pump()
    }
    if (net.counters.framesSent === 0) throw new Error(`no frame went over '${scheme.id}'`)
  }
}

// Room for whole frames.
function bouncing(): DmaScheme {
  return bouncingScheme({ slots: 2048, slotBytes: 2048 })
}

function checkedDirect(): DmaScheme {
  return withBackend(directScheme(), (backend) => checked(backend))
}
