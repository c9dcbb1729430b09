// The guest: it brings two virtio devices up and uses them, with nothing but loads and stores. It follows virtio 1.4
// step by step; the section numbers stand beside the steps. None of guestdma's drivers is involved.
import {
  BLK_REQUEST_HEADER_SIZE,
  BLK_T_FLUSH,
  BLK_T_IN,
  BLK_T_OUT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_SIZE,
  DEVICE_ID_BLOCK,
  DEVICE_ID_NET,
  MMIO_CONFIG,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DEVICE_ID,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_INTERRUPT_ACK,
  MMIO_INTERRUPT_STATUS,
  MMIO_MAGIC,
  MMIO_MAGIC_VALUE,
  MMIO_MODERN_VERSION,
  MMIO_QUEUE_DESC_LOW,
  MMIO_QUEUE_DEVICE_LOW,
  MMIO_QUEUE_DRIVER_LOW,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE,
  MMIO_STATUS,
  MMIO_VERSION,
  NET_HEADER_SIZE,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FEATURES_OK,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_NET_F_MAC,
} from '@guestdma/spec'
import { Assembler } from './assembler.ts'
import {
  AVAILABLE,
  BLK,
  BLK_HEADER,
  BLK_QUEUE,
  BLK_STATUS,
  CONSOLE,
  NET,
  QUEUE_SIZE,
  RAM,
  RECEIVE_BUFFER,
  RECEIVE_QUEUE,
  SECTOR_IN,
  SECTOR_OUT,
  TRANSMIT_BUFFER,
  TRANSMIT_QUEUE,
  USED,
} from './memory-map.ts'

export const FRAME_BYTES = 64
/** "DISK", the first word of sector 0. */
const SIGNATURE = 0x4b53_4944
export const WRITTEN_SECTOR = 7

const VERSION_1_WORD = 1
const OK = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK

/** Assembles the firmware for address RAM. */
export function assembleFirmware(): Uint8Array<ArrayBuffer> {
  const asm = new Assembler(RAM)
  const say = (text: string): void => {
    asm.op('li', 1, 0, asm.text(text))
    asm.op('call', 0, 0, 'say')
  }

  say('disk: look at the registers')
  // FLUSH, or the disk would have to make every write stable by itself (§5.2.6.2).
  bringUp(asm, BLK, DEVICE_ID_BLOCK, 1 << VIRTIO_BLK_F_FLUSH, [BLK_QUEUE])
  asm.get(32, 2, BLK + MMIO_CONFIG)
  asm.op('li', 14, 0, CONSOLE)
  asm.op('sw', 2, 14, 4)
  say('disk: up, with # sectors')

  say('disk: read sector 0')
  request(asm, 0, BLK_T_IN, 0, SECTOR_IN)
  asm.get(32, 2, SECTOR_IN)
  asm.expect(2, SIGNATURE, 'sector 0 does not begin with its signature')

  say(`disk: write sector ${WRITTEN_SECTOR}, then flush`)
  fill(asm, SECTOR_OUT, 512, 0x1000)
  request(asm, 1, BLK_T_OUT, WRITTEN_SECTOR, SECTOR_OUT)
  request(asm, 2, BLK_T_FLUSH, 0, null)

  say(`disk: read sector ${WRITTEN_SECTOR} back and compare`)
  request(asm, 3, BLK_T_IN, WRITTEN_SECTOR, SECTOR_IN)
  compare(asm, SECTOR_IN, SECTOR_OUT, 512)

  say('net: look at the registers')
  bringUp(asm, NET, DEVICE_ID_NET, 1 << VIRTIO_NET_F_MAC, [RECEIVE_QUEUE, TRANSMIT_QUEUE])
  asm.get(8, 2, NET + MMIO_CONFIG + 5)
  asm.op('li', 14, 0, CONSOLE)
  asm.op('sw', 2, 14, 4)
  say('net: up; its address ends in #')

  say('net: offer a receive buffer, send a frame into the loopback')
  // A receive buffer: header and frame in one writable element (§5.1.9.3).
  describe(asm, RECEIVE_QUEUE, 0, RECEIVE_BUFFER, 1526, DESCRIPTOR_F_WRITE, 0)
  offer(asm, NET, 0, RECEIVE_QUEUE, 0, 0)
  // A transmit buffer: 12 bytes of zeros, then the frame (§5.1.9.2).
  fill(asm, TRANSMIT_BUFFER + NET_HEADER_SIZE, FRAME_BYTES, 0xc0de_0000)
  describe(asm, TRANSMIT_QUEUE, 0, TRANSMIT_BUFFER, NET_HEADER_SIZE, DESCRIPTOR_F_NEXT, 1)
  describe(asm, TRANSMIT_QUEUE, 1, TRANSMIT_BUFFER + NET_HEADER_SIZE, FRAME_BYTES, 0, 0)
  offer(asm, NET, 1, TRANSMIT_QUEUE, 0, 0)
  waitFor(asm, NET, TRANSMIT_QUEUE, 1)
  say('net: the frame was sent')
  waitFor(asm, NET, RECEIVE_QUEUE, 1)
  asm.get(32, 2, RECEIVE_QUEUE + USED + 8)
  asm.expect(2, NET_HEADER_SIZE + FRAME_BYTES, 'the used length is not that of header and frame')
  asm.get(16, 2, RECEIVE_BUFFER + 10)
  asm.expect(2, 1, 'num_buffers is not 1')
  compare(asm, RECEIVE_BUFFER + NET_HEADER_SIZE, TRANSMIT_BUFFER + NET_HEADER_SIZE, FRAME_BYTES)
  say('net: the frame came back as it was sent')
  say('done')
  asm.op('halt', 0, 0, 0)

  subroutines(asm)
  return asm.bytes()
}

