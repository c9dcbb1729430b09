import { MMIO_QUEUE_NOTIFY, MMIO_STATUS, PCI_BARS, PCI_COMMON_DEVICE_STATUS } from '@guestdma/spec'
import { REGISTERS_BAR } from '../pci/options.ts'
import { DOORBELL_QUEUES } from './mailbox.ts'

/** The one space of a device on mmio. Over PCI a space is a BAR, or the configuration space. */
export const MMIO_SPACE = 0
export const CONFIG_SPACE: number = PCI_BARS

/** Which accesses are more than accesses to whoever asks: those to the device status and to doorbells. */
export interface RegisterLayout {
  readonly status: { readonly space: number; readonly offset: number; readonly size: number }
  readonly doorbells: DoorbellLayout
}

/** Where the doorbells of a device are. */
export interface DoorbellLayout {
  readonly space: number
  readonly offset: number
  /** Bytes from one queue's doorbell to the next; 0: one for all queues, and the lower half of its value says which. */
  readonly stride: number
}

export const MMIO_LAYOUT: RegisterLayout = {
  status: { space: MMIO_SPACE, offset: MMIO_STATUS, size: 4 },
  doorbells: { space: MMIO_SPACE, offset: MMIO_QUEUE_NOTIFY, stride: 0 },
}

/** Of a function whose doorbells begin at `offset` of its register BAR, `stride` bytes apart. */
export function pciLayout(offset: number, stride: number): RegisterLayout {
  return {
    status: { space: REGISTERS_BAR, offset: PCI_COMMON_DEVICE_STATUS, size: 1 },
    doorbells: { space: REGISTERS_BAR, offset, stride },
  }
}

/** The doorbell that a write is for, or -1: the write is an access like any other. */
export function doorbellOf(doorbells: DoorbellLayout, space: number, offset: number, value: number): number {
  const into = offset - doorbells.offset
  if (space !== doorbells.space || into < 0) return -1
  const { stride } = doorbells
  if (stride === 0) return into === 0 && (value & 0xffff) < DOORBELL_QUEUES ? value & 0xffff : -1
  return into % stride === 0 && into < DOORBELL_QUEUES * stride ? into / stride : -1
}
