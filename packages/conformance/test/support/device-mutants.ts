import type { Mutants } from './mutants.ts'

const HANDSHAKES = ['packages/conformance/test/support/mutants-handshakes.ts']
const BOTH = ['packages/conformance/test/device-ring.test.ts', 'packages/devices/test/ring-rules.test.ts']
const SPLIT = [
  ...BOTH,
  'packages/devices/test/ring-notification.test.ts',
  'packages/devices/test/ring-chains.test.ts',
  'packages/devices/test/ring-scattered.test.ts',
  'packages/devices/test/queue-position.test.ts',
]
const PACKED = [...BOTH, 'packages/devices/test/packed-ring.test.ts']
const WALKER = [
  'packages/devices/test/packed-ring.test.ts',
  'packages/devices/test/ring-chains.test.ts',
  ...BOTH,
  'packages/devices/test/ring-scattered.test.ts',
]

/** Each barrier, each wrap and each check of the device's half. */
export const DEVICE_MUTANTS: readonly Mutants[] = [
  {
    file: 'packages/devices/src/ring/split.ts',
    suites: HANDSHAKES,
    errors: [
      [
        'publishes by a plain store',
        'device.storeThenLoad(usedIndex.half, used, driver, asked.half)',
        '((device.u16[usedIndex.half] = used), driver.u16[asked.half])',
      ],
      [
        'looks for the answer before it publishes',
        'device.storeThenLoad(usedIndex.half, used, driver, asked.half)',
        '[driver.loadShared(asked.half), device.storeThenLoad(usedIndex.half, used, driver, asked.half)][0]',
      ],
      [
        're-arms by a plain store',
        'device.storeThenLoad(event.half, seen, driver, availableIndex.half)',
        '((device.u16[event.half] = seen), driver.u16[availableIndex.half])',
      ],
      [
        'looks for chains before it is re-armed',
        'device.storeThenLoad(event.half, seen, driver, availableIndex.half)',
        '[driver.loadShared(availableIndex.half), device.storeThenLoad(event.half, seen, driver, availableIndex.half)][0]',
      ],
    ],
  },
  {
    file: 'packages/devices/src/ring/split.ts',
    suites: SPLIT,
    errors: [
      ['does not re-arm while it publishes', 'device.storeAhead(event.half, seen)', ''],
      [
        'does not look again behind the barrier',
        'this.accept(index) > 0 && index !== seen\n    return wanted',
        'false\n    return wanted',
      ],
      [
        'does not mask the place of the first entry',
        'let head = ring[first + (start & mask)]',
        'let head = ring[first + start]',
      ],
      ['does not mask the place of an entry', '((start + n) & mask)', '(start + n)'],
      ['does not wrap what it took', 'this.next = (start + n) & 0xffff', 'this.next = start + n'],
      [
        'does not wrap what it gives back',
        'this.next = (this.next - (to - from)) & 0xffff',
        'this.next = this.next - (to - from)',
      ],
      ['does not mask the place of a used element', '(this.slot & (this.size - 1))', 'this.slot'],
      ['does not mask it in a batch', '((used + row) & mask)', '(used + row)'],
      ['does not wrap the used index', 'this.used = (used + 1) & 0xffff', 'this.used = used + 1'],
      ['does not wrap it in a batch', 'this.used = (used + rows) & 0xffff', 'this.used = used + rows'],
      [
        'does not wrap what is ready',
        'const ready = (this.available - this.next) & 0xffff',
        'const ready = this.available - this.next',
      ],
      ['does not wrap the distance to the event', '((used - answer - 1) & 0xffff)', '(used - answer - 1)'],
      ['does not wrap the batch', '< ((used - old) & 0xffff)', '< used - old'],
      [
        'does not wrap what is outstanding',
        'const outstanding = (index - this.published) & 0xffff',
        'const outstanding = index - this.published',
      ],
      ['does not wrap what is fresh', 'const fresh = (index - this.next) & 0xffff', 'const fresh = index - this.next'],
      ['does not mask the place that it reports', 'const first = from & (size - 1)', 'const first = from'],
      ['believes a jump of the index', 'outstanding > size || fresh > size', 'fresh > size'],
      ['believes an index that goes back', 'outstanding > size || fresh > size', 'outstanding > size'],
      ['believes any head and next', 'index >= size || k - begin === size', 'k - begin === size'],
      ['walks a chain without end', 'k - begin === size)', 'k - begin === 64 * size)'],
      ['believes any next in a table', 'if (index >= entries) return', 'if (index < 0) return'],
      ['walks a table without end', 'if (n === size)', 'if (n === 64 * size)'],
      ['takes any size', '(size & (size - 1)) !== 0', 'size < 0'],
      ['interrupts although it must not', '(answer & AVAILABLE_F_NO_INTERRUPT) === 0', 'answer >= 0'],
      [
        'replaces an element that was published',
        'this.published = used\n    this.replaceable = false',
        'this.published = used',
      ],
      [
        'leaves out what was not written completely',
        'this.replaceable = whole && this.batchUsed',
        'this.replaceable = this.batchUsed',
      ],
      ['publishes after it was stopped', 'used === old || !this.attached', 'used === old'],
      ['writes no pieces back', 'if (this.scattered) this.usedElements(old, used, false)', ''],
      ['copies no pieces', 'if (this.scattered && index !== this.available) this.pull()', ''],
    ],
  },
  {
    file: 'packages/devices/src/ring/packed.ts',
    suites: HANDSHAKES,
    errors: [
      [
        'publishes by a plain store',
        'region.storeWordThenLoad(word + 3, this.held >>> 0, driver, offset / 4)',
        '((region.u32[word + 3] = this.held), driver.u32[offset / 4])',
      ],
      [
        'looks for the answer before it publishes',
        'region.storeWordThenLoad(word + 3, this.held >>> 0, driver, offset / 4)',
        '[driver.loadSharedWord(offset / 4), region.storeWordThenLoad(word + 3, this.held >>> 0, driver, offset / 4)][0]',
      ],
      [
        're-arms by a plain store',
        'device.storeWordThenLoad(offset / 4, event, region, word + 3)',
        '((device.u32[offset / 4] = event), region.u32[word + 3])',
      ],
      [
        'looks for chains before it is re-armed',
        'device.storeWordThenLoad(offset / 4, event, region, word + 3)',
        '[region.loadSharedWord(word + 3), device.storeWordThenLoad(offset / 4, event, region, word + 3)][0]',
      ],
    ],
  },
  {
    file: 'packages/devices/src/ring/packed.ts',
    suites: PACKED,
    errors: [
      ['marks the first used descriptor at once', 'this.held = last', 'this.held = u32[word + 3] = last'],
      ['never turns the counter of what is available', '\n        marks ^= MARKS', ''],
      ['does not turn it back with what it gives back', 'this.marks ^= MARKS', ''],
      ['never turns the counter of what is used', 'this.usedMarks ^= MARKS', ''],
      ['goes one descriptor beyond the ring', 'if (at === size) {', 'if (at > size) {'],
      ['does not wrap the place of what is used', 'this.usedAt -= size', ''],
      ['does not wrap what it gives back', 'this.at += this.size', ''],
      [
        'names no counter in its event',
        'const place = at | (marks === AVAILABLE_MARK ? PACKED_WRAP_COUNTER : 0)',
        'const place = at',
      ],
      ["ignores the counter of the driver's event", 'asked + size : asked', 'asked : asked'],
      ['ignores the counter of its own place', '? usedAt : usedAt + size', '? usedAt : usedAt'],
      ['takes one lap for a circle', '% (2 * size) < passed', '% size < passed'],
      [
        'continues in the first lap always',
        '(next & PACKED_WRAP_COUNTER) === 0 ? MARKS ^ AVAILABLE_MARK : AVAILABLE_MARK',
        'AVAILABLE_MARK',
      ],
      ['continues to use in the first lap always', '(used & PACKED_WRAP_COUNTER) === 0 ? 0 : MARKS', 'MARKS'],
      ['tells nobody after a restore', 'this.restored = true', ''],
      [
        'looks at AVAILABLE alone',
        '(last & MARKS) !== marks) break',
        '(last & AVAILABLE_MARK) !== (marks & AVAILABLE_MARK)) break',
      ],
      ['looks at the marks of every descriptor', 'if (k === begin && (last', 'if ((last'],
      ['walks a list without end', 'if (k - begin === size) {', 'if (k - begin === 64 * size) {'],
      ['believes the id of a chain that it has', 'id >= size || counts[id] !== 0', 'id >= size'],
      [
        'takes the id of the first descriptor',
        'const id = last & 0xffff',
        'const id = region.u32[(base + (this.at << 2) + 3) | 0] & 0xffff',
      ],
      ['walks a table without end', 'if (entries > size) return', 'if (entries < 0) return'],
      ['believes more than WRITE in a table', '(u32[at + 3] >>> 16) & DESCRIPTOR_F_WRITE', '(u32[at + 3] >>> 16) & 7'],
      ['never frees an id', 'const count = counts[id]\n    counts[id] = 0', 'const count = counts[id]'],
      ['passes one descriptor for each chain', 'this.usedAt += count', 'this.usedAt++'],
      ['knows no disabled events', 'if (flags === RING_EVENT_FLAGS_DISABLE) return false', ''],
      ['takes any flags for an event', 'flags !== RING_EVENT_FLAGS_DESCRIPTOR || ', ''],
      ['takes an event without the event index', '!eventIndex || ', ''],
      ['believes an event beyond the ring', ' || asked >= size', ''],
      ['says WRITE always', '(written > 0 ? WRITE_MARK : 0)', 'WRITE_MARK'],
      [
        'replaces a descriptor that was published',
        'this.passed = this.unpublished = 0\n    this.replaceable = false',
        'this.passed = this.unpublished = 0',
      ],
      [
        'leaves out what was not written completely',
        'this.replaceable = whole && this.batchUsed',
        'this.replaceable = this.batchUsed',
      ],
      [
        'writes where the port lets nobody write',
        'resolveArea(owner, ringArea, areas, 0, bytes, DESCRIPTOR_RING_ALIGN, 4, ACCESS_WRITE) &&',
        '',
      ],
      ['looks at a ring that is gone', 'update(): number {\n    if (!this.attached) return 0', 'update(): number {'],
    ],
  },
  {
    file: 'packages/devices/src/ring/ring-walker.ts',
    suites: WALKER,
    errors: [
      ['follows a table out of a table', 'if (inTable) return', 'if (inTable && stop < 0) return'],
      ['follows a table that was not agreed on', 'if (!this.indirect) return', 'if (this.size < 0) return'],
      ['follows a table that is linked to more', 'if ((flags & F_NEXT) !== 0) return', 'if (flags < 0) return'],
      ['takes an empty table', 'length === 0 || (length & 15)', '(length & 15)'],
      ['takes a table of no whole entries', '(length & 15) !== 0 || ', ''],
      ['takes a table of any length', ' || length > MAX_INDIRECT_BYTES', ''],
      ['takes more elements than the queue has', '++elements > size', '++elements < 0'],
      ['takes chains of any bytes', 'total + length > MAX_CHAIN_BYTES', 'total + length < 0'],
      ['reads behind what it may write', 'else if (writeFrom >= 0) return', 'else if (writeFrom < -1) return'],
      [
        'cuts addresses off',
        'if (high >= HIGH_LIMIT) {\n        port.outOfReach',
        'if (high < 0) {\n        port.outOfReach',
      ],
      ['takes what the port refuses', "if (granted <= 0) return this.refused('buffer-unreachable', head, length)", ''],
      ['asks for reading where it writes', 'access = WRITE_ACCESS\n', 'access = READ_ACCESS\n'],
      ['copies no table that is in pieces', 'area.pull()', ''],
      ['takes a table that is not aligned as it stands', 'this.align(area, length)', ''],
      ['completes out of order', 'if (heldWritten[place] < 0) return', ''],
      ['does not mask the place of a completion', 'heldHead[position & heldMask] = head', 'heldHead[position] = head'],
      ['takes what was given back no more', 'this.fetched.from -= rows', ''],
      ['does not wrap the number of what was given back', 'this.number = (this.number - rows) & 0xffff', ''],
      ['takes chains of a queue that is paused', 'return this.paused ? 0 : to', 'return to'],
    ],
  },
]
