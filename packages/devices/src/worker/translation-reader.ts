import type { BusPort } from '@guestdma/memory'
import type { AccessFault } from '../faults/access-fault.ts'
import { DeviceError } from '../faults/errors.ts'
import { type IommuDeviceCounters, iommuCounters } from '../iommu/config.ts'
import { IommuDomain } from '../iommu/domain.ts'
import { doorbellRegions, type IommuOwner, IommuPort, NOT_REPORTED } from '../iommu/iommu-port.ts'
import { MappingPool } from '../iommu/mapping-pool.ts'
import type { DoorbellSpan, Reach } from '../ports/translation-copy.ts'
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

/**
 * The worker's side of its translations: the port of its device, which translates as an IOMMU's does, and the changes
 * that reach it.
 *
 * The port's epoch changes in {@link pass} and nowhere else, and that is called between two accesses of the device: what
 * was granted before is not used after it.
 */
export class TranslationReader implements IommuOwner {
  declare readonly name: string
  /** What the device reaches. */
  declare readonly port: IommuPort
  readonly counters: IommuDeviceCounters = iommuCounters()
  granule = 1

  declare private readonly shared: SharedTranslations
  declare private readonly tell: () => void
  private readonly pool = new MappingPool()
  private domain: IommuDomain | null = null
  private away = true
  private applied = 0
  private passed = 0
  // The report of the fault that is recorded next.
  private report = NOT_REPORTED

  /**
   * `downstream`: where translated addresses go. `tell` says to the other thread that there are refused accesses.
   * `doorbell`: where messages pass without translation.
   */
  constructor(
    name: string,
    memory: SharedArrayBuffer,
    downstream: BusPort,
    tell: () => void,
    doorbell: DoorbellSpan | null = null,
  ) {
    this.name = name
    this.shared = translationsIn(memory)
    this.tell = tell
    this.port = new IommuPort(0, { name, downstream, reserved: doorbellRegions(doorbell) }, this)
    this.port.faults.observer = (fault) => this.forward(fault)
  }

  /** The loop begins to run. */
  enter(): void {
    this.away = false
    Atomics.store(this.shared.words, AWAY, 0)
    this.pass()
  }

  /** The loop does not run until {@link enter}. */
  leave(): void {
    this.away = true
    // Whoever asks the port meanwhile comes to `begin`.
    this.port.forget()
    Atomics.store(this.shared.words, AWAY, 1)
    // Whoever changed something before it could see that waits for this.
    this.pass()
  }

  /**
   * For the port: a link or a store may begin accesses while the loop does not run, from a callback of theirs. They are
   * over when that callback is.
   */
  begin(): void {
    if (!this.away) return
    this.enter()
    queueMicrotask(() => this.leave())
  }

  /** Between two accesses: takes over all changes, and says so. */
  pass(): void {
    const { words } = this.shared
    const tail = Atomics.load(words, TAIL)
    if (tail === this.passed) return
    while (this.applied !== tail) this.apply()
    this.sayApplied()
    this.passed = tail
    Atomics.store(words, PASSED, tail)
    Atomics.notify(words, PASSED)
  }

  /**
   * In the middle of an access: takes over mappings that were added, up to the first change of another kind. Nothing that
   * was answered stands behind one, since its answer waits for {@link pass}.
   */
  catchUp(): boolean {
    const { changes, words } = this.shared
    const { applied } = this
    const tail = Atomics.load(words, TAIL)
    while (this.applied !== tail && changes[(this.applied & (CHANGES - 1)) * CHANGE] === MAPPED) this.apply()
    if (this.applied === applied) return false
    this.sayApplied()
    return true
  }

  /** For the port: what the fault that follows is to the driver of an IOMMU. */
  faulted(_endpoint: number, reason: number): void {
    this.report = reason
  }

  private sayApplied(): void {
    const { words } = this.shared
    Atomics.store(words, APPLIED, this.applied)
    Atomics.notify(words, APPLIED)
  }

  private apply(): void {
    const { changes } = this.shared
    const at = (this.applied & (CHANGES - 1)) * CHANGE
    this.applied = (this.applied + 1) | 0
    const kind = changes[at]
    if (kind === REACH) {
      this.reach(REACHES[changes[at + 1]], changes[at + 2])
      return
    }
    const { domain } = this
    const mappings = domain?.mappings ?? null
    // What comes while nothing is mapped, and what does not fit, is nobody's change.
    if (domain === null || mappings === null || (kind !== MAPPED && kind !== UNMAPPED)) throw this.nonsense(kind)
    const { keys } = mappings
    for (let i = 0; i < CHANGE - 1; i++) keys[i] = changes[at + 1 + i]
    if (kind === MAPPED) {
      if (!(keys[0] <= keys[1]) || !mappings.insert()) throw this.nonsense(kind)
      domain.mapped(keys)
    } else {
      if (mappings.remove() < 0) throw this.nonsense(kind)
      domain.unmapped(keys)
    }
  }

  private reach(reach: Reach | undefined, granule: number): void {
    this.domain?.mappings?.dispose()
    this.domain = null
    this.granule = granule
    if (reach === 'mapped') {
      this.domain = new IommuDomain(0, this.pool)
      this.domain.add(this.port)
    }
    this.port.assign(this.domain, reach === 'all')
  }

  private nonsense(kind: number): DeviceError {
    const message = `change ${this.applied} of its translations, of kind ${kind}, does not fit to those before`
    return new DeviceError('WORKER_FAILED', this.name, message, { kind })
  }

  private forward({ access, address, length, reason }: AccessFault): void {
    const { report } = this
    this.report = NOT_REPORTED
    const { faults, words } = this.shared
    const number = words[FAULTS]
    if (((number - Atomics.load(words, FAULTS_TAKEN)) | 0) >= FAULT_RECORDS) {
      Atomics.add(words, FAULTS_LOST, 1)
      return
    }
    const { high, low } =
      typeof address === 'number' ? { high: Math.floor(address / 2 ** 32), low: address % 2 ** 32 } : address
    faults.set([high, low, length, access, REASONS.indexOf(reason), report], (number & (FAULT_RECORDS - 1)) * FAULT)
    Atomics.store(words, FAULTS, (number + 1) | 0)
    if (Atomics.exchange(words, TOLD, 1) === 0) this.tell()
  }
}
