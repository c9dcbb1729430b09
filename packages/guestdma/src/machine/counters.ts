/** One device's figures, as plain data. */
export interface DeviceCounters {
  readonly scheme: string
  readonly driver: Readonly<Record<string, number>>
  readonly backend: Readonly<Record<string, number>>
  readonly queues: Readonly<Record<string, Readonly<Record<string, number>>>>
  /** How often the device was heard to interrupt, since the machine was made. */
  readonly interrupts: number
  /** Faults of the device's port and of its driver's requests, so far. */
  readonly faults: number
}

/** A whole machine's figures, as plain data. */
export interface MachineCounters {
  readonly devices: Readonly<Record<string, DeviceCounters>>
}
