import type { Mutants } from './mutants.ts'

const suites = [
  'packages/devices/test/worker-translations.test.ts',
  'packages/devices/test/worker-translations-bounds.test.ts',
]

/** What an answer to a removal depends on, where the device is in a worker. */
export const TRANSLATION_MUTANTS: readonly Mutants[] = [
  {
    file: 'packages/devices/src/worker/translation-reader.ts',
    suites,
    errors: [
      [
        'looks for changes before it says that it runs',
        'Atomics.store(this.shared.words, AWAY, 0)\n    this.pass()',
        'this.pass()\n    Atomics.store(this.shared.words, AWAY, 0)',
      ],
      ['does not look for changes when it runs', 'AWAY, 0)\n    this.pass()', 'AWAY, 0)'],
      [
        'does not look for changes after it said that it is away',
        'waits for this.\n    this.pass()',
        'waits for this.',
      ],
      ['does not say that it runs in a callback', 'if (!this.away) return\n    this.enter()', 'this.pass()'],
      ['keeps recent translations while it is away', 'this.port.forget()', ''],
      [
        'takes over removals in the middle of an access',
        'changes[(this.applied & (CHANGES - 1)) * CHANGE] === MAPPED)',
        'changes.length > 0)',
      ],
      [
        'takes a change over that does not fit',
        'if (!(keys[0] <= keys[1]) || !mappings.insert())',
        'if (!mappings.insert() && keys[0] < 0)',
      ],
      ['does not tell its port of a removal', 'domain.unmapped(keys)', ''],
      ['writes over refused accesses', '>= FAULT_RECORDS) {', '>= 2 * FAULT_RECORDS) {'],
    ],
  },
  {
    file: 'packages/devices/src/worker/translation-writer.ts',
    suites,
    errors: [
      [
        'does not count a removal',
        'if (this.change(UNMAPPED, keys)) this.removed = this.tail',
        'this.change(UNMAPPED, keys)',
      ],
      [
        'does not count a change of what is reached as a removal',
        'this.removed = this.tail\n    this.settle()',
        'this.settle()',
      ],
      ['waits for a worker that is away', '|| Atomics.load(words, AWAY) !== 0', ''],
      [
        'waits for a worker that is gone',
        'if (shared === null || this.worker.gone()) return true',
        'if (shared === null) return true',
      ],
      ['forgets that a change found no room', 'if (this.dropped) return false', ''],
      [
        'tells a worker that is lost nothing more',
        'if (shared === null || worker.gone()) return false',
        'if (shared === null || worker.gone() || worker.lost()) return false',
      ],
      ['takes more refused accesses than there can be', 'let most = FAULT_RECORDS;', 'let most = 1e4;'],
    ],
  },
  {
    file: 'packages/devices/src/iommu/requests.ts',
    suites,
    errors: [
      ['answers UNMAP at once', 'if (!domain.settle()) return DEVERR', ''],
      [
        'answers DETACH at once',
        'if (!port.revokeCopy()) return DEVERR\n    this.leave(port, domain)',
        'this.leave(port, domain)',
      ],
      ['answers ATTACH at once', 'if (!port.revokeCopy()) return DEVERR\n    if (left', 'if (left'],
    ],
  },
]