/**
 * Initialisation: virtio 1.4 §3.1.1 and §4.2.3.1. `features` are the bits from 0 to 31 that the firmware needs; it
 * accepts no others.
 */
function bringUp(asm: Assembler, base: number, deviceId: number, features: number, queues: readonly number[]): void {
  asm.get(32, 2, base + MMIO_MAGIC_VALUE)
  asm.expect(2, MMIO_MAGIC, 'no virtio device here')
  asm.get(32, 2, base + MMIO_VERSION)
  asm.expect(2, MMIO_MODERN_VERSION, 'a legacy device')
  asm.get(32, 2, base + MMIO_DEVICE_ID)
  asm.expect(2, deviceId, 'another type of device')

  asm.put(32, base + MMIO_STATUS, 0)
  asm.put(32, base + MMIO_STATUS, STATUS_ACKNOWLEDGE)
  asm.put(32, base + MMIO_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER)

  for (const [word, needed] of [
    [0, features],
    [1, VERSION_1_WORD],
  ] as const) {
    asm.put(32, base + MMIO_DEVICE_FEATURES_SEL, word)
    asm.get(32, 2, base + MMIO_DEVICE_FEATURES)
    asm.op('li', 3, 0, needed)
    asm.op('and', 2, 2, 0, 3)
    asm.expect(2, needed, 'the device does not offer what the firmware needs')
    asm.put(32, base + MMIO_DRIVER_FEATURES_SEL, word)
    asm.put(32, base + MMIO_DRIVER_FEATURES, needed)
  }
  asm.put(32, base + MMIO_STATUS, OK)
  asm.get(32, 2, base + MMIO_STATUS)
  asm.expect(2, OK, 'the device refused the features')

  queues.forEach((queue, index) => {
    asm.put(32, base + MMIO_QUEUE_SEL, index)
    asm.put(32, base + MMIO_QUEUE_SIZE, QUEUE_SIZE)
    // RAM is fresh, so the rings and the upper address halves are zero.
    asm.put(32, base + MMIO_QUEUE_DESC_LOW, queue)
    asm.put(32, base + MMIO_QUEUE_DRIVER_LOW, queue + AVAILABLE)
    asm.put(32, base + MMIO_QUEUE_DEVICE_LOW, queue + USED)
    asm.put(32, base + MMIO_QUEUE_READY, 1)
  })
  asm.put(32, base + MMIO_STATUS, OK | STATUS_DRIVER_OK)
}

/** Writes one descriptor: §2.7.5. */
function describe(
  asm: Assembler,
  queue: number,
  index: number,
  address: number,
  length: number,
  flags: number,
  next: number,
): void {
  const at = queue + DESCRIPTOR_SIZE * index
  asm.put(32, at, address)
  asm.put(32, at + 8, length)
  asm.put(16, at + 12, flags)
  asm.put(16, at + 14, next)
}

