import { PCI_CONFIG_SIZE, PCI_STATUS, PCI_STATUS_INTERRUPT } from '@guestdma/spec'
import { DeviceError } from './errors.ts'
import type { PciCommon } from './pci-common.ts'
import type { PciConfigSpace } from './pci-config-space.ts'
import type { PciDeviceConfig } from './pci-device-config.ts'
import { type PciMsix, tableValue } from './pci-msix.ts'
import type { VirtioDevice } from './virtio-device.ts'

/** A function's own state as plain data, beside `DeviceState`: it survives JSON and `structuredClone`. */
export interface PciState {
  readonly format: 'guestdma-pci-1'
  /** The 256 bytes of configuration space. */
  readonly config: readonly number[]
  readonly isr: number
  readonly selectors: readonly [deviceFeatures: number, driverFeatures: number, queue: number]
  /** What the driver wrote to driver_feature. */
  readonly driverFeatures: readonly number[]
  /** config_generation as the driver sees it, and the device's when its configuration was last read. */
  readonly generation: readonly [shown: number, seen: number]
  /** Words of the table and of the pending bits, and the vector of each queue and of configuration changes. */
  readonly msix: {
    readonly table: readonly number[]
    readonly pending: readonly number[]
    readonly mapping: readonly number[]
  }
}

/** What of a function has state. */
export interface PciParts {
  readonly device: VirtioDevice
  readonly space: PciConfigSpace
  readonly common: PciCommon
  readonly deviceConfig: PciDeviceConfig
  readonly msix: PciMsix
}

export function savePci({ space, common, deviceConfig, msix }: PciParts, isr: number): PciState {
  return {
    format: 'guestdma-pci-1',
    config: [...space.bytes],
    isr,
    selectors: [common.deviceFeatureSelect, common.driverFeatureSelect, common.queueSelect],
    driverFeatures: [...common.driverFeatures],
    generation: [deviceConfig.generation, deviceConfig.seen],
    msix: { table: [...msix.table], pending: [...msix.pending], mapping: [...msix.mapping] },
  }
}

/** Puts everything but ISR status. Throws `DEVICE_STATE`, and then changes nothing. */
export function restorePci({ device, space, common, deviceConfig, msix }: PciParts, state: PciState): void {
  const part = `${device.name} function`
  if (state.format !== 'guestdma-pci-1') {
    const message = `format ${String(state.format)} is not guestdma-pci-1`
    throw new DeviceError('DEVICE_STATE', part, message, { format: state.format })
  }
  const { config, driverFeatures } = state
  const { bytes, writable } = space
  const sizes = [
    [config.length, PCI_CONFIG_SIZE],
    [driverFeatures.length, common.driverFeatures.length],
    [state.msix.table.length, msix.table.length],
    [state.msix.pending.length, msix.pending.length],
    [state.msix.mapping.length, msix.mapping.length],
  ]
  // What software cannot write says how the function was made.
  const differs = config.findIndex((byte, at) => {
    const own = writable[at] | (at === PCI_STATUS ? PCI_STATUS_INTERRUPT : 0)
    return ((byte ^ bytes[at]) & ~own) !== 0
  })
  if (sizes.some(([saved, own]) => saved !== own) || differs >= 0) {
    const message = 'was saved from a function that was made with other options; make this one with the same'
    throw new DeviceError('DEVICE_STATE', part, message, { sizes, differs })
  }
  bytes.set(config)
  common.deviceFeatureSelect = state.selectors[0]
  common.driverFeatureSelect = state.selectors[1]
  common.queueSelect = state.selectors[2]
  common.driverFeatures.set(driverFeatures)
  deviceConfig.generation = state.generation[0]
  deviceConfig.seen = state.generation[1]
  state.msix.table.forEach((value, i) => {
    msix.table[i] = tableValue(4 * i, value)
  })
  msix.pending.set(state.msix.pending)
  state.msix.mapping.forEach((vector, event) => {
    msix.map(event, vector)
  })
}
