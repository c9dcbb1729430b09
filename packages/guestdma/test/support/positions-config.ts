import { type PciCapability, virtioCapability } from '@guestdma/devices'
import type { RegisterBus } from '@guestdma/memory'
import {
  PCI_CAP_BYTES,
  PCI_CAP_NEXT,
  PCI_CAPABILITY_POINTER,
  PCI_DEVICE_ID,
  PCI_DEVICE_MODERN_FIRST,
  PCI_DEVICE_TRANSITIONAL_FIRST,
  PCI_SUBSYSTEM_ID,
  VIRTIO_PCI_CAP_SWIOTLB,
} from '@guestdma/spec'
import { MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { vi } from 'vitest'

/** Registers or configuration space in which some bytes read otherwise than they are. */
export function overlaid(bus: RegisterBus, bytes: ReadonlyMap<number, number>): RegisterBus {
  return {
    read: (offset, size) => {
      const at = Array.from({ length: size }, (_, i) => offset + i)
      if (!at.some((byte) => bytes.has(byte))) return bus.read(offset, size)
      return at.reduce((value, byte, i) => value + (bytes.get(byte) ?? bus.read(byte, 1)) * 256 ** i, 0)
    },
    write: (offset, size, value) => bus.write(offset, size, value),
  }
}

/** Where the capability of type 10 is in a configuration space. */
export function swiotlbAt(config: RegisterBus): number {
  let at = config.read(PCI_CAPABILITY_POINTER, 1)
  while (at !== 0 && config.read(at + 3, 1) !== VIRTIO_PCI_CAP_SWIOTLB) at = config.read(at + PCI_CAP_NEXT, 1)
  return at
}

/** Behind everything that a function of ours lists. */
const SPARE_AT = 0xc0

/** What a capability of type 10 says. */
export interface SaidRegion {
  readonly offset?: number
  readonly length?: number
  readonly bar?: number
  /** `cap_len` */
  readonly capLength?: number
}

/** The bytes that make a function say something else of its region, or list further regions before its own. */
function saying(config: RegisterBus, said: readonly SaidRegion[]): ReadonlyMap<number, number> {
  const own = swiotlbAt(config)
  const bytes = new Map<number, number>()
  const put = (at: number, capability: PciCapability, next: number): void => {
    for (const [i, byte] of capability.bytes.entries()) bytes.set(at + i, byte)
    bytes.set(at + PCI_CAP_NEXT, next)
  }
  const first = config.read(PCI_CAPABILITY_POINTER, 1)
  said.forEach((region, i) => {
    const capability = virtioCapability({ type: VIRTIO_PCI_CAP_SWIOTLB, bar: 2, ...region })
    const last = i === said.length - 1
    // The last of them takes the place of the function's own; the others come first in the list.
    if (last) put(own, capability, config.read(own + PCI_CAP_NEXT, 1))
    else
      put(SPARE_AT + i * PCI_CAP_BYTES, capability, i === said.length - 2 ? first : SPARE_AT + (i + 1) * PCI_CAP_BYTES)
  })
  if (said.length > 1) bytes.set(PCI_CAPABILITY_POINTER, SPARE_AT)
  return bytes
}

/** Every PCI function that is probed from now on has its configuration space seen through `change`. */
export function throughConfig(change: (config: RegisterBus) => RegisterBus): void {
  const real = PciTransport.probe
  vi.spyOn(PciTransport, 'probe').mockImplementation((access, name, options) =>
    real.call(PciTransport, { config: change(access.config), bar: (index) => access.bar(index) }, name, options),
  )
}

/** Every device over mmio that is probed from now on has its registers seen through `change`, and its transport too. */
export function throughRegisters(
  change: (registers: RegisterBus) => RegisterBus,
  kind: VirtioTransport['kind'] = 'mmio',
): void {
  const real = MmioTransport.probe
  vi.spyOn(MmioTransport, 'probe').mockImplementation((bus, name) => {
    const transport = real.call(MmioTransport, change(bus), name)
    return transport === null ? null : Object.defineProperty(transport, 'kind', { value: kind })
  })
}

/** Makes functions say that they are a transitional net or block device (virtio 1.4 §4.1.2.1). */
export const transitional = (config: RegisterBus): RegisterBus => {
  const type = config.read(PCI_DEVICE_ID, 2) - PCI_DEVICE_MODERN_FIRST
  const id = PCI_DEVICE_TRANSITIONAL_FIRST + type - 1
  return overlaid(
    config,
    new Map([
      [PCI_DEVICE_ID, id & 0xff],
      [PCI_DEVICE_ID + 1, id >> 8],
      [PCI_SUBSYSTEM_ID, type],
      [PCI_SUBSYSTEM_ID + 1, 0],
    ]),
  )
}

/** Capabilities that name no usable part of a BAR of `size` bytes, and the reason that a driver gives for each. */
export function unusableRegions(size: number): readonly (readonly [string, SaidRegion, string])[] {
  return [
    ['offset not a multiple of 4096', { offset: 2048, length: 4096 }, 'offset 0x800 is not a multiple of 4096'],
    ['length not a multiple of 4096', { length: 5000 }, 'length 0x1388 is not a multiple of 4096'],
    ['length 0', { length: 0 }, '0x0 bytes are too few'],
    ['beyond the end of the BAR', { offset: size - 4096, length: 8192 }, 'lies outside'],
    ['longer than the BAR', { length: size + 4096 }, 'lies outside'],
    ['wrapping at 2^32', { offset: 0xffff_f000, length: 0x2000 }, 'lies outside'],
    ['a BAR that is not there', { length: size, bar: 5 }, 'BAR 5 does not exist'],
    ['a reserved BAR', { length: size, bar: 7 }, 'BAR 7 is reserved'],
    ['a capability that is too short', { length: size, capLength: 12 }, '12 bytes are too short'],
  ]
}

/** Every PCI function that is probed from now on says this of its region; several: lists them in this order. */
export const functionsSay = (said: readonly SaidRegion[]): void =>
  throughConfig((config) => overlaid(config, saying(config, said)))
