// Linux in v86 with a disk and a network card that reach only their own memory, and an audit of what it tells them.
import { DeviceAudit } from '@guestdma/conformance'
import { BlkDevice, type DeviceFault, MemoryBlockStore, NetDevice, type VirtioDevice } from '@guestdma/devices'
import {
  guestFiles,
  type KernelName,
  type LinuxGuest,
  linuxGuest,
  PciHost,
  type PciHostState,
  PingResponder,
} from '@guestdma/example-v86-guest'
import { FeatureSet, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import { DeviceMemory } from './device-memory.ts'

/** How the devices tell of their memory: bit 27 demanded or only offered, or the capability alone. */
type Offer = 'required' | 'offered' | 'hint'

export interface Setting {
  readonly kernel: KernelName
  readonly offer: Offer
  /** Bytes of the memory of each device. */
  readonly bytes: number
  readonly disk: Uint8Array<ArrayBuffer>
  /** What is looked for in buffers that a device is to fill. */
  readonly secret?: string
  /** Functions of the guest's init. */
  readonly work: readonly string[]
  readonly onLine: (line: string) => void
}

/** What became of one device. */
export interface DeviceReport {
  readonly name: string
  readonly status: number
  readonly negotiated: readonly number[]
  /** Accesses that its port refused. */
  readonly refused: number
  readonly faults: readonly DeviceFault[]
  /** Rings, indirect tables and buffers that it was told of, and those of them that are outside of its memory. */
  readonly told: number
  readonly outside: number
  readonly indirect: number
  /** Copies of the secret in buffers that it was to fill. */
  readonly secrets: number
  /** What the guest loaded and stored in its memory. */
  readonly accesses: number
  readonly bytes: number
}

/** What v86 keeps, the functions, and the memory of their devices. */
export interface SavedGuest {
  readonly v86: ArrayBuffer
  readonly functions: PciHostState
  readonly memories: readonly Uint8Array[]
}

/** A guest and its two devices. */
export class ConfinedGuest {
  readonly guest: LinuxGuest
  readonly blk: BlkDevice
  readonly net: NetDevice
  readonly link = new PingResponder()
  private readonly host: PciHost
  private readonly parts: {
    readonly device: VirtioDevice
    readonly memory: DeviceMemory
    readonly audit: DeviceAudit
    readonly found: { secrets: number }
  }[] = []

  /** Loads the kernel, and lets it wait for `guest.run()`. */
  static async load(setting: Setting): Promise<ConfinedGuest> {
    const files = guestFiles(setting.kernel)
    return new ConfinedGuest(await linuxGuest(files, setting.work, setting.onLine), setting)
  }

  private constructor(guest: LinuxGuest, { offer, bytes, disk, secret }: Setting) {
    this.guest = guest
    const [diskMemory, netMemory] = ['disk', 'net'].map((name) => new DeviceMemory(name, bytes))
    const features = {
      offer: offer === 'hint' ? [] : [VIRTIO_F_SWIOTLB],
      requires: FeatureSet.of(...(offer === 'required' ? [VIRTIO_F_SWIOTLB] : [])),
    }
    const store = new MemoryBlockStore(disk)
    this.blk = new BlkDevice({ name: 'disk', port: diskMemory.port, store, segMax: 126, ...features })
    const mac = [2, 0, 0, 0, 5, 2]
    this.net = new NetDevice({ name: 'net', port: netMemory.port, link: this.link, mac, ...features })
    this.host = new PciHost(guest.cpu)
    this.put(13, this.blk, diskMemory, secret)
    this.put(14, this.net, netMemory, secret)
    this.host.beforePoll = () => {
      for (const { audit } of this.parts) audit.audit()
    }
  }

  /** Stops the guest. Its disk is not in what is saved. */
  async save(): Promise<SavedGuest> {
    return {
      v86: await this.guest.stopAndSave(),
      functions: await this.host.save(),
      memories: this.parts.map(({ memory }) => memory.bytes.slice()),
    }
  }

  /** Puts a guest that was loaded with the same setting, and not run, where another one was saved. */
  async restore({ v86, functions, memories }: SavedGuest): Promise<void> {
    await this.guest.restore(v86)
    this.parts.forEach(({ memory }, i) => {
      memory.bytes.set(memories[i])
    })
    this.host.restore(functions)
  }

  report(): DeviceReport[] {
    return this.parts.map(({ device, memory, audit, found }) => {
      const { loads, stores, bytesLoaded, bytesStored } = memory.meter.snapshot()
      const sum = (counts: object): number => Object.values(counts).reduce((a: number, b: number) => a + b, 0)
      return {
        name: device.name,
        status: device.status,
        negotiated: device.negotiated.bits(),
        refused: memory.port.faults.count,
        faults: device.faults.last(),
        told: audit.passed,
        outside: audit.outside,
        indirect: audit.indirect,
        secrets: found.secrets,
        accesses: sum(loads) + sum(stores),
        bytes: bytesLoaded + bytesStored,
      }
    })
  }

  private put(slot: number, device: VirtioDevice, memory: DeviceMemory, secret?: string): void {
    const pci = this.host.add(device, slot, {
      swiotlb: { window: memory.window },
      onWindows: () => memory.follow(pci),
    })
    const found = { secrets: 0 }
    const lookup = memory.lookup.bind(memory)
    const audit = new DeviceAudit(device, {
      get allowed() {
        return memory.spans
      },
      lookup,
      onBuffer: (address, length, writable) => {
        const window = writable && secret !== undefined ? lookup(address, length) : null
        if (window !== null && secret !== undefined)
          found.secrets += count(window.region.u8, window.offset, length, secret)
      },
    })
    this.parts.push({ device, memory, audit, found })
  }
}

function count(bytes: Uint8Array, from: number, length: number, text: string): number {
  const part = Buffer.from(bytes.buffer, bytes.byteOffset + from, length)
  let copies = 0
  for (let at = part.indexOf(text); at >= 0; at = part.indexOf(text, at + 1)) copies++
  return copies
}
