import { type AccessFault, BlkDevice, type DeviceFault, MemoryBlockStore } from '@guestdma/devices'
import { type DmaScheme, directScheme, platformScheme } from '@guestdma/dma'
import { type BusPort, deviceAddress, type ErrorRecord, GuestDmaError } from '@guestdma/memory'
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
  /** Whether FEATURES_OK stayed set when the driver had set it; `never asked` where the driver gave up before. */
  readonly featuresOk: 'set' | 'clear' | 'never asked'
  /** The names of the bits in the device's status, in the end. */
  readonly status: readonly string[]
  /** What the device and its port recorded. */
  readonly faults: readonly (AccessFault | DeviceFault)[]
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
    await attempt('The driver leaves bit 27 clear; the device requires it, since it reaches only its own region.', {
      schemes: [strict, oldScheme([])],
      dma: OLD,
      offer: [VIRTIO_F_SWIOTLB],
      requires: [VIRTIO_F_SWIOTLB],
    }),
    await attempt(
      'The driver takes bit 27 for ANY_LAYOUT of old; the device goes on, but reaches only its own region.',
      {
        schemes: [permissive, oldScheme([VIRTIO_F_SWIOTLB])],
        dma: OLD,
        offer: [VIRTIO_F_SWIOTLB],
      },
    ),
    await attempt(
      'A driver of today, and a device that withholds ACCESS_PLATFORM to be given all of RAM and not a pool.',
      {
        schemes: [openPlatform(), sharedPoolScheme({ size: POOL }), directScheme()],
        withhold: [VIRTIO_F_ACCESS_PLATFORM],
      },
    ),
  ]
}

const OLD = 'old'

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
    return () => platform.everything()
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
  const faults: (AccessFault | DeviceFault)[] = []
  const events = new MachineEvents()
  events.on('fault', ({ fault }) => faults.push(fault))
  let error: ErrorRecord | null = null
  let last: number | undefined
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
      // Closing resets the device.
      last = disks[0].status
    }
  } catch (thrown) {
    if (!(thrown instanceof GuestDmaError)) throw thrown
    error = thrown.toRecord()
  }
  const [{ asked, status }] = disks
  const featuresOk = asked === 0 ? 'never asked' : (asked & STATUS_FEATURES_OK) !== 0 ? 'set' : 'clear'
  return { title, featuresOk, status: statusNames(last ?? status), faults, error }
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
