import { RequestBatch } from '@guestdma/drivers'
import { createMachine, directScheme, MemoryBlockStore, sharedPoolScheme } from 'guestdma'

const [kind = 'write', sch = 'direct', ring = 'split'] = process.argv.slice(2)
const scheme = sch === 'pool' ? sharedPoolScheme() : directScheme()
const store = new MemoryBlockStore(new Uint8Array(4 << 20))
const machine = await createMachine({
  memory: [{ base: 0x40000000, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
  schemes: [scheme],
  devices: [
    {
      type: 'blk',
      name: 'd',
      queueSize: 128,
      device: { store, queueSize: 128, ...(ring === 'packed' ? { offer: [34] } : {}) },
      dma: scheme.id,
    },
  ],
})
const { queue } = machine.blk('d')
const { model: device } = machine.device('d')
const B = 32
const batch = new RequestBatch(B)
batch.count = B
batch.type.fill(kind === 'read' ? 0 : 1)
batch.length.fill(512)
const base = machine.ram.allocate(32 * 512, 4096)
let sector = 0
function round() {
  for (let i = 0; i < B; i++) {
    batch.sector[i] = sector
    sector = (sector + 1) & 8191
    batch.address[i] = base + i * 512
  }
  const t = queue.submit(batch)
  device.poll(64)
  const d = queue.poll(64)
  if (t !== B || d !== B) throw new Error(t + ' ' + d)
}
for (let i = 0; i < 5000; i++) round()
let best = 1e9
for (let r = 0; r < (process.env.PROF ? 100 : 300); r++) {
  const t = performance.now()
  for (let i = 0; i < 100; i++) round()
  best = Math.min(best, ((performance.now() - t) * 1e6) / (100 * B))
}
console.log(process.argv.slice(2).join(' '), best.toFixed(1))
await machine.close()
