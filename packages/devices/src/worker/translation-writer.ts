import type { AccessFault } from '../faults/access-fault.ts'
import { DeviceError } from '../faults/errors.ts'
import type { DoorbellSpan, Reach, TranslationCopy, TranslationSource } from '../ports/translation-copy.ts'
import {
  APPLIED,
  AWAY,
  CHANGE,
  CHANGES,
  FAULT,
  FAULT_RECORDS,
  FAULTS,
  FAULTS_LOST,
  FAULTS_TAKEN,
  MAPPED,
  newTranslations,
  PASSED,
  REACH,
  REACHES,
  REASONS,
  type SharedTranslations,
  TAIL,
  TOLD,
  translationsIn,
  UNMAPPED,
} from './translations.ts'
import { awaitWord, mayBlock } from './turns.ts'

/** What a {@link TranslationWriter} needs of its worker. */
export interface TranslationWorker {
  readonly name: string
  readonly deadlineMs: number
  /** Is it known to reach memory no more? */
  gone(): boolean
  /** Has it been given up? Then nobody waits for it any longer. */
  lost(): boolean
  /** Gives it up. */
  lose(error: DeviceError): void
  /** Wakes it where it sleeps. */
  wake(): void
}

/** The platform's side of a worker's translations: writes changes, and waits until the worker has passed them. */
export class TranslationWriter implements TranslationCopy {
  /** Refused accesses of which nothing but their number came through. */
  faultsLost = 0

  declare readonly doorbell: DoorbellSpan | null
  declare private readonly worker: TranslationWorker
  declare private readonly blocks: boolean
  private source: TranslationSource | null = null
  // Of the worker that runs now, once its device is there. One that has not begun has no translations.
  private shared: SharedTranslations | null = null
  // Changes so far, modulo 2^32, and how many of them there were when something was taken away last.
  private tail = 0
  private removed = 0
  // A change found no room, so that the worker will not know of it.
  private dropped = false

  constructor(worker: TranslationWorker, doorbell: DoorbellSpan | null = null) {
    this.worker = worker
    this.doorbell = doorbell
    this.blocks = mayBlock()
  }

  follow(source: TranslationSource): void {
    if (this.source !== null) {
      const message = 'its translations have an owner; start one worker per endpoint'
      throw new DeviceError('DEVICE_OPTION', this.worker.name, message)
    }
    this.source = source
    if (this.shared !== null) source.replay(this)
  }

  /** For the next worker: what it is sent, and what {@link begin} is given once its device is there. */
  prepare(): SharedArrayBuffer {
    this.takeFaults()
    this.shared = null
    return newTranslations()
  }

  /** A worker's device is there: it is told all that there is. */
  begin(memory: SharedArrayBuffer): void {
    this.shared = translationsIn(memory)
    this.tail = this.removed = 0
    this.dropped = false
    this.source?.replay(this)
  }

  reach(reach: Reach, granule: number): void {
    if (!this.room()) return
    const { changes } = this.shared as SharedTranslations
    const at = this.at()
    changes[at] = REACH
    changes[at + 1] = REACHES.indexOf(reach)
    changes[at + 2] = granule
    this.publish()
    this.removed = this.tail
    this.settle()
  }

  mapped(keys: Float64Array): void {
    this.change(MAPPED, keys)
  }

  unmapped(keys: Float64Array): void {
    if (this.change(UNMAPPED, keys)) this.removed = this.tail
  }

  get settled(): boolean {
    const { shared } = this
    if (shared === null || this.worker.gone()) return true
    if (this.dropped) return false
    const { words } = shared
    return ((Atomics.load(words, PASSED) - this.removed) | 0) >= 0 || Atomics.load(words, AWAY) !== 0
  }

  settle(): boolean {
    return this.settled || this.waitFor(PASSED, this.removed) || this.settled
  }

  /** Hands refused accesses to whoever decides on them. Called when the worker says that there are some. */
  takeFaults(): void {
    const { shared, source } = this
    if (shared === null) return
    const { faults, words } = shared
    Atomics.store(words, TOLD, 0)
    this.faultsLost += Atomics.exchange(words, FAULTS_LOST, 0)
    let taken = words[FAULTS_TAKEN]
    // No more than there is room for, whatever the word says.
    for (let most = FAULT_RECORDS; most > 0 && taken !== Atomics.load(words, FAULTS); most--) {
      const at = (taken & (FAULT_RECORDS - 1)) * FAULT
      const fault = faultAt(faults, at, this.worker.name)
      const report = faults[at + 5]
      taken = (taken + 1) | 0
      Atomics.store(words, FAULTS_TAKEN, taken)
      source?.refused(fault, report)
    }
  }

  private change(kind: typeof MAPPED | typeof UNMAPPED, keys: Float64Array): boolean {
    if (!this.room()) return false
    const { changes } = this.shared as SharedTranslations
    const at = this.at()
    changes[at] = kind
    for (let i = 0; i < CHANGE - 1; i++) changes[at + 1 + i] = keys[i]
    this.publish()
    return true
  }

  private at(): number {
    return (this.tail & (CHANGES - 1)) * CHANGE
  }

  private publish(): void {
    this.tail = (this.tail + 1) | 0
    Atomics.store((this.shared as SharedTranslations).words, TAIL, this.tail)
  }

  // Whether there is a worker to tell, and room for one more change. One that is gone is told all anew after a restart.
  private room(): boolean {
    const { shared, tail, worker } = this
    if (shared === null || worker.gone()) return false
    if (((tail - Atomics.load(shared.words, APPLIED)) | 0) < CHANGES) return true
    if (!worker.lost()) {
      worker.wake()
      if (this.waitFor(APPLIED, tail)) return true
    }
    this.dropped = true
    return false
  }

  // Waits until the worker wrote that number, or a later one. Where it does not, the worker is lost.
  private waitFor(index: number, number: number): boolean {
    const { blocks, shared, worker } = this
    const { deadlineMs, name } = worker
    if (worker.lost()) return false
    if (awaitWord((shared as SharedTranslations).words, index, number, deadlineMs, blocks)) return true
    const message = `the worker did not take over a change of its translations within ${deadlineMs} ms`
    worker.lose(new DeviceError('WORKER_DEADLINE', name, message, { deadlineMs }))
    return false
  }
}

// Of what the other thread wrote each word is loaded once.
function faultAt(faults: Int32Array, at: number, port: string): AccessFault {
  const high = faults[at] >>> 0
  const low = faults[at + 1] >>> 0
  const address = high * 2 ** 32 + low
  return {
    port,
    address: Number.isSafeInteger(address) ? address : { high, low },
    length: faults[at + 2] >>> 0,
    access: faults[at + 3] === 1 ? 1 : 2,
    reason: REASONS[faults[at + 4]] ?? 'unmapped',
  }
}
