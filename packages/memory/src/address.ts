import { hex, MemoryError } from './errors.ts'

declare const guest: unique symbol
declare const device: unique symbol

/** An address as the guest's drivers use it: an integer in [0, 2^53). */
export type GuestAddress = number & { readonly [guest]: true }

/** An address as a device puts it on its bus: an integer in [0, 2^53). Only a DMA backend makes one. */
export type DeviceAddress = number & { readonly [device]: true }

/** Addresses end here: every integer below is exact in a `number`. */
export const ADDRESS_LIMIT = 0x20_0000_0000_0000

/** From this high half on, a 64-bit address lies outside every region. */
export const ADDRESS_HIGH_LIMIT = 0x20_0000

function checked(value: number, kind: string): number {
  if (!Number.isInteger(value) || value < 0 || value >= ADDRESS_LIMIT) {
    throw new MemoryError('MEMORY_ADDRESS', `${kind} address`, `${value} is not an integer from 0 to 2^53 - 1`, {
      value,
    })
  }
  return value
}

/** Checks a guest address where it enters. Throws `MEMORY_ADDRESS`. */
export function guestAddress(value: number): GuestAddress {
  return checked(value, 'guest') as GuestAddress
}

/** Checks a device address where it enters. For backends and platforms. Throws `MEMORY_ADDRESS`. */
export function deviceAddress(value: number): DeviceAddress {
  return checked(value, 'device') as DeviceAddress
}

/** Throws `MEMORY_LENGTH` unless [base, base + length) is a non-empty span below 2^53. */
export function checkSpan(base: number, length: number, part: string): void {
  checked(base, part)
  if (!Number.isInteger(length) || length < 1 || length > ADDRESS_LIMIT - base) {
    throw new MemoryError(
      'MEMORY_LENGTH',
      part,
      `length ${length} at ${hex(base)} must be at least 1 and end at or below 2^53`,
      { base, length },
    )
  }
}
