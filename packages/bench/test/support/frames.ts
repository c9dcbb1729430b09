import { defineScenario } from '@guestdma/bench'
import { createMachine, FrameBatch, SCHEMES } from 'guestdma'

const RAM = 16 << 20

/** Frames of which only the first buffer is filled: an operation that no other program has. */
const burst = defineScenario({
  driver: 'net',
  operation: 'burst',
  modes: ['pool'],
  bytes: [64],
  batches: [8],
  cold: [],
  async prepare({ backend, base, bytes, batch: size }) {
    const machine = await createMachine({
      memory: [{ base, length: RAM, memory: new ArrayBuffer(RAM) }],
      schemes: [SCHEMES[backend]()],
      devices: [
        {
          type: 'net',
          name: 'net0',
          dma: backend,
          device: { mac: [2, 0, 0, 0, 0, 1], link: { transmit: ({ count }) => count } },
        },
      ],
    })
    const net = machine.net('net0')
    const batch = new FrameBatch(size)
    batch.count = size
    batch.length.fill(bytes)
    return {
      round() {
        for (let i = 0; i < size; i++) batch.buffer[i] = net.acquire()
        const sent = net.send(batch)
        machine.pump()
        return sent
      },
      counters: () => ({ framesSent: net.counters.framesSent }),
      close: () => machine.close(),
    }
  },
})

export const scenarios = [burst]
export const backends = ['direct', 'shared-pool']
