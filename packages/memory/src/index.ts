/**
 * Guest memory and the small interfaces that plug into a machine.
 *
 * @packageDocumentation
 */
export {
  ADDRESS_HIGH_LIMIT,
  ADDRESS_LIMIT,
  checkSpan,
  type DeviceAddress,
  deviceAddress,
  type GuestAddress,
  guestAddress,
} from './address.ts'
export { attempt } from './attempt.ts'
export { ACCESS_READ, ACCESS_WRITE, type BusPort, type InterruptSink, type RegisterBus } from './bus.ts'
export { clear, copy, copyEach } from './copy.ts'
export {
  type CauseRecord,
  type ErrorRecord,
  type ErrorTable,
  GuestDmaError,
  hex,
  MEMORY_CODES,
  MemoryError,
} from './errors.ts'
export { FAULTS_KEPT, FaultLog, observe } from './fault-log.ts'
export { GuestMemory, type GuestMemoryOptions, type GuestRange, type LocatedRange } from './guest-memory.ts'
export { Meter, type MeterSnapshot } from './meter.ts'
export { type MemorySource, type MemoryWindow, Region, type WasmMemory } from './region.ts'
export { SpanAllocator } from './span-allocator.ts'
