import { BlkDevice, type BusWindows, MemoryBlockStore, MmioRegisters, PciFunction } from '@guestdma/devices'
import { DirectBackend } from '@guestdma/dma'
import { BlkDriver, DeviceSession } from '@guestdma/drivers'
import { type BusPort, GuestMemory, guestAddress, Region, SpanAllocator } from '@guestdma/memory'
import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_SWIOTLB,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { assignBars, MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { BASE, pattern, ranges } from './machines.ts'

export const DISK_BYTES = 64 * 512

/** From before the RFC: one leaves bit 27 alone, one takes it for the legacy ANY_LAYOUT, as virtio-win does. */
export const OLD_DRIVERS = ['leaves 27 clear', 'accepts 27 as ANY_LAYOUT'] as const

export interface OldMachine {
  readonly memory: GuestMemory
  readonly device: BlkDevice
  readonly transport: VirtioTransport
  /** Writes that the driver made to the device's status. */
  readonly statuses: number[]
}

/** A disk whose device offers bit 27, behind registers; nobody has touched it yet. */
export function oldMachine(
  kind: 'mmio' | 'pci',
  required: boolean,
  port: (memory: GuestMemory) => BusPort,
): OldMachine {
  const memory = new GuestMemory(ranges(4 << 20))
  const swiotlb = FeatureSet.of(VIRTIO_F_SWIOTLB)
  const device = new BlkDevice({
    name: 'disk0',
    port: port(memory),
    store: new MemoryBlockStore(pattern(DISK_BYTES)),
    offer: swiotlb.bits(),
    requires: required ? swiotlb : FeatureSet.empty,
  })
  const statuses: number[] = []
  const real = device.writeStatus.bind(device)
  device.writeStatus = (value) => {
    statuses.push(value)
    return real(value)
  }
  const transport = kind === 'mmio' ? MmioTransport.probe(new MmioRegisters(device), 'disk0') : overPci(device)
  return { memory, device, transport: transport as VirtioTransport, statuses }
}

// The region is there, and an old driver ignores its capability: type 10 is reserved to it (virtio 1.4 §4.1.4).
function overPci(device: BlkDevice): VirtioTransport | null {
  const region = new Region(new ArrayBuffer(1 << 16), 'region')
  const pci = new PciFunction(device, { swiotlb: { window: { region, offset: 0, length: 1 << 16 } } })
  let low = 0xc000_0000
  assignBars(pci, ({ size, is64 }) => {
    if (is64) return 2 ** 40
    low += size
    return low - (low % size)
  })
  return PciTransport.probe(pci, 'disk0')
}

/**
 * The steps of virtio 1.4 §3.1.1 by hand, as such a driver takes them. Returns whether the device let it go on, and
 * sets FAILED where it did not.
 */
export function negotiateOld({ transport }: OldMachine, driver: (typeof OLD_DRIVERS)[number]): FeatureSet | null {
  transport.writeStatus(0)
  transport.writeStatus(STATUS_ACKNOWLEDGE)
  transport.writeStatus(STATUS_ACKNOWLEDGE | STATUS_DRIVER)
  const known = [VIRTIO_F_VERSION_1, ...(driver === OLD_DRIVERS[1] ? [VIRTIO_F_SWIOTLB] : [])]
  const features = transport.readFeatures().and(FeatureSet.of(...known))
  transport.writeFeatures(features)
  transport.writeStatus(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK)
  if ((transport.readStatus() & STATUS_FEATURES_OK) !== 0) return features
  transport.writeStatus(transport.readStatus() | STATUS_FAILED)
  return null
}

/** The rest of such a driver: rings and buffers at plain guest addresses. */
export function startOld({ memory, transport, device }: OldMachine, features: FeatureSet): BlkDriver {
  const ram = new SpanAllocator(guestAddress(BASE), 4 << 20)
  const session = new DeviceSession({
    transport,
    features,
    backend: new DirectBackend({ memory, ram }),
    memory,
    ram,
    wait: { pump: () => void device.poll(64) },
  })
  return new BlkDriver(session)
}

/** Lets device and driver work until a promise settles; says how it ended. */
export async function finish<T>(device: BlkDevice, driver: BlkDriver, promise: Promise<T>): Promise<T | string> {
  let ended: { readonly value: T | string } | null = null
  promise.then(
    (value) => {
      ended = { value }
    },
    (error: { code: string }) => {
      ended = { value: error.code }
    },
  )
  for (let turn = 0; turn < 1000; turn++) {
    device.poll(64)
    // There is no interrupt line here: the driver looks by itself.
    driver.interrupt()
    driver.poll(64)
    await Promise.resolve()
    if (ended !== null) return (ended as { readonly value: T | string }).value
  }
  return 'it hangs'
}

/** A port that counts what a device reaches outside of [base, base + length), and lets everything pass. */
export class ExposurePort implements BusPort {
  readonly request = new Float64Array(1)
  // It does not say what is around a grant, so that it is asked each time.
  readonly window = new Float64Array(4)
  /** Accesses and bytes that lay outside. */
  accesses = 0
  bytes = 0
  /** Bytes that lay inside. */
  inside = 0
  private readonly inner: BusWindows
  private readonly base: number
  private readonly end: number

  constructor(inner: BusWindows, base: number, length: number) {
    this.inner = inner
    this.base = base
    this.end = base + length
  }

  get epoch(): number {
    return this.inner.epoch
  }

  get region(): Region {
    return this.inner.region
  }

  get offset(): number {
    return this.inner.offset
  }

  get faults(): BusWindows['faults'] {
    return this.inner.faults
  }

  resolve(length: number, access: 1 | 2): number {
    const [address] = this.request
    this.inner.request[0] = address
    const granted = this.inner.resolve(length, access)
    const within = Math.max(0, Math.min(address + granted, this.end) - Math.max(address, this.base))
    const exposed = granted - within
    this.inside += within
    if (exposed > 0) this.accesses++
    this.bytes += exposed
    return granted
  }

  refresh(): void {
    this.inner.refresh()
  }
}
