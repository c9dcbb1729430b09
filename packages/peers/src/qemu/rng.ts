import { DMA_OK } from '@guestdma/dma'
import { type DeviceBrokenError, type DeviceSession, VirtioDriver, type WaitingOptions } from '@guestdma/drivers'
import { type GuestAddress, guestAddress } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import { type DriverKind, MachineEvents, type RemoteConfig } from 'guestdma'
import type { PeerCase } from '../matrix/case.ts'
import { expectInside } from '../work/audit.ts'
import { expectIs } from '../work/workloads.ts'
import { machineOf, type Setting, withQemu } from './site.ts'

/** virtio 1.4 §5.4 */
const DEVICE_ID_ENTROPY = 4
const QUEUE_SIZE = 8

/** The entropy device's driver (virtio 1.4 §5.4): a type that guestdma does not have. One request at a time. */
class RngDriver extends VirtioDriver {
  readonly counters = { requests: 0, bytes: 0 }
  private readonly queue: ReturnType<DeviceSession['openQueue']>
  private waiting: { since: number; resolve(bytes: number): void; reject(error: Error): void } | null = null

  constructor(session: DeviceSession, options: WaitingOptions) {
    super(session, DEVICE_ID_ENTROPY, options)
    this.queue = session.openQueue({ index: 0, label: 'requests', size: QUEUE_SIZE })
    session.start()
  }

  /** Fills guest memory. Resolves to how many bytes the device says it wrote. */
  fill(address: GuestAddress, length: number): Promise<number> {
    const { segments } = this.queue
    segments.kind[0] = 0
    segments.address[0] = address
    segments.length[0] = length
    const id = this.queue.add(0, 1)
    const status = id < 0 ? id : this.queue.publish()
    if (status < DMA_OK) return Promise.reject(new Error(`a request was not taken: status ${status}`))
    this.counters.requests++
    const filled = new Promise<number>((resolve, reject) => {
      this.waiting = { since: this.now(), resolve, reject }
    })
    this.watch()
    return filled
  }

  protected work(budget: number): number {
    const done = this.queue.reap(budget)
    if (done === 0) return 0
    const [written] = this.queue.completed.written
    this.queue.recycle()
    this.counters.bytes += written
    this.waiting?.resolve(written)
    this.waiting = null
    return done
  }

  protected arm(): boolean {
    return this.queue.arm()
  }

  protected configurationChanged(): void {}

  protected onBroken(error: DeviceBrokenError): void {
    this.waiting?.reject(error)
    this.waiting = null
  }

  protected unansweredSince(): number {
    return this.waiting?.since ?? Number.POSITIVE_INFINITY
  }
}

const entropy: DriverKind<RngDriver> = {
  name: 'entropy',
  deviceId: DEVICE_ID_ENTROPY,
  features: FeatureSet.empty,
  make: (session, options) => new RngDriver(session, options),
}

/** Random bytes arrive where they were asked for, and nowhere else. */
export function rngRun(setting: Setting, slot: number): PeerCase['run'] {
  const iommu = setting.iommu === true ? ',iommu_platform=on' : ''
  const args = ['-object', 'rng-random,id=r0,filename=/dev/urandom', '-device']
  const device = `virtio-rng-pci,rng=r0,addr=${slot},disable-legacy=on${iommu}`
  return (progress) =>
    withQemu(setting, [...args, device], progress, async (site) => {
      const more: Partial<RemoteConfig> = { type: entropy }
      const machine = await machineOf(site, setting, [{ name: 'disk', more }], new MachineEvents())
      const driver = machine.device('disk').driver as RngDriver
      const [page, bytes] = [4096, 1000]
      const buffer = guestAddress(machine.ram.allocate(page, page))
      const seen = new Set<string>()
      for (let round = 0; round < 32; round++) {
        progress.saw(`round ${round}`)
        machine.memory.write(buffer, new Uint8Array(page))
        const written = await machine.run(driver.fill(guestAddress(buffer + 8), bytes))
        expectIs('that something was written, and no more than was asked for', written > 0 && written <= bytes, true)
        const found = machine.memory.read(buffer, page)
        const outside = [...found.subarray(0, 8), ...found.subarray(8 + written)].filter((byte) => byte !== 0)
        expectIs('bytes outside of what was written', outside, [])
        seen.add(found.subarray(8, 24).join())
      }
      expectIs('different answers', seen.size, 32)
      machine.ram.release(buffer)
      // What was asked for is counted as for any device.
      expectIs('requests in the counters', machine.counters().devices.disk.driver.requests, 32)
      expectInside(site.audits, 32)
      await machine.close()
      expectIs('guest RAM in use', machine.ram.allocated, 0)
    })
}
