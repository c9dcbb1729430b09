/** How many records a {@link FaultLog} keeps. */
export const FAULTS_KEPT = 16

/**
 * The last 16 faults and how many there were, with an optional observer. An observer that throws is re-thrown in a
 * microtask: it never unwinds the core that reported the fault.
 */
export class FaultLog<T> {
  count = 0
  observer: ((fault: T) => void) | null = null
  private readonly kept: T[] = []

  record(fault: T): void {
    this.kept[this.count % FAULTS_KEPT] = fault
    this.count++
    if (this.observer !== null) observe(this.observer, fault)
  }

  /** The kept faults, oldest first. */
  last(): T[] {
    const split = this.count > FAULTS_KEPT ? this.count % FAULTS_KEPT : 0
    return [...this.kept.slice(split), ...this.kept.slice(0, split)]
  }
}

/** Calls a plain observer; what it throws surfaces in a microtask and not here. */
export function observe<T>(observer: (value: T) => void, value: T): void {
  try {
    observer(value)
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}
