import {
  INTERRUPT_CONFIGURATION,
  INTERRUPT_USED_BUFFER,
  PCI_CONFIG_SIZE,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
  VIRTIO_MSI_NO_VECTOR,
} from '@guestdma/spec'
import { StateCheck, U32 } from '../device/state-check.ts'
import type { VirtioDevice } from '../device/virtio-device.ts'
import type { PciCommon } from './common-config.ts'
import type { PciConfigSpace } from './configuration-space.ts'
import type { PciDeviceConfig } from './device-config.ts'
import { type PciMsix, tableValue } from './msix.ts'

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

/** Puts configuration space. Throws `DEVICE_STATE`, and then changes nothing. */
export function restorePciConfig(parts: PciParts, state: PciState): void {
  checkPci(parts, state)
  parts.space.bytes.set(state.config)
}

/** Puts everything but ISR status. Throws `DEVICE_STATE`, and then changes nothing. */
export function restorePci(parts: PciParts, state: PciState): void {
  restorePciConfig(parts, state)
  const { common, deviceConfig, msix } = parts
  ;[common.deviceFeatureSelect, common.driverFeatureSelect, common.queueSelect] = state.selectors
  common.driverFeatures.set(state.driverFeatures)
  ;[deviceConfig.generation, deviceConfig.seen] = state.generation
  state.msix.table.forEach((value, i) => {
    msix.table[i] = tableValue(4 * i, value)
  })
  msix.pending.set(state.msix.pending)
  msix.mapping.set(state.msix.mapping)
}

function checkPci({ device, space, common, msix }: PciParts, state: PciState): void {
  const check = new StateCheck(`${device.name} function`)
  check.format(state, 'guestdma-pci-1')
  const { config, isr, selectors, driverFeatures, generation, msix: saved } = state
  check.integers('config', config, PCI_CONFIG_SIZE, 2 ** 8)
  check.integer('isr', isr, (INTERRUPT_USED_BUFFER | INTERRUPT_CONFIGURATION) + 1)
  check.integers('selectors', selectors, 3, U32)
  check.integer('selectors[2]', selectors[2], 2 ** 16)
  check.integers('driverFeatures', driverFeatures, common.driverFeatures.length, U32)
  check.integers('generation', generation, 2, U32)
  check.integer('generation[0]', generation[0], 2 ** 8)
  check.object('msix', saved)
  check.integers('msix.table', saved.table, msix.table.length, U32)
  check.integers('msix.pending', saved.pending, msix.pending.length, U32)
  check.integers('msix.mapping', saved.mapping, msix.mapping.length, 2 ** 16)
  const vector = saved.mapping.find((to) => to >= msix.vectors && to !== VIRTIO_MSI_NO_VECTOR)
  if (vector !== undefined) check.wrong(`msix.mapping names vector ${vector} of ${msix.vectors}`, { vector })
  const beyond = saved.pending.findIndex(
    (bits, word) => bits >= 2 ** Math.max(0, Math.min(msix.vectors - 32 * word, 32)),
  )
  if (beyond >= 0) check.wrong(`msix.pending[${beyond}] names vectors beyond ${msix.vectors}`, { beyond })
  const { bytes, writable } = space
  // What software cannot write says how the function was made.
  const differs = config.findIndex((byte, at) => {
    const own = writable[at] | (at === PCI_STATUS ? PCI_STATUS_INTERRUPT : 0)
    return ((byte ^ bytes[at]) & ~own) !== 0
  })
  if (differs < 0) return
  const made = `config[${differs}] was saved from a function that was made with other options`
  check.wrong(`${made}; make this one with the same`, { differs })
}
