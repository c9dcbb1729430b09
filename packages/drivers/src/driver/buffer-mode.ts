/**
 * `map`: data lies in guest RAM and each piece is lent for one transfer. `pool`: data lies in memory that the device
 * always sees.
 */
export type BufferMode = 'map' | 'pool'

/** In place of a buffer's number: the data lies in the caller's own memory. */
export const NO_BUFFER = -1
