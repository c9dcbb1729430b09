import { ADDRESS_HIGH_LIMIT, ADDRESS_LIMIT, hex, type RegisterBus } from '@guestdma/memory'
import {
  PCI_BAR_IO,
  PCI_BAR_IO_FLAGS,
  PCI_BAR_MEMORY_FLAGS,
  PCI_BAR_PREFETCHABLE,
  PCI_BAR_TYPE_64,
  PCI_BAR_TYPE_MASK,
  PCI_BAR0,
  PCI_BARS,
  PCI_COMMAND,
  PCI_COMMAND_BUS_MASTER,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
} from '@guestdma/spec'
import { TransportError } from '../contract/errors.ts'

/** One PCI function as a machine presents it to a driver. */
export interface PciAccess {
  /** The function's configuration space, 256 bytes. */
  readonly config: RegisterBus
  /**
   * The registers or memory behind BAR `index`, at their offsets in that BAR; null where that BAR is unmapped, or I/O
   * that the machine does not have.
   */
  bar(index: number): RegisterBus | null
}

/** One base address register that a function implements: PCI 3.0 §6.2.5.1. */
export interface PciBar {
  /** 0 to 5. A 64-bit BAR takes this register and the next. */
  readonly index: number
  readonly kind: 'memory' | 'io'
  /** Bytes; a power of two, up to 2^63. */
  readonly size: number
  readonly is64: boolean
  readonly prefetchable: boolean
  /** `unassigned`: the register holds 0. `unreachable`: it ends beyond 2^53, where addresses are no longer exact. */
  readonly place: 'assigned' | 'unassigned' | 'unreachable'
  /** Where it begins on the bus; 0 unless `place` is `assigned`. */
  readonly address: number
}

/** What {@link assignBars} asks for: `size` bytes, aligned to `size`. */
export interface BarRequest {
  readonly index: number
  readonly kind: 'memory' | 'io'
  readonly size: number
  /** May it lie at or above 4 GiB? */
  readonly is64: boolean
  readonly prefetchable: boolean
}

// The two reserved values of the type field: 0b11, and 0b01, which meant "below 1 MiB" before PCI 2.2.
const BAR_TYPE_BELOW_1M = 0x2
const BAR_TYPE_RESERVED = 0x6

const ALL_ONES = 0xffff_ffff
const TWO_32 = 2 ** 32

/**
 * Finds the BARs of a function and their sizes (PCI 3.0 §6.2.5.1): with decoding off, since a BAR that holds ones would
 * answer at the end of the address space meanwhile. Leaves every register as it found it. A BAR of a reserved type, and
 * a 64-bit BAR without a register for its high half, are passed over.
 */
export function readBars(config: RegisterBus): readonly PciBar[] {
  return withoutDecoding(config, () => sizeAll(config))
}

/**
 * What firmware does: sizes the BARs of a function, assigns each the address that `take` answers (0: none, that BAR
 * stays unassigned), then enables decoding for what was assigned, and bus mastering. For machines without firmware.
 *
 * @throws TransportError `TRANSPORT_PCI_BAR` for an address that is not aligned to the size, or that the BAR cannot
 *   hold
 */
export function assignBars(access: PciAccess, take: (request: BarRequest) => number): readonly PciBar[] {
  const { config } = access
  const command = config.read(PCI_COMMAND, 2) & 0xffff
  let enabled = command | PCI_COMMAND_BUS_MASTER
  const bars = withoutDecoding(config, () =>
    sizeAll(config).map((bar): PciBar => {
      const { index, kind, size, is64, prefetchable } = bar
      const address = take({ index, kind, size, is64, prefetchable })
      const limit = is64 ? ADDRESS_LIMIT : TWO_32
      if (!Number.isInteger(address) || address < 0 || address % size !== 0 || size > limit - address) {
        throw new TransportError(
          'TRANSPORT_PCI_BAR',
          `BAR ${index}`,
          `address ${address} does not suit ${hex(size)} bytes of ${is64 ? '64-bit ' : ''}${kind} space`,
          { index, address, size },
        )
      }
      config.write(PCI_BAR0 + 4 * index, 4, address >>> 0)
      if (is64) config.write(PCI_BAR0 + 4 * index + 4, 4, Math.floor(address / TWO_32))
      if (address !== 0) enabled |= kind === 'io' ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY
      return { ...bar, address, place: address === 0 ? 'unassigned' : 'assigned' }
    }),
  )
  config.write(PCI_COMMAND, 2, enabled)
  return bars
}

// PCI_COMMAND is written as 16 bits: bits of PCI_STATUS, which follows it, are cleared by writing them.
function withoutDecoding<T>(config: RegisterBus, work: () => T): T {
  const command = config.read(PCI_COMMAND, 2) & 0xffff
  const quiet = command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY)
  if (quiet !== command) config.write(PCI_COMMAND, 2, quiet)
  try {
    return work()
  } finally {
    if (quiet !== command) config.write(PCI_COMMAND, 2, command)
  }
}

function sizeAll(config: RegisterBus): PciBar[] {
  const bars: PciBar[] = []
  for (let index = 0; index < PCI_BARS; index++) {
    const at = PCI_BAR0 + 4 * index
    const low = config.read(at, 4) >>> 0
    const io = (low & PCI_BAR_IO) !== 0
    const type = io ? 0 : low & PCI_BAR_TYPE_MASK
    const is64 = type === PCI_BAR_TYPE_64
    if (type === BAR_TYPE_RESERVED || type === BAR_TYPE_BELOW_1M || (is64 && index === PCI_BARS - 1)) continue
    const flags = io ? PCI_BAR_IO_FLAGS : PCI_BAR_MEMORY_FLAGS
    const lowMask = (writable(config, at, low) & ~flags) >>> 0
    const high = is64 ? config.read(at + 4, 4) >>> 0 : 0
    const highMask = is64 ? writable(config, at + 4, high) : 0
    // The lowest writable bit is the size, whatever lies above it: I/O BARs may have only 16 writable bits.
    const size = lowMask !== 0 ? lowestBit(lowMask) : lowestBit(highMask) * TWO_32
    if (size !== 0) {
      // Bits below the size are not decoded, so they are no part of the address.
      const base = high * TWO_32 + ((low & ~flags) >>> 0)
      const address = base - (base % size)
      const reachable = high < ADDRESS_HIGH_LIMIT && size <= ADDRESS_LIMIT - address
      const place = !reachable ? 'unreachable' : address === 0 ? 'unassigned' : 'assigned'
      bars.push({
        index,
        kind: io ? 'io' : 'memory',
        size,
        is64,
        prefetchable: !io && (low & PCI_BAR_PREFETCHABLE) !== 0,
        place,
        address: place === 'assigned' ? address : 0,
      })
    }
    if (is64) index++
  }
  return bars
}

function writable(config: RegisterBus, at: number, value: number): number {
  config.write(at, 4, ALL_ONES)
  const mask = config.read(at, 4) >>> 0
  config.write(at, 4, value)
  return mask
}

function lowestBit(value: number): number {
  return (value & -value) >>> 0
}
