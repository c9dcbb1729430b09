import type { RegisterBus } from '@guestdma/memory'
import {
  MMIO_CONFIG_GENERATION,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_RESET,
  MMIO_QUEUE_SEL,
  MMIO_QUEUE_SIZE_MAX,
  MMIO_STATUS,
  PCI_COMMON_CONFIG_GENERATION,
  PCI_COMMON_DEVICE_FEATURE,
  PCI_COMMON_DEVICE_FEATURE_SELECT,
  PCI_COMMON_DEVICE_STATUS,
  PCI_COMMON_DRIVER_FEATURE,
  PCI_COMMON_DRIVER_FEATURE_SELECT,
  PCI_COMMON_QUEUE_ENABLE,
  PCI_COMMON_QUEUE_RESET,
  PCI_COMMON_QUEUE_SELECT,
  PCI_COMMON_QUEUE_SIZE,
} from '@guestdma/spec'
import type { PciAccess } from '@guestdma/transport'
import { BAR4, COMMON, PciFunction } from './pci-function.ts'

type Size = 1 | 2 | 4

/** Fields of the common configuration: width, and the mmio register that means the same (virtio 1.4 §4.1.4.3). */
const FIELDS: ReadonlyMap<number, readonly [Size, number]> = new Map([
  [PCI_COMMON_DEVICE_FEATURE_SELECT, [4, MMIO_DEVICE_FEATURES_SEL]],
  [PCI_COMMON_DEVICE_FEATURE, [4, MMIO_DEVICE_FEATURES]],
  [PCI_COMMON_DRIVER_FEATURE_SELECT, [4, MMIO_DRIVER_FEATURES_SEL]],
  [PCI_COMMON_DRIVER_FEATURE, [4, MMIO_DRIVER_FEATURES]],
  [PCI_COMMON_DEVICE_STATUS, [1, MMIO_STATUS]],
  [PCI_COMMON_CONFIG_GENERATION, [1, MMIO_CONFIG_GENERATION]],
  [PCI_COMMON_QUEUE_SELECT, [2, MMIO_QUEUE_SEL]],
  [PCI_COMMON_QUEUE_SIZE, [2, MMIO_QUEUE_SIZE_MAX]],
  [PCI_COMMON_QUEUE_ENABLE, [2, MMIO_QUEUE_READY]],
  [PCI_COMMON_QUEUE_RESET, [2, MMIO_QUEUE_RESET]],
])

/**
 * A PCI function whose common configuration is a register file with mmio offsets, in which every access is then found.
 * Enough to negotiate with: it has neither doorbells nor a configuration. Answers wider than their field stay so.
 */
export function behindPci(registers: RegisterBus): PciAccess {
  const common: RegisterBus = {
    read: (offset, size) => registers.read(registerAt(offset, size), 4),
    write: (offset, size, value) => registers.write(registerAt(offset, size), 4, value),
  }
  return { config: new PciFunction().config, bar: (index) => (index === BAR4.index ? common : null) }
}

function registerAt(offset: number, size: Size): number {
  const field = FIELDS.get(offset - (COMMON.offset ?? 0))
  if (field === undefined || field[0] !== size) throw new Error(`${size} bytes at 0x${offset.toString(16)}`)
  return field[1]
}
