import type { VirtioDevice } from '@guestdma/devices'
import { ACCESS_READ, ACCESS_WRITE, type BusPort, GuestDmaError, hex } from '@guestdma/memory'
import {
  AVAILABLE_INDEX,
  AVAILABLE_RING,
  availableRingBytes,
  DESCRIPTOR_ADDRESS,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  DESCRIPTOR_FLAGS,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_NEXT,
  DESCRIPTOR_SIZE,
  descriptorTableBytes,
} from '@guestdma/spec'

/** A buffer as its device knows it. */
export interface LentBuffer {
  readonly address: number
  readonly length: number
}

// The first try beyond a buffer's end. All of the demo's memory is reached in a few such steps.
const LARGEST_STEP = 1 << 22

/**
 * A device that does not keep to what it was lent. All it has is what any device has: the addresses that its driver
 * wrote into queue registers and rings, and its own port to memory.
 */
export class RogueDevice {
  private readonly device: VirtioDevice
  private readonly port: BusPort

  constructor(device: VirtioDevice) {
    this.device = device
    this.port = device.port
  }

  /** The bytes at a device address, or null where the port refuses any of them. */
  read(address: number, length: number): Uint8Array | null {
    const { port } = this
    const bytes = new Uint8Array(length)
    const done = this.each(address, length, ACCESS_READ, (at, granted) =>
      bytes.set(port.region.u8.subarray(port.offset, port.offset + granted), at),
    )
    return done ? bytes : null
  }

  /** Writes to a device address. Returns whether the port let it. */
  write(address: number, bytes: Uint8Array): boolean {
    const { port } = this
    return this.each(address, bytes.length, ACCESS_WRITE, (at, granted) =>
      port.region.u8.set(bytes.subarray(at, at + granted), port.offset),
    )
  }

  /**
   * The longest readable buffer of the chain that was made available last on a queue: what a driver sends. The port
   * refuses nothing here, since a device has to read its rings.
   */
  newestBuffer(queue: number): LentBuffer {
    const { areas, size } = this.device.queues[queue]
    const [table, available] = [0, 2].map((i) => areas[i] + areas[i + 1] * 2 ** 32)
    const ring = this.view(available, availableRingBytes(size))
    const newest = (ring.getUint16(AVAILABLE_INDEX, true) - 1) & (size - 1)
    const head = ring.getUint16(AVAILABLE_RING + 2 * newest, true)
    const chain = this.chain(this.view(table, descriptorTableBytes(size)), head)
    return chain.reduce((longest, buffer) => (buffer.length > longest.length ? buffer : longest))
  }

  /** What can be read without a gap before and behind a buffer. The steps halve until a single byte is refused. */
  around({ address, length }: LentBuffer): { readonly before: Uint8Array; readonly behind: Uint8Array } {
    const before: Uint8Array[] = []
    const behind: Uint8Array[] = []
    let from = address
    for (let step = LARGEST_STEP; step >= 1; ) {
      const bytes = from >= step ? this.read(from - step, step) : null
      if (bytes === null) step >>= 1
      else {
        before.unshift(bytes)
        from -= step
      }
    }
    let to = address + length
    for (let step = LARGEST_STEP; step >= 1; ) {
      const bytes = this.read(to, step)
      if (bytes === null) step >>= 1
      else {
        behind.push(bytes)
        to += step
      }
    }
    return { before: Buffer.concat(before), behind: Buffer.concat(behind) }
  }

  private chain(table: DataView, head: number): LentBuffer[] {
    const found: LentBuffer[] = []
    for (let at = head * DESCRIPTOR_SIZE; ; ) {
      const low = table.getUint32(at + DESCRIPTOR_ADDRESS, true)
      const address = low + table.getUint32(at + DESCRIPTOR_ADDRESS + 4, true) * 2 ** 32
      const length = table.getUint32(at + DESCRIPTOR_LENGTH, true)
      const flags = table.getUint16(at + DESCRIPTOR_FLAGS, true)
      if ((flags & DESCRIPTOR_F_INDIRECT) !== 0) return this.chain(this.view(address, length), 0)
      if ((flags & DESCRIPTOR_F_WRITE) === 0) found.push({ address, length })
      if ((flags & DESCRIPTOR_F_NEXT) === 0) return found
      at = table.getUint16(at + DESCRIPTOR_NEXT, true) * DESCRIPTOR_SIZE
    }
  }

  private view(address: number, length: number): DataView {
    const bytes = this.read(address, length)
    if (bytes === null)
      throw new GuestDmaError('DEMO_RING', this.device.name, `cannot read its own ring at ${hex(address)}`, { address })
    return new DataView(bytes.buffer)
  }

  // Grants end where windows and mappings end; the rest is asked for anew, as a bus does.
  private each(address: number, length: number, access: 1 | 2, use: (at: number, granted: number) => void): boolean {
    const { port } = this
    port.refresh()
    for (let at = 0; at < length; ) {
      port.request[0] = address + at
      const granted = port.resolve(length - at, access)
      if (granted === 0) return false
      use(at, granted)
      at += granted
    }
    return true
  }
}