/** Makes the chain at `head` available as the `count`-th one of its queue, counted from 0, and notifies: §2.7.13. */
function offer(asm: Assembler, base: number, queue: number, ring: number, count: number, head: number): void {
  asm.put(16, ring + AVAILABLE + 4 + 2 * (count % QUEUE_SIZE), head)
  asm.put(16, ring + AVAILABLE + 2, count + 1)
  asm.put(32, base + MMIO_QUEUE_NOTIFY, queue)
}

/** Sleeps until the used index is `count`: §2.7.14. */
function waitFor(asm: Assembler, base: number, ring: number, count: number): void {
  asm.op('li', 1, 0, ring + USED)
  asm.op('li', 2, 0, count)
  asm.op('li', 3, 0, base)
  asm.op('call', 0, 0, 'wait')
}

/** The `count`-th block request: header, data unless there is none, status (§5.2.6). Ends when the device says OK. */
function request(asm: Assembler, count: number, type: number, sector: number, data: number | null): void {
  asm.put(32, BLK_HEADER, type)
  asm.put(32, BLK_HEADER + 8, sector)
  asm.put(8, BLK_STATUS, 0xff)
  describe(asm, BLK_QUEUE, 0, BLK_HEADER, BLK_REQUEST_HEADER_SIZE, DESCRIPTOR_F_NEXT, data === null ? 2 : 1)
  if (data !== null) {
    describe(asm, BLK_QUEUE, 1, data, 512, DESCRIPTOR_F_NEXT | (type === BLK_T_IN ? DESCRIPTOR_F_WRITE : 0), 2)
  }
  describe(asm, BLK_QUEUE, 2, BLK_STATUS, 1, DESCRIPTOR_F_WRITE, 0)
  offer(asm, BLK, 0, BLK_QUEUE, count, 0)
  waitFor(asm, BLK, BLK_QUEUE, count + 1)
  asm.get(8, 2, BLK_STATUS)
  asm.expect(2, 0, 'the disk answered with an error')
}

/** Fills memory with words that count up from `first`. */
function fill(asm: Assembler, address: number, bytes: number, first: number): void {
  asm.op('li', 1, 0, address)
  asm.op('li', 2, 0, address + bytes)
  asm.op('li', 3, 0, first)
  asm.op('call', 0, 0, 'fill')
}

/** Panics unless two buffers hold the same. */
function compare(asm: Assembler, left: number, right: number, bytes: number): void {
  asm.op('li', 1, 0, left)
  asm.op('li', 2, 0, right)
  asm.op('li', 3, 0, left + bytes)
  asm.op('call', 0, 0, 'compare')
}

function subroutines(asm: Assembler): void {
  // r1: a string.
  asm.label('say')
  asm.op('li', 14, 0, CONSOLE)
  asm.op('sw', 1, 14, 0)
  asm.op('ret')

  asm.label('panic')
  asm.op('call', 0, 0, 'say')
  asm.op('halt', 0, 0, 1)

  // r1: used ring, r2: the index to wait for, r3: the device's registers. Sleeps, acknowledges, looks again.
  asm.label('wait')
  asm.op('lh', 4, 1, 2)
  asm.op('beq', 4, 2, 'waited')
  asm.op('wfi')
  asm.op('lw', 5, 3, MMIO_INTERRUPT_STATUS)
  asm.op('sw', 5, 3, MMIO_INTERRUPT_ACK)
  asm.op('jmp', 0, 0, 'wait')
  asm.label('waited')
  asm.op('ret')

  // r1: from, r2: to, r3: first word.
  asm.label('fill')
  asm.op('sw', 3, 1, 0)
  asm.op('add', 1, 1, 4)
  asm.op('add', 3, 3, 1)
  asm.op('bne', 1, 2, 'fill')
  asm.op('ret')

  // r1 up to r3 against r2.
  asm.label('compare')
  asm.op('lw', 4, 1, 0)
  asm.op('lw', 5, 2, 0)
  asm.op('bne', 4, 5, 'differs')
  asm.op('add', 1, 1, 4)
  asm.op('add', 2, 2, 4)
  asm.op('bne', 1, 3, 'compare')
  asm.op('ret')
  asm.label('differs')
  asm.op('li', 1, 0, asm.text('two buffers differ'))
  asm.op('jmp', 0, 0, 'panic')
}
