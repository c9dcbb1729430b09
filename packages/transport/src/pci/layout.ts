import { type DeviceAddress, deviceAddress, type RegisterBus } from '@guestdma/memory'
import {
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
  VIRTIO_PCI_CAP_SHARED_MEMORY_CFG,
  VIRTIO_PCI_CAP_SWIOTLB,
} from '@guestdma/spec'
import { TransportError } from '../contract/errors.ts'
import type { AddressSpan } from '../devicetree/devicetree.ts'
import type { PciAccess, PciBar } from './bars.ts'
import { type IgnoredCapability, misplaced, type PciCapabilities, type PciCapability } from './capabilities.ts'
import { MsixTable } from './msix.ts'
import { ConfigWindow, PciStructure } from './structure.ts'

/** Memory on the device for bounce buffers: SWIOTLB RFC 3/3. */
export interface SwiotlbRegion {
  readonly bar: number
  /** Bytes from the start of the BAR, a multiple of 4096. */
  readonly offset: number
  /** Bytes, a multiple of 4096. */
  readonly length: number
  /** Where it lies on the bus: where the BAR is assigned, plus `offset`. */
  readonly address: DeviceAddress
}

/** A shared memory region (virtio 1.4 §4.1.4.7); `offset` and `length` in bytes of the BAR. */
export interface SharedMemoryRegion {
  readonly id: number
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** Where everything is: which capability of each type is used (virtio 1.4 §4.1.4). */
export interface PciLayout {
  readonly common: PciStructure
  readonly notify: PciStructure
  /** notify_off_multiplier */
  readonly multiplier: number
  readonly isr: PciStructure
  readonly device: PciStructure | null
  readonly swiotlb: SwiotlbRegion | null
  readonly sharedMemory: readonly SharedMemoryRegion[]
  readonly msix: MsixTable | null
  readonly bars: readonly PciBar[]
  readonly ignored: readonly IgnoredCapability[]
}

/** The offset field of a PCI configuration access capability has 32 bits. */
const CONFIG_WINDOW_LIMIT = 2 ** 32

/**
 * Takes the first usable capability of each type, as virtio 1.4 §4.1.4.1 has it. Usable is one whose BAR the machine
 * maps; where there is none of a type, the first that the PCI configuration access capability reaches, which is slow.
 * `memory`: see `PciTransportOptions.swiotlbMemory`.
 *
 * @throws TransportError `TRANSPORT_PCI_CAPABILITY`: no common configuration, notifications or ISR status
 */
export function locate(
  access: PciAccess,
  name: string,
  capabilities: PciCapabilities,
  bars: readonly PciBar[],
  memory: AddressSpan | undefined,
): PciLayout {
  const ignored = [...capabilities.ignored]
  const ofType = (type: number): readonly PciCapability[] =>
    capabilities.virtio.filter((capability) => {
      if (capability.type !== type) return false
      const why = misplaced(capability, bars, memory)
      if (why !== null) ignored.push({ offset: capability.at, type, why })
      return why === null
    })

  // Any bar field is as good as another in it: the driver writes the one that it wants.
  const window = capabilities.virtio.find(({ type }) => type === VIRTIO_PCI_CAP_PCI_CFG)
  const mapped = new Map<number, RegisterBus | null>()
  for (const { index } of bars) mapped.set(index, access.bar(index))

  const find = (type: number): Found | null => {
    const unmapped: PciCapability[] = []
    let found: Found | null = null
    for (const capability of ofType(type)) {
      const bus = mapped.get(capability.bar) ?? null
      if (bus === null) unmapped.push(capability)
      else found ??= open(capability, bus)
    }
    if (found === null && window !== undefined) {
      const at = unmapped.findIndex(({ offset, length }) => offset + length <= CONFIG_WINDOW_LIMIT)
      const [capability] = at < 0 ? [] : unmapped.splice(at, 1)
      if (capability !== undefined) {
        found = open(capability, new ConfigWindow(access.config, window.at, capability.bar))
      }
    }
    for (const { at, bar } of unmapped) ignored.push({ offset: at, type, why: `BAR ${bar} is not mapped` })
    return found
  }
  const need = (type: number, what: string): Found => {
    const found = find(type)
    if (found !== null) return found
    const reasons = ignored.map(({ offset, why }) => `; capability at 0x${offset.toString(16)}: ${why}`).join('')
    throw new TransportError('TRANSPORT_PCI_CAPABILITY', name, `no usable capability names the ${what}${reasons}`, {
      missing: what,
      ignored,
    })
  }

  const common = need(VIRTIO_PCI_CAP_COMMON_CFG, 'common configuration')
  const notify = need(VIRTIO_PCI_CAP_NOTIFY_CFG, 'notification structure')
  const isr = need(VIRTIO_PCI_CAP_ISR_CFG, 'ISR status')
  const device = find(VIRTIO_PCI_CAP_DEVICE_CFG)
  const [swiotlb] = ofType(VIRTIO_PCI_CAP_SWIOTLB)
  return {
    common: common.structure,
    notify: notify.structure,
    multiplier: notify.capability.multiplier,
    isr: isr.structure,
    device: device === null ? null : device.structure,
    swiotlb: swiotlb === undefined ? null : swiotlbRegion(swiotlb, bars),
    sharedMemory: uniqueRegions(ofType(VIRTIO_PCI_CAP_SHARED_MEMORY_CFG), ignored),
    msix: capabilities.msix === null ? null : MsixTable.open(access, capabilities.msix, bars),
    bars,
    ignored,
  }
}

interface Found {
  readonly capability: PciCapability
  readonly structure: PciStructure
}

function open(capability: PciCapability, bus: RegisterBus): Found {
  return { capability, structure: new PciStructure(bus, capability.offset, capability.length) }
}

function swiotlbRegion({ bar, offset, length }: PciCapability, bars: readonly PciBar[]): SwiotlbRegion {
  const base = bars.find(({ index }) => index === bar)?.address ?? 0
  return { bar, offset, length, address: deviceAddress(base + offset) }
}

// cap.id is unique for a device (virtio 1.4 §4.1.4.7); the first of several wins.
function uniqueRegions(found: readonly PciCapability[], ignored: IgnoredCapability[]): SharedMemoryRegion[] {
  const regions: SharedMemoryRegion[] = []
  for (const { at, type, id, bar, offset, length } of found) {
    if (regions.some((region) => region.id === id))
      ignored.push({ offset: at, type, why: `shared memory ${id} is listed twice` })
    else regions.push({ id, bar, offset, length })
  }
  return regions
}
