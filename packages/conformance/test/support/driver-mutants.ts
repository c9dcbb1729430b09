import type { Mutants } from './mutants.ts'

const HANDSHAKES = ['packages/conformance/test/support/mutants-handshakes.ts']
const SPLIT = [
  'packages/virtqueue/test/driver-queue.test.ts',
  'packages/conformance/test/driver-queue.test.ts',
  'packages/conformance/test/support/mutants-split-queue.ts',
]
const PACKED = [
  'packages/virtqueue/test/packed.test.ts',
  'packages/conformance/test/device-ring.test.ts',
  'packages/conformance/test/driver-queue.test.ts',
  'packages/conformance/test/support/mutants-packed-queue.ts',
]

/** Each barrier, each wrap and each check of the driver's half. */
export const DRIVER_MUTANTS: readonly Mutants[] = [
  {
    file: 'packages/virtqueue/src/split.ts',
    suites: HANDSHAKES,
    errors: [
      [
        'publishes by a plain store',
        'available.storeThenLoad(availableHalf + 1, position, used, asked)',
        '((available.u16[availableHalf + 1] = position), used.u16[asked])',
      ],
      [
        'looks for the answer before it publishes',
        'available.storeThenLoad(availableHalf + 1, position, used, asked)',
        '[used.loadShared(asked), available.storeThenLoad(availableHalf + 1, position, used, asked)][0]',
      ],
      [
        'arms by a plain store',
        'available.storeThenLoad(half, eventIndex ? event : flags, used, usedHalf + 1)',
        '((available.u16[half] = eventIndex ? event : flags), used.u16[usedHalf + 1])',
      ],
      [
        'looks for used chains before it is armed',
        'available.storeThenLoad(half, eventIndex ? event : flags, used, usedHalf + 1)',
        '[used.loadShared(usedHalf + 1), available.storeThenLoad(half, eventIndex ? event : flags, used, usedHalf + 1)][0]',
      ],
    ],
  },
  {
    file: 'packages/virtqueue/src/split.ts',
    suites: SPLIT,
    errors: [
      [
        'never says that completions are there',
        'return this.storeEvent(this.collected, 0) !== this.collected',
        'return this.storeEvent(this.collected, 0) < 0',
      ],
      ['does not wrap the available index', '(position + 1) & 0xffff', 'position + 1'],
      ['does not mask the place of an entry', 'ring[first + (position & mask)]', 'ring[first + position]'],
      ['does not mask the place of a used element', '((collected + i) & mask)', '(collected + i)'],
      ['does not mask it in order', '((position & mask) << 1)', '(position << 1)'],
      ['does not wrap what it collected', '(collected + n) & 0xffff\n    if', 'collected + n\n    if'],
      ['does not wrap how many arrived', '(index - collected) & 0xffff', 'index - collected'],
      ['does not wrap the event that disarms', '(this.collected - 1) & 0xffff', 'this.collected + 1'],
      ['believes any used index', 'arrived > account.outstanding', 'arrived > 65535'],
      ['believes any batch', 'place >= arrived', 'place < -1'],
    ],
  },
  {
    file: 'packages/virtqueue/src/packed.ts',
    suites: HANDSHAKES,
    errors: [
      [
        'publishes by a plain store',
        'ring.storeWordThenLoad(heldAt, held, device, deviceWord)',
        '((ring.u32[heldAt] = held), device.u32[deviceWord])',
      ],
      [
        'looks for the answer before it publishes',
        'ring.storeWordThenLoad(heldAt, held, device, deviceWord)',
        '[device.loadSharedWord(deviceWord), ring.storeWordThenLoad(heldAt, held, device, deviceWord)][0]',
      ],
      [
        'arms by a plain store',
        'driver.storeWordThenLoad(driverWord, event, ring, ringWord + 4 * usedAt + 3)',
        '((driver.u32[driverWord] = event), ring.u32[ringWord + 4 * usedAt + 3])',
      ],
      [
        'looks for used chains before it is armed',
        'driver.storeWordThenLoad(driverWord, event, ring, ringWord + 4 * usedAt + 3)',
        '[ring.loadSharedWord(ringWord + 4 * usedAt + 3), driver.storeWordThenLoad(driverWord, event, ring, 0)][0]',
      ],
    ],
  },
  {
    file: 'packages/virtqueue/src/packed.ts',
    suites: PACKED,
    errors: [
      ['marks the first descriptor at once', 'this.held = last', 'this.held = u32[(to + 3) | 0] = last'],
      ['reads lengths before their marks', 'ring.readBarrier()', ''],
      ['never turns the counter of what is available', '\n        marks ^= MARKS', ''],
      ['never turns the counter of what is used', 'usedMarks ^= MARKS', ''],
      ['goes one descriptor beyond the ring', 'at === size', 'at > size'],
      ['does not wrap the place of what is used', 'usedAt -= size', ''],
      [
        'names no counter in a doorbell',
        'this.at | (this.marks === AVAILABLE_MARK ? PACKED_WRAP_COUNTER : 0)',
        'this.at',
      ],
      [
        'names no counter in its event',
        'usedAt | ((usedMarks & AVAILABLE_MARK) === 0 ? 0 : PACKED_WRAP_COUNTER)',
        'usedAt',
      ],
      ["ignores the counter of the device's event", 'offset + size : offset', 'offset : offset'],
      ['ignores the counter of its own place', '? at : at + size', '? at : at'],
      [
        'takes one lap for a circle',
        '(now - 1 - event + 2 * size) % (2 * size)',
        '(now - 1 - event + 2 * size) % size',
      ],
      [
        'looks at AVAILABLE alone',
        '(last & MARKS) !== usedMarks',
        '(last & AVAILABLE_MARK) !== (usedMarks & AVAILABLE_MARK)',
      ],
      ['collects where nothing is outstanding', 'limit < outstanding ? limit : outstanding', 'limit'],
      ['takes each chain for one descriptor', 'descriptors += info >> COUNT', 'descriptors += 1'],
      ['skips one descriptor for a batch', 'descriptors += account.descriptors(older)', ''],
      ['believes a length without WRITE', '(last & WRITE_MARK) === 0', 'false'],
      ['believes no length without WRITE', '(info & HAS_POSTED) === 0 && ', ''],
      ['knows no disabled events', 'if (flags === RING_EVENT_FLAGS_DISABLE) return false', ''],
      ['takes any flags for an event', 'flags !== RING_EVENT_FLAGS_DESCRIPTOR || ', ''],
      ['takes an event without the event index', '!this.eventIndex || ', ''],
      ['believes an event beyond the ring', ' || offset >= size', ''],
      ['says NEXT in a table', '((list[k] >>> FLAGS) & DESCRIPTOR_F_WRITE) << 16', '((list[k] >>> FLAGS) & 3) << 16'],
      ['gives an id to the first descriptor alone', 'if ((flags & NEXT) === 0) id =', 'id ='],
      ['looks at a view that growth detached', 'u32.length === 0 || ', ''],
    ],
  },
  {
    file: 'packages/virtqueue/src/event-index.ts',
    suites: ['packages/virtqueue/test/event-index.test.ts'],
    errors: [
      ['does not wrap the distance', '((event - old) & 0xffff) <', '(event - old) <'],
      ['does not wrap the batch', '< ((now - old) & 0xffff)', '< now - old'],
      ['takes the interval for a closed one', '& 0xffff) < (', '& 0xffff) <= ('],
    ],
  },
  {
    file: 'packages/virtqueue/src/driver-queue.ts',
    suites: SPLIT,
    errors: [
      ['looks for the account of any id', 'id < size ? chains[at] : FREE', 'chains[at]'],
      ['believes an id that is not outstanding', '(info & STATE) !== OUTSTANDING || (unpublished', '(unpublished'],
      ['believes an id that is not published', ' || (unpublished && batch.has(id))', ''],
      ['believes any length', 'lengths[n] = written = posted', ''],
      ['counts no clamped length', 'clamped++', ''],
      [
        'believes what was posted for the chain before',
        '(info & (WRITABLE | MANY)) === 0 ? 0 : chains[(at',
        'false ? 0 : chains[(at',
      ],
      ['believes an id twice', 'chains[at] = info & ~STATE', ''],
      [
        'gives prepared rows back',
        'if ((info & PREPARED) !== 0) {\n        statuses[n] = OK\n        continue\n      }',
        '',
      ],
      ['does not mask the place of a free row', 'freeRows[free & freeMask] = id', 'freeRows[free] = id'],
      [
        'reaps after the queue broke',
        'reap(budget: number): number {\n    if (this.broken !== null) return 0',
        'reap(budget: number): number {',
      ],
      ['publishes what is not committed', 'const status = this.guarded.commitMaps()', 'const status: number = OK'],
    ],
  },
  {
    file: 'packages/virtqueue/src/batch.ts',
    suites: SPLIT,
    errors: [
      [
        'does not mask where a row is taken',
        'const row = freeRows[(freeAt + n) & freeMask]',
        'const row = freeRows[freeAt + n]',
      ],
      ['does not mask the place of a chain', 'order[(number + i) & orderMask] = row', 'order[number + i] = row'],
      [
        'does not wrap where rows stood',
        'rows.freeAt = (rows.freeAt - this.rowsTaken) & rows.freeMask',
        'rows.freeAt = 0',
      ],
      ['forgets that a table is taken', 'this.rows.freeTableCount--', ''],
      ['keeps the table of a chain that is undone', 'rows.takeBackTable(id)', 'continue'],
      ['leaves pieces mapped', 'rows.unmapRows(first, k, 0)', ''],
    ],
  },
  {
    file: 'packages/virtqueue/src/rows.ts',
    suites: SPLIT,
    errors: [
      ['does not mask the place of a further row', 'freeRows[free++ & freeMask] = row', 'freeRows[free++] = row'],
      ['gives all that was written to the first row', 'left -= here', ''],
      ['keeps a table', 'this.freeTables[this.freeTableCount++] = table', ''],
      ['unmaps by the length of a readable row', '(flags & WRITABLE) !== 0', 'true'],
    ],
  },
]
