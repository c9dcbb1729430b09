import { type GuestAddress, GuestDmaError } from '@guestdma/memory'
import { NET_TRANSMIT_QUEUE } from '@guestdma/spec'
import { createMachine, FrameBatch, MachineEvents } from 'guestdma'
import { type LentBuffer, RogueDevice } from './rogue-device.ts'
import { type DemoScheme, type TransportName, transportOf } from './schemes.ts'

/** What a device got that read some bytes: `old frame` is what it was sent before. */
type ReadOutcome = 'secret read' | 'zeros' | 'old frame' | 'other bytes' | 'fault'

/** One attempt: what came of it, and the faults that its port recorded. */
export interface Attempt<T extends string = ReadOutcome> {
  readonly outcome: T
  readonly faults: number
}

/** What a device that reaches further got under one scheme. Plain data: it goes into the JSON file as it is. */
export interface Exposure {
  readonly scheme: string
  readonly transport: TransportName
  /** The frame's buffer as the device found it in the ring. */
  readonly buffer: LentBuffer
  /** Reading a secret directly behind the buffer, in the same page. */
  readonly neighbour: Attempt
  /** Reading a secret in another page, by its guest address. */
  readonly elsewhere: Attempt
  /** Bytes that can be read without a gap before and behind the buffer, and secrets among them. */
  readonly around: { readonly before: number; readonly behind: number; readonly secrets: number }
  /** Writing into the buffer, which was lent to be read. `lands`: the guest's own memory changed. */
  readonly write: Attempt<'lands' | 'copy only' | 'fault'>
  /** Reading the buffer's address, when the driver was told that the frame is sent and a secret lies there. */
  readonly completed: Attempt
  /** The same once more, {@link LATER_MS} later. */
  readonly later: Attempt
  /** All faults of the device's port. */
  readonly faults: number
  /** Those that an IOMMU told the guest of. */
  readonly reported: number
}

/** Twice as long as removals that are deferred may take. */
export const LATER_MS = 20

const SECRET = new TextEncoder().encode('correct horse battery staple')
const MARK = Uint8Array.of(0xba, 0xdb, 0xad, 0xba)
const MEMORY = 8 << 20
const PAGE = 4096
// In the middle of its page, so that there is something of the page on either side.
const FRAME_AT = 1024
const FRAME_BYTES = 256

/**
 * Sends one frame over a scheme, to a device that reaches for secrets before it takes the frame and after the driver
 * was told that the frame is gone.
 */
export async function expose(id: string, scheme: DemoScheme, asked: TransportName): Promise<Exposure> {
  const transport = transportOf(scheme, asked)
  const events = new MachineEvents()
  let faults = 0
  let reported = 0
  events.on('fault', () => faults++)
  events.on('iommuFault', () => reported++)
  let onSent = (): void => {}
  await using machine = await createMachine({
    memory: [{ base: 0x8000_0000, length: MEMORY, memory: new ArrayBuffer(MEMORY) }],
    schemes: [scheme.make()],
    transport,
    events,
    devices: [
      {
        type: 'net',
        name: 'net0',
        ...(scheme.listed ? { dma: id } : {}),
        device: { mac: [2, 0, 0, 0, 0, 1], link: { transmit: ({ count }) => count } },
        observer: { sent: () => onSent() },
      },
    ],
  })
  const { memory, ram } = machine
  const page = ram.allocate(PAGE, PAGE)
  const other = ram.allocate(PAGE, PAGE)
  const frameAt = (page + FRAME_AT) as GuestAddress
  const frame = new Uint8Array(FRAME_BYTES).map((_, i) => i + 1)
  memory.write(frameAt, frame)
  memory.write((frameAt + FRAME_BYTES) as GuestAddress, SECRET)
  memory.write(other, SECRET)

  const rogue = new RogueDevice(machine.device('net0').model)
  const counting = <T extends string>(attempt: () => T): Attempt<T> => {
    const before = faults
    const outcome = attempt()
    return { outcome, faults: faults - before }
  }
  const reading = (address: number): Attempt =>
    counting(() => judge(rogue.read(address, SECRET.length), frame.subarray(0, SECRET.length)))

  // Receive buffers are lent from the first turn on.
  machine.pump()
  const batch = new FrameBatch(1)
  batch.address[0] = frameAt
  batch.length[0] = FRAME_BYTES
  batch.count = 1
  machine.net('net0').send(batch)
  // Lent from here on: the device has not had its turn yet.
  const buffer = rogue.newestBuffer(NET_TRANSMIT_QUEUE)
  const neighbour = reading(buffer.address + buffer.length)
  const elsewhere = reading(other)
  const { before, behind } = rogue.around(buffer)
  const write = counting(() => {
    const at = FRAME_BYTES - MARK.length
    if (!rogue.write(buffer.address + at, MARK)) return 'fault'
    return equal(memory.read((frameAt + at) as GuestAddress, MARK.length), MARK) ? 'lands' : 'copy only'
  })

  let completed: Attempt | undefined
  onSent = () => {
    // The guest's memory is its own again, and it keeps something else there.
    memory.write(frameAt, SECRET)
    completed = reading(buffer.address)
  }
  machine.pump()
  if (completed === undefined) throw new GuestDmaError('DEMO_STALLED', id, 'the frame was never sent')
  await new Promise((resolve) => setTimeout(resolve, LATER_MS))
  machine.pump()
  const later = reading(buffer.address)
  // For the IOMMU to tell of the last faults.
  machine.pump()
  return {
    scheme: id,
    transport,
    buffer,
    neighbour,
    elsewhere,
    around: { before: before.length, behind: behind.length, secrets: count(before) + count(behind) },
    write,
    completed,
    later,
    faults,
    reported,
  }
}

function judge(bytes: Uint8Array | null, sent: Uint8Array): ReadOutcome {
  if (bytes === null) return 'fault'
  if (equal(bytes, SECRET)) return 'secret read'
  if (bytes.every((byte) => byte === 0)) return 'zeros'
  return equal(bytes, sent) ? 'old frame' : 'other bytes'
}

// How often the secret occurs.
function count(bytes: Uint8Array): number {
  const haystack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  let found = 0
  for (let at = haystack.indexOf(SECRET); at >= 0; at = haystack.indexOf(SECRET, at + 1)) found++
  return found
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}
