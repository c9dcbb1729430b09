import type { AccessFault, DeviceFault } from '@guestdma/devices'
import type { CandidateReport, IommuFault } from '@guestdma/dma'
import type { DriverWarning } from '@guestdma/drivers'
import { type GuestDmaError, observe } from '@guestdma/memory'
import { EventEmitter } from 'eventemitter3'

/** A DMA scheme was chosen for a device. */
export interface SchemeChosen {
  readonly device: string
  readonly scheme: string
  readonly why: string
  /** Every candidate and what became of it. */
  readonly ladder: readonly CandidateReport[]
}

/**
 * What a machine tells, by event name. None is called `error`.
 * - `scheme`: a scheme was chosen and why
 * - `fault`: a device asked its port for something it may not reach, or its driver broke a rule
 * - `iommuFault`: an IOMMU told its driver that it refused an access of a device
 * - `needsReset`: nothing goes on before `reset()`. It may name an IOMMU, which comes back with the reset of any device
 *   behind it, while each of those needs its own; with `IOMMU_EVENTS` only its fault reports have ended
 * - `warning`: a device says something that makes no sense and its driver goes on without it, or nothing will be received;
 *   or a device that was closed had to be cut off by its platform before all could be taken away from it (`DRIVER_CUT_OFF`)
 * - `link`: the link went up or down
 * - `drain`: there is room again after a `send` that took less than it was given
 * - `leak`: mappings that a closed device did not give back
 * - `quarantine`: so many bytes of guest RAM stay out of use, since nothing can keep the device from them; see
 *   `MachineDevice.quarantined` for those that go back later
 */
export interface MachineEventMap {
  scheme: [SchemeChosen]
  fault: [{ readonly device: string; readonly fault: AccessFault | DeviceFault }]
  iommuFault: [IommuFault]
  needsReset: [{ readonly device: string; readonly error: GuestDmaError }]
  warning: [{ readonly device: string; readonly warning: DriverWarning }]
  link: [{ readonly device: string; readonly up: boolean }]
  drain: [{ readonly device: string }]
  leak: [{ readonly device: string; readonly mappings: number }]
  quarantine: [{ readonly device: string; readonly bytes: number }]
}

/** A typed emitter. Make one and pass it to `createMachine` to hear of what happens while the machine is built. */
export class MachineEvents extends EventEmitter<MachineEventMap> {
  /** Emits an event; what a listener throws surfaces in a microtask and unwinds nobody. */
  tell<K extends keyof MachineEventMap>(name: K, event: MachineEventMap[K][0]): void {
    observe(() => this.emit(name, ...([event] as never)), undefined)
  }
}
