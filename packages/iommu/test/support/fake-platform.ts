import type {
  FactKey,
  IommuFault,
  IommuRequest,
  PlatformBuilder,
  PlatformOffer,
  PoolFact,
  SharedPages,
} from '@guestdma/dma'
import { type BusPort, type DeviceAddress, Region } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import type { HandOptions } from './hand-iommu.ts'
import { type DriverRig, driverRig } from './iommu-rig.ts'

export function port(): BusPort {
  return {
    epoch: 0,
    request: new Float64Array(1),
    resolve: () => 0,
    region: new Region(new ArrayBuffer(8), 'nothing'),
    offset: 0,
    window: new Float64Array(4),
    refresh: () => undefined,
  }
}

/** Pages that are shared, by guest address. The port itself reaches nothing. */
export class FakePages implements SharedPages {
  readonly epoch = 0
  readonly request: Float64Array = new Float64Array(1)
  readonly region = new Region(new ArrayBuffer(8), 'nothing')
  readonly offset = 0
  readonly window: Float64Array = new Float64Array(4)
  readonly pages: Float64Array = new Float64Array(2)
  readonly pageBytes: number
  readonly shared = new Set<number>()
  readonly calls: string[] = []
  /** Does the device let go of what is taken back? */
  settles = true

  constructor(pageBytes = 4096) {
    this.pageBytes = pageBytes
  }

  resolve(): number {
    return 0
  }

  refresh(): void {}

  share(): void {
    const [guest, length] = this.pages
    this.calls.push(`share ${guest} ${length}`)
    for (let at = guest; at < guest + length; at += this.pageBytes) this.shared.add(at)
  }

  unshare(): void {
    const [guest, length] = this.pages
    this.calls.push(`unshare ${guest} ${length}`)
    for (let at = guest; at < guest + length; at += this.pageBytes) this.shared.delete(at)
  }

  clear(): void {
    this.calls.push('clear')
    this.shared.clear()
  }

  settle(): boolean {
    return this.settles
  }
}

export interface Declared {
  ram?: boolean
  pool?: PoolFact
  readonly facts: Map<FactKey<unknown>, unknown>
}

/** One device's place in a machine that has one hand-made IOMMU. It keeps what schemes ask for and declare. */
export class FakePlatform {
  readonly rig: DriverRig
  readonly asked: IommuRequest[] = []
  readonly prepared: (() => Promise<void>)[] = []
  readonly pumps: (() => number)[] = []
  readonly closes: (() => Promise<void>)[] = []
  readonly faults: IommuFault[] = []
  readonly pages: FakePages
  readonly iommuPort = port()
  readonly windowPort = port()
  private readonly values = new Map<FactKey<unknown>, unknown>()

  constructor(options: HandOptions & { pageBytes?: number } = {}) {
    this.rig = driverRig(options)
    this.pages = new FakePages(options.pageBytes)
  }

  builder(device: string, endpoint: number): PlatformBuilder & { readonly declared: Declared } {
    const { rig, values } = this
    const { memory, ram } = rig
    const declared: Declared = { facts: new Map() }
    const nowhere = (): never => {
      throw new Error('a scheme of this package does not ask for that')
    }
    return {
      declared,
      device,
      transport: 'mmio',
      memory,
      ram,
      hooks: {
        prepare: (start) => void this.prepared.push(start),
        onPump: (poll) => void this.pumps.push(poll),
        onClose: (close) => void this.closes.push(close),
        report: (fault) => void this.faults.push(fault),
      },
      reserve: (length, align) => {
        const guest = ram.allocate(length, align)
        return { guest, window: memory.window(guest, length) }
      },
      deviceMemory: nowhere,
      shared: <T>(key: FactKey<T>, make: () => T): T => {
        if (!values.has(key)) values.set(key, make())
        return values.get(key) as T
      },
      everything: nowhere,
      window: () => this.windowPort,
      nothing: nowhere,
      iommu: (request) => {
        this.asked.push(request)
        const pool = request.ownPool === undefined ? undefined : this.ownPool(request.ownPool)
        return {
          name: 'iommu',
          port: this.iommuPort,
          endpoint,
          registers: rig.device,
          ownPool: pool,
          pump: () => rig.device.pump(),
        }
      },
      sharedPages: () => this.pages,
      declareRam: (reachable) => {
        declared.ram = reachable
      },
      declarePool: (pool) => {
        declared.pool = pool
      },
      declareSwiotlb: nowhere,
      declareIommu: nowhere,
      declareFact: <T>(key: FactKey<T>, value: T) => void declared.facts.set(key, value),
    }
  }

  pump(): number {
    return this.pumps.reduce((sum, turn) => sum + turn(), 0)
  }

  private ownPool(length: number): PoolFact {
    const guest = this.rig.ram.allocate(length, 4096)
    return {
      window: this.rig.memory.window(guest, length),
      device: guest as number as DeviceAddress,
      home: 'guest-ram',
    }
  }
}

/** What a driver is offered behind an IOMMU, with what a test changes about it. */
export function offer(
  platform: FakePlatform,
  { declared, device }: { readonly declared: Declared; readonly device: string },
  changes: Partial<PlatformOffer> & { readonly accessPlatform?: boolean } = {},
): PlatformOffer {
  const { accessPlatform = true, ...rest } = changes
  const { memory, ram } = platform.rig
  return {
    device,
    offered: FeatureSet.of(VIRTIO_F_VERSION_1, ...(accessPlatform ? [VIRTIO_F_ACCESS_PLATFORM] : [])),
    transport: { kind: 'mmio', transitional: false },
    ramReachable: declared.ram ?? true,
    iommu: { bypass: false },
    pool: declared.pool,
    region: undefined,
    swiotlbRfc: false,
    busOffset: 0,
    memory,
    ram,
    mayBlock: true,
    enforcedBy: 'trusted-code',
    listed: new Set(),
    fact: <T>(key: FactKey<T>) => declared.facts.get(key) as T | undefined,
    ...rest,
  }
}
