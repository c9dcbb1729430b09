import { bufferModeOf, countersOf, defineScenario, MEASURED, machineFor, type Variant } from '@guestdma/bench'
import { FrameBatch, LoopbackLink } from 'guestdma'

/** A frame goes out, and comes back as the answer. */
async function prepare(variant: Variant) {
  const device = { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() }
  const config = { type: 'net', name: 'net0', mode: bufferModeOf(variant), device } as const
  const machine = await machineFor(MEASURED, variant, config)
  const net = machine.net('net0')
  const call = Object.assign(new FrameBatch(1), { count: 1 })
  call.length.fill(variant.bytes)
  const round = () => {
    const answers = net.counters.framesReceived
    call.buffer[0] = net.acquire()
    net.send(call)
    while (net.counters.framesReceived === answers) machine.pump()
    return 1
  }
  return { round, counters: () => countersOf(machine, 'net0'), close: () => machine.close() }
}

const calls = { driver: 'net', operation: 'call', modes: ['map', 'pool'], bytes: [64], prepare }
export const scenarios = [defineScenario(calls)]
export const backends = ['direct', 'shared-pool', 'on-device', 'virtio-iommu']
