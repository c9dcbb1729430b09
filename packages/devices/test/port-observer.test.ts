// A port tells its observer of each access that it refuses, in the middle of a batch, and that may reset the device.
import { expect, test } from 'vitest'
import { everything, Frames } from '../src/index.ts'
import { type AnyNetMachine, netMachineOver, packet, RecordingLink } from './support/devices.ts'
import { pattern, Ram } from './support/guest.ts'

const OUT_OF_REACH = 16

function machine(link: RecordingLink): { ram: Ram; m: AnyNetMachine } {
  const ram = new Ram()
  // Frames are delivered in batches where nobody listens.
  ram.memory.regions[0].onDeviceWrite = null
  const port = everything(ram.memory)
  const m = netMachineOver('mmio', { link, port }, 8, ram)
  m.driver.start([m.rx, m.tx])
  port.faults.observer = () => {
    m.driver.status = 0
  }
  return { ram, m }
}

test('frames of a batch are not sent once the device was reset for a later one', () => {
  const link = new RecordingLink()
  const { ram, m } = machine(link)
  m.tx.offer(m.tx.chain(packet(ram, pattern(64))), m.tx.chain({ address: OUT_OF_REACH, length: 80 }))
  m.driver.kick(1)
  m.device.poll(64)
  expect([m.driver.status, link.frames.length]).toEqual([0, 0])
})

test('frames of a batch are not delivered once the device was reset for a later one', () => {
  const { ram, m } = machine(new RecordingLink())
  const address = ram.put(new Uint8Array(1526).fill(0x55))
  m.rx.offer(
    m.rx.chain({ address, length: 1526, w: true }),
    m.rx.chain({ address: OUT_OF_REACH, length: 1526, w: true }),
  )
  expect(m.device.receiveEach(Frames.of(pattern(64), pattern(64)), 0, 2)).toBe(0)
  expect([m.driver.status, ram.get(address, 1526).every((byte) => byte === 0x55)]).toEqual([0, true])
})
