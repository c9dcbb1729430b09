import {
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  PCI_COMMON_CONFIG_MSIX_VECTOR,
  PCI_COMMON_DEVICE_STATUS,
  PCI_COMMON_NUM_QUEUES,
  PCI_COMMON_QUEUE_MSIX_VECTOR,
} from '@guestdma/spec'
import { TransportError } from '../contract/errors.ts'
import type { MessageRoutes, MsixTable } from './msix.ts'
import type { PciStructure } from './structure.ts'

const CONFIGURATION_VECTOR = 0
const FIRST_QUEUE_VECTOR = 1

/** How one device over PCI interrupts: INTx with the ISR status (virtio 1.4 §4.1.4.5), or messages (§4.1.5.1.2). */
export class PciInterrupts {
  private readonly device: string
  private readonly common: PciStructure
  private readonly isr: PciStructure
  private readonly msix: MsixTable | null
  /** Vectors that were programmed; 0: INTx. */
  private vectors = 0
  private arrived = 0
  private configurationMapped = false

  constructor(device: string, common: PciStructure, isr: PciStructure, msix: MsixTable | null) {
    this.device = device
    this.common = common
    this.isr = isr
    this.msix = msix
  }

  /** See `PciTransport.useMessages`. */
  useMessages(routes: MessageRoutes): boolean {
    const { msix } = this
    if (msix === null || msix.entries <= FIRST_QUEUE_VECTOR) return false
    const queues = Math.max(1, this.common.read(PCI_COMMON_NUM_QUEUES, 2))
    const vectors = Math.min(msix.entries, FIRST_QUEUE_VECTOR + queues)
    msix.enable(vectors, routes)
    this.configurationMapped = this.map(PCI_COMMON_CONFIG_MSIX_VECTOR, CONFIGURATION_VECTOR)
    if (!this.configurationMapped) msix.disable()
    this.vectors = this.configurationMapped ? vectors : 0
    this.arrived = 0
    return this.configurationMapped
  }

  /** A reset unmaps every event; the table keeps its entries. */
  forget(): void {
    this.configurationMapped = false
    this.arrived = 0
  }

  /** Throws `TRANSPORT_MSIX_VECTOR`. */
  mapConfiguration(): void {
    if (this.vectors === 0 || this.configurationMapped) return
    this.configurationMapped = this.map(PCI_COMMON_CONFIG_MSIX_VECTOR, CONFIGURATION_VECTOR)
    if (!this.configurationMapped) throw this.error('the configuration', CONFIGURATION_VECTOR)
  }

  /**
   * Maps the selected queue, which is `index`. A device short of resources is asked again for the first of the queues'
   * vectors (virtio 1.4 §4.1.5.1.2.2). Throws `TRANSPORT_MSIX_VECTOR`.
   */
  mapQueue(index: number): void {
    if (this.vectors === 0) return
    const vector = FIRST_QUEUE_VECTOR + (index % (this.vectors - FIRST_QUEUE_VECTOR))
    if (this.map(PCI_COMMON_QUEUE_MSIX_VECTOR, vector)) return
    if (vector !== FIRST_QUEUE_VECTOR && this.map(PCI_COMMON_QUEUE_MSIX_VECTOR, FIRST_QUEUE_VECTOR)) return
    throw this.error(`queue ${index}`, vector)
  }

  /** See `PciTransport.messageArrived`. */
  messageArrived(vector: number): void {
    if (vector < 0 || vector >= this.vectors) return
    this.arrived |= vector === CONFIGURATION_VECTOR ? INTERRUPT_CONFIGURATION : INTERRUPT_USED_BUFFER
  }

  /** See `PciTransport.takeInterrupts`. */
  take(): number {
    if (this.vectors === 0) return this.isr.read(0, 1) & (INTERRUPT_USED_BUFFER | INTERRUPT_CONFIGURATION)
    const { arrived } = this
    this.arrived = 0
    // Who was woken by no message was woken by something rarer: this throws where the function is gone.
    if (arrived === 0) this.common.read(PCI_COMMON_DEVICE_STATUS, 1)
    return arrived
  }

  // What is read back differs, and should be NO_VECTOR, where the device could not.
  private map(register: number, vector: number): boolean {
    this.common.write(register, 2, vector)
    return this.common.read(register, 2) === vector
  }

  private error(what: string, vector: number): TransportError {
    const text = `the device could not map ${what} to message ${vector}`
    return new TransportError('TRANSPORT_MSIX_VECTOR', this.device, text, { vector })
  }
}
