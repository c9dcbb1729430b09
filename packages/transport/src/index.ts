/**
 * How a driver reaches a device and brings it up.
 *
 * @example
 * const transport = MmioTransport.probe(bus, 'net0')
 *
 * @packageDocumentation
 */
export { DeviceStuckError, TransportError } from './errors.ts'
export { MmioTransport } from './mmio.ts'
export { type Negotiated, type NegotiationOptions, negotiate, resetDevice, resetQueue } from './negotiate.ts'
export type { ConfigReader, QueueAreas, VirtioTransport } from './transport.ts'
export { DEFAULT_DEADLINE_MS, type Wait, waitUntil } from './wait.ts'
