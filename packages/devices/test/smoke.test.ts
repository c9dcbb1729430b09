import { NET_HEADER_SIZE } from '@guestdma/spec'
import { expect, test } from 'vitest'
import { LoopbackLink } from '../src/index.ts'
import { blkMachine, header, netMachine, packet, status } from './support/devices.ts'
import { pattern } from './support/guest.ts'

test('net loopback', () => {
  const m = netMachine({ link: new LoopbackLink() })
  m.driver.start([m.rx, m.tx])
  const into = m.ram.alloc(1526)
  m.rx.offer(m.rx.chain({ address: into, length: 1526, w: true }))
  const frame = pattern(64)
  m.tx.offer(m.tx.chain(packet(m.ram, frame)))
  m.driver.kick(1)
  expect(m.device.poll(64)).toBe(1)
  expect(m.tx.reap()).toEqual([{ id: 0, length: 0 }])
  expect(m.rx.reap()).toEqual([{ id: 0, length: 76 }])
  expect(m.ram.get(into + NET_HEADER_SIZE, 64)).toEqual(frame)
  expect(m.line.asserted).toBe(true)
})

test('blk', () => {
  const m = blkMachine()
  m.driver.start([m.ring])
  const data = pattern(1024)
  m.ring.offer(m.ring.chain(header(m.ram, 1, 3), { address: m.ram.put(data), length: 1024 }, status(m.ram)))
  m.driver.kick(0)
  m.device.poll(64)
  expect(m.device.faults.last()).toEqual([])
  expect(m.ring.reap()).toEqual([{ id: 0, length: 1 }])
  expect(m.disk.slice(3 * 512, 5 * 512)).toEqual(data)
})
