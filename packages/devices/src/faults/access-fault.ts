/** A 64-bit address that no `number` can hold exactly, as the two halves that stood in memory. */
export interface AddressHalves {
  readonly high: number
  readonly low: number
}

/**
 * Why a port refused an access: `unmapped`, nothing is there; `permission`, something is there that may not be accessed
 * in this way; `range`, the address lies at or beyond 2^53, outside every memory.
 */
export type AccessFaultReason = 'unmapped' | 'permission' | 'range'

/** One access of a device that its port refused. No byte was read or written. */
export interface AccessFault {
  /** Name of the port. */
  readonly port: string
  /** The device address; its halves where it lies at or beyond 2^53. */
  readonly address: number | AddressHalves
  /** Bytes that were asked for from `address` on. */
  readonly length: number
  /** 1 read, 2 write, seen from the device. */
  readonly access: 1 | 2
  readonly reason: AccessFaultReason
}
