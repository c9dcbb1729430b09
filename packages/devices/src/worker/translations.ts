import type { AccessFaultReason } from '../faults/access-fault.ts'
import type { Reach } from '../ports/translation-copy.ts'

/**
 * The translations of a device in a worker travel as changes, through a ring in a SharedArrayBuffer: the platform's
 * thread writes changes behind the last one and then their number to TAIL; the worker applies them in order to mappings
 * of its own, and then writes that number to APPLIED, and to PASSED once it is between two accesses of its device.
 *
 * The worker's grants hold until it is between two accesses. Up to there it takes over nothing but mappings that were
 * added. So a removal is done when PASSED has reached its number. AWAY is 1 while the worker's loop does not run at all;
 * it is 0 before the worker looks at TAIL, and it is 1 before the worker looks at TAIL for the last time. With all of
 * these loads and stores atomic, either the worker sees the change or the platform's thread sees that it is away.
 *
 * Refused accesses come back through a ring of the other direction: the worker writes a record and then their number to
 * FAULTS. TOLD is 1 from a message that there are some until the other thread takes them.
 */

// Words of 32 bits. Written by the platform's thread:
export const TAIL = 0
export const FAULTS_TAKEN = 1
export const TOLD = 2
// Written by the worker, in a cache line of their own:
export const APPLIED = 16
export const PASSED = 17
export const AWAY = 18
export const FAULTS = 19
export const FAULTS_LOST = 20

/** Changes that are under way at most; whoever has more waits for the worker. A power of two. */
export const CHANGES = 1024
/** Doubles of a change: what it is, and its keys as in `Mappings`, or for {@link REACH} place in {@link REACHES} and granule. */
export const CHANGE = 5
export const MAPPED = 1
export const UNMAPPED = 2
export const REACH = 3

/** What a {@link REACH} says, by place. */
export const REACHES: readonly Reach[] = ['nothing', 'all', 'mapped']

/** Records of refused accesses that are under way at most; more are counted in FAULTS_LOST. A power of two. */
export const FAULT_RECORDS = 64
/** Words of a record: the address as high and low half, bytes, access, place of the reason in {@link REASONS}, report. */
export const FAULT = 6
export const REASONS: readonly AccessFaultReason[] = ['unmapped', 'permission', 'range']

const HEADER_BYTES = 256
const CHANGES_BYTES = CHANGES * CHANGE * 8

/** Both threads' view of the shared memory. */
export interface SharedTranslations {
  readonly words: Int32Array
  readonly changes: Float64Array
  readonly faults: Int32Array
}

export function newTranslations(): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(HEADER_BYTES + CHANGES_BYTES + FAULT_RECORDS * FAULT * 4)
  // A worker that has not begun is as good as away.
  Atomics.store(new Int32Array(memory), AWAY, 1)
  return memory
}

export function translationsIn(memory: SharedArrayBuffer): SharedTranslations {
  return {
    words: new Int32Array(memory, 0, HEADER_BYTES / 4),
    changes: new Float64Array(memory, HEADER_BYTES, CHANGES * CHANGE),
    faults: new Int32Array(memory, HEADER_BYTES + CHANGES_BYTES, FAULT_RECORDS * FAULT),
  }
}
