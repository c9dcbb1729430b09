import { DMA_CORRUPT, DMA_OK, DmaMappings, FROM_DEVICE, TO_DEVICE } from '@guestdma/dma'
import { expect, test } from 'vitest'
import { BouncingSlots, SealingBackend, sealingCodec, TestMachine } from '../src/index.ts'
import { small } from './support/small.ts'

const LENGTH = 100
const UNTOUCHED = 0x11
const { open, seal } = sealingCodec()
const payload = Uint8Array.from({ length: LENGTH }, (_, i) => i + 1)

function setup(direction: 1 | 2) {
  const machine = new TestMachine(small)
  const slots = new BouncingSlots(64, 512)
  const backend = new SealingBackend(machine.memory, slots)
  const m = new DmaMappings(1)
  m.guest[0] = machine.arenaBase
  m.length[0] = LENGTH
  m.direction[0] = direction
  const buffer = machine.arena.subarray(0, LENGTH)
  buffer.set(direction === TO_DEVICE ? payload : new Uint8Array(LENGTH).fill(UNTOUCHED))
  expect(backend.map(m, 0)).toBe(DMA_OK)
  const at = m.device[0] - slots.device
  return { backend, m, buffer, onBus: slots.region.u8.subarray(at, at + m.deviceLength[0]) }
}

test('the tag lies behind the payload: deviceLength is length and overhead, and the device opens it', () => {
  const { backend, m, onBus } = setup(TO_DEVICE)
  expect(m.deviceLength[0]).toBe(LENGTH + backend.limits.overhead)
  expect(backend.limits.overhead).toBeGreaterThan(0)
  expect(open(onBus)).toEqual(payload)
})

test.each([
  ['a byte of the payload was changed', (bytes: Uint8Array) => void bytes.fill(0, 50, 51), LENGTH],
  ['a byte of the tag was changed', (bytes: Uint8Array) => void bytes.set([bytes[LENGTH] + 1], LENGTH), LENGTH],
  ['it says that it wrote less than it did', () => {}, LENGTH - 1],
  ['it wrote nothing', (bytes: Uint8Array) => void bytes.fill(0), LENGTH],
])('DMA_CORRUPT, and nothing is delivered, where %s', (_, change, written) => {
  const { backend, m, buffer, onBus } = setup(FROM_DEVICE)
  onBus.set(seal(payload))
  change(onBus)
  expect(backend.unmap(m, 0, written)).toBe(DMA_CORRUPT)
  expect(buffer.every((byte) => byte === UNTOUCHED)).toBe(true)
  expect(backend.counters.corrupt).toBe(1)
  expect(backend.counters.maps - backend.counters.unmaps).toBe(0)
})

test('what the device sealed arrives, also where it wrote less than was lent', () => {
  const { backend, m, buffer, onBus } = setup(FROM_DEVICE)
  onBus.set(seal(payload.subarray(0, 30)))
  expect(backend.unmap(m, 0, 30)).toBe(DMA_OK)
  expect(buffer.subarray(0, 30)).toEqual(payload.subarray(0, 30))
  expect(buffer[30]).toBe(UNTOUCHED)
})
