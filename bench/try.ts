import { createMachine, FrameBatch, virtioIommuScheme } from 'guestdma'
const s = virtioIommuScheme({mode:'lazy'})
const m = await createMachine({ memory: [{ base: 0x1_0000_0000, length: 64<<20, memory: new ArrayBuffer(64<<20) }], schemes: [s], devices: [{ type:'net', name:'net0', dma: s.id, device: { mac: [2,0,0,0,0,1], link: {transmit(){}} } }] })
m.events.on('iommuFault', f => console.log('fault', f))
m.events.on('fault', f => console.log('fault', f))
m.events.on('needsReset', f => console.log('reset', f))
const net = m.net('net0'), device = m.slot('net0').device
const frames = new FrameBatch(32); frames.count=32
const base = m.ram.allocate(32*2048, 64)
for (let i=0;i<32;i++) { frames.address[i] = base+i*2048+16; frames.length[i]=64 }
frames.headed = true
for (let r=0;r<20;r++) {
  const sent = net.send(frames); device.poll(64); net.poll(64)
  const b: any = m.counters().devices.net0.backend
  const io = (m as any).common.own[0]; const drv = [...(m as any).common.values.values()][0].driver; console.log(io.counters, drv.counters, drv.requests.free, drv.requests.outstanding, drv.requests.broken, drv.domains[0].broken)
  console.log(r, sent, b.mapRequests, b.unmapRequests, b.synchronousCommits, b.exhausted, b.staleHighWater, [...io.faults.last()].slice(-1), m.slot('net0').driver.session.queues.map((q: any) => [q.name,q.broken?.message, q.free]))
  if (sent===0) break
}
