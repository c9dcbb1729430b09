import { type AccessFault, BlkDevice, type DeviceFault, MemoryBlockStore } from '@guestdma/devices'
import { type DmaScheme, directScheme, platformScheme } from '@guestdma/dma'
import { type BusPort, deviceAddress, type ErrorRecord, GuestDmaError, hex } from '@guestdma/memory'
import {
  FeatureSet,
  SECTOR_SIZE,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_SWIOTLB,
} from '@guestdma/spec'
import { createMachine, MachineEvents, onDeviceScheme, sharedPoolScheme } from 'guestdma'

/** What became of a driver and a device that do not agree. Plain data: it goes into the JSON file as it is. */
export interface Refusal {
  /** What was tried. */
  readonly title: string
  /** The names of the bits in the device's status: when its driver set FEATURES_OK, and in the end. */
  readonly afterFeatures: readonly string[]
  readonly inTheEnd: readonly string[]
  readonly featuresOk: boolean
  /** What the device and its port recorded, in words. */
  readonly faults: readonly string[]
  readonly error: ErrorRecord | null
}

const MEMORY = 4 << 20
const POOL = 1 << 20
const DISK_BYTES = 64 * SECTOR_SIZE

/** Drivers from before the SWIOTLB RFC, and a device that claims too little: none of them gets further than it may. */
export async function showRefusals(): Promise<Refusal[]> {
  const strict = onDeviceScheme({ size: POOL })
  const permissive = onDeviceScheme({ size: POOL, bit: 'offered' })
  return [
    await attempt('leaves bit 27 clear; the device reaches only its own region and requires the bit', {
      schemes: [strict, oldScheme([])],
      dma: OLD,
      offer: [VIRTIO_F_SWIOTLB],
      requires: [VIRTIO_F_SWIOTLB],
    }),
    await attempt('accepts bit 27 as the ANY_LAYOUT of old; the device goes on, and reaches only its own region', {
      schemes: [permissive, oldScheme([VIRTIO_F_SWIOTLB])],
      dma: OLD,
      offer: [VIRTIO_F_SWIOTLB],
    }),
    await attempt('of today; the platform has a pool, and the device withholds ACCESS_PLATFORM to get at all of RAM', {
      schemes: [openPlatform(), sharedPoolScheme({ size: POOL }), directScheme()],
      withhold: [VIRTIO_F_ACCESS_PLATFORM],
    }),
  ]
}

const OLD = 'guest addresses'

/** What a driver does that knows nothing of regions: it takes the bits that it knows, and passes guest addresses. */
function oldScheme(bits: readonly number[]): DmaScheme {
  const { provider, install } = directScheme()
  const accept = FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM, ...bits)
  const assess = (): { fit: 'usable'; accept: FeatureSet; why: string } => ({ fit: 'usable', accept, why: 'it is old' })
  return { id: OLD, provider: { ...provider, id: OLD, assess }, install }
}

/** A pool for the device, and a bus on which it would reach all of RAM if its driver let it. */
function openPlatform(): DmaScheme {
  return platformScheme('open', (platform) => {
    const { guest, window } = platform.reserve(POOL, 4096)
    platform.declarePool({ window, device: deviceAddress(guest), home: 'guest-ram' })
    platform.declareRam(true)
    return platform.everything()
  })
}

interface Setting {
  /** The platform's first. */
  readonly schemes: readonly DmaScheme[]
  readonly dma?: string
  readonly offer?: readonly number[]
  readonly requires?: readonly number[]
  readonly withhold?: readonly number[]
}

/** A disk that keeps what its status was when its driver asked for FEATURES_OK. */
class WatchedDisk extends BlkDevice {
  asked = 0

  override writeStatus(value: number): boolean {
    const asks = (value & STATUS_FEATURES_OK) !== 0 && (value & STATUS_DRIVER_OK) === 0
    const taken = super.writeStatus(value)
    if (asks) this.asked = this.status
    return taken
  }
}

async function attempt(title: string, { schemes, dma, offer, requires, withhold }: Setting): Promise<Refusal> {
  const disks: WatchedDisk[] = []
  const store = new MemoryBlockStore(new Uint8Array(DISK_BYTES))
  const make = (port: BusPort): WatchedDisk => {
    const bits = {
      ...(offer === undefined ? {} : { offer }),
      ...(withhold === undefined ? { accessPlatform: 'offered' as const } : { withhold }),
      ...(requires === undefined ? {} : { requires: FeatureSet.of(...requires) }),
    }
    disks.push(new WatchedDisk({ name: 'disk0', port, store, ...bits }))
    return disks[0]
  }
  const faults: string[] = []
  const events = new MachineEvents()
  events.on('fault', ({ fault }) => faults.push(inWords(fault)))
  let error: ErrorRecord | null = null
  let inTheEnd = 0
  try {
    await using machine = await createMachine({
      memory: [{ base: 0x8000_0000, length: MEMORY, memory: new ArrayBuffer(MEMORY) }],
      schemes,
      // The region of a device is found over PCI.
      transport: 'pci',
      events,
      devices: [{ type: 'blk', name: 'disk0', device: { store }, make, ...(dma === undefined ? {} : { dma }) }],
    })
    try {
      await machine.run(machine.blk('disk0').readBytes(0, SECTOR_SIZE))
    } finally {
      inTheEnd = disks[0].status
    }
  } catch (thrown) {
    if (!(thrown instanceof GuestDmaError)) throw thrown
    error = thrown.toRecord()
  }
  const [{ asked, status }] = disks
  return {
    title,
    afterFeatures: statusNames(asked),
    inTheEnd: statusNames(inTheEnd === 0 ? status : inTheEnd),
    featuresOk: (asked & STATUS_FEATURES_OK) !== 0,
    faults,
    error,
  }
}

const STATUS_NAMES: readonly (readonly [number, string])[] = [
  [STATUS_ACKNOWLEDGE, 'ACKNOWLEDGE'],
  [STATUS_DRIVER, 'DRIVER'],
  [STATUS_FEATURES_OK, 'FEATURES_OK'],
  [STATUS_DRIVER_OK, 'DRIVER_OK'],
  [STATUS_DEVICE_NEEDS_RESET, 'DEVICE_NEEDS_RESET'],
  [STATUS_FAILED, 'FAILED'],
]

function statusNames(status: number): string[] {
  return STATUS_NAMES.filter(([bit]) => (status & bit) !== 0).map(([, name]) => name)
}

function inWords(fault: AccessFault | DeviceFault): string {
  if ('port' in fault) {
    const { address, length, access, reason } = fault
    const at = typeof address === 'number' ? hex(address) : `${hex(address.high)} * 2^32 + ${hex(address.low)}`
    return `the port of ${fault.port} refused to ${access === 1 ? 'read' : 'write'} ${length} bytes at ${at}: ${reason}`
  }
  if (fault.kind === 'features') return `${fault.device} refused FEATURES_OK: ${fault.reason} ${fault.bits.join(', ')}`
  return `${fault.device} recorded ${fault.kind}: ${'reason' in fault ? fault.reason : ''}`
}
