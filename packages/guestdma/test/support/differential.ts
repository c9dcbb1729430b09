import { setImmediate as turn } from 'node:timers/promises'
import { BlkDevice, type DeviceOptions, NetDevice, type NetLink, type VirtioDevice } from '@guestdma/devices'
import type { VirtioDriver } from '@guestdma/drivers'
import { type BusPort, GuestMemory } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import {
  createMachine,
  type DeviceConfig,
  LearningSwitch,
  LoopbackLink,
  type Machine,
  MachineEvents,
  Wire,
} from 'guestdma'
import { DiskTraffic } from './differential-disks.ts'
import { blankDisk, type Outcome, streams } from './differential-model.ts'
import { NetTraffic } from './differential-nets.ts'
import { type Choice, ringFeatures } from './differential-pairs.ts'
import { RecordingPort } from './differential-port.ts'
import { Recorder } from './differential-recorder.ts'
import type { Variant } from './differential-schemes.ts'
import {
  ARENA_BYTES,
  DISKS,
  type DiskName,
  digest,
  JUMBO_MTU,
  macOf,
  NETS,
  type NetName,
  type QueueResetStep,
  type Script,
  type Step,
} from './differential-script.ts'
import { GrowingStore, LateStore } from './differential-store.ts'
import { random } from './workload.ts'

export const TRANSPORTS = ['mmio', 'pci'] as const
export const MODES = ['map', 'pool'] as const

export interface Run {
  readonly script: Script
  /** One for all devices, or several that they take turns with. */
  readonly variants: readonly Variant[]
  readonly transport: 'mmio' | 'pci'
  readonly mode: 'map' | 'pool'
  readonly choice: Choice
}

/** What a run left behind, and what was seen on the way. */
export interface Finished {
  readonly outcome: Outcome
  /** Everything that is not as it should be; empty. */
  readonly wrong: readonly string[]
  readonly recorder: Recorder
  readonly resent: number
  readonly retries: number
  readonly blocked: number
  readonly queueResets: number
  readonly suspensions: number
}

const RAM_BASE = 0x8000_0000
const RAM_BYTES = 64 << 20
const FIFO = { frames: 24, frameBytes: JUMBO_MTU + 14 }
const STUCK_MS = 3000
const LAZY_MS = 10
// What an earlier run left behind is as good as any other content.
const fixed = new ArrayBuffer(RAM_BYTES)
const growing = new WebAssembly.Memory({ initial: RAM_BYTES >>> 16, maximum: 65_536 })

/** Runs a script over one machine. */
export async function run(setup: Run): Promise<Finished> {
  return new Differential(setup).run()
}

class Differential {
  private readonly setup: Run
  private readonly recorder: Recorder
  private readonly nets: NetTraffic
  private readonly below: (limit: number) => number
  private readonly memory: GuestMemory
  private readonly wrong: string[] = []
  private readonly disk0: GrowingStore
  private readonly disk1: LateStore
  private readonly devices: VirtioDevice[] = []
  private callbacks = 0
  private iommuFaults = 0
  private queueResets = 0
  private suspensions = 0
  private asleep: readonly (NetName | DiskName)[] = []

  constructor(setup: Run) {
    const next = random(setup.script.seed ^ 0x5eed)
    this.setup = setup
    this.recorder = new Recorder((name) => this.variantOf(name))
    this.nets = new NetTraffic(setup.script, setup.mode)
    this.below = (limit) => next() % limit
    const memory = setup.script.grows ? growing : fixed
    this.memory = new GuestMemory([{ base: RAM_BASE, length: RAM_BYTES, memory }])
    this.disk0 = new GrowingStore(blankDisk('disk0'), () => this.maybeGrow())
    this.disk1 = new LateStore(blankDisk('disk1'), this.below)
  }

  async run(): Promise<Finished> {
    const { recorder, nets, wrong, setup } = this
    const made = await this.create()
    this.checkFeatures()
    const live = made.ram.live
    const arena = made.ram.allocate(ARENA_BYTES, 4096)
    const disks = new DiskTraffic(made, arena, (disk) => this.look(disk))
    nets.start(made, arena)
    const arenas: string[] = []
    made.pump()
    for (const round of setup.script.rounds) {
      this.memory.write(arena, round.arena)
      for (const step of round.steps) await this.step(made, disks, step)
      await this.resume(made)
      if (!(await this.settle(made, disks))) break
      arenas.push(digest(this.memory.read(arena, ARENA_BYTES)))
    }
    if (setup.variants.some(({ staleEntries }) => staleEntries !== undefined)) {
      await new Promise((resolve) => setTimeout(resolve, LAZY_MS + 1))
      made.pump()
    }
    for (const reach of recorder.devices.values()) reach.checkAllRevoked()
    made.ram.release(arena)
    if (made.ram.live !== live) wrong.push(`${made.ram.live} spans of RAM are in use; before the script ${live} were`)
    this.checkFaults(made)
    await made.close()
    this.checkEnd(made)
    return {
      outcome: {
        received: Object.fromEntries(streams(setup.script).map((name) => [name, nets.received[name] ?? []])),
        requests: disks.results,
        arenas,
        disks: [digest(this.disk0.bytes), digest(this.disk1.inner.bytes)],
      },
      wrong: [...wrong, ...nets.errors, ...recorder.violations],
      recorder,
      resent: nets.resent,
      retries: disks.retries,
      blocked: nets.blocked,
      queueResets: this.queueResets,
      suspensions: this.suspensions,
    }
  }

  private create(): Promise<Machine> {
    const { variants, transport, mode, script } = this.setup
    const schemes = variants.map((variant) => this.recorder.wrap(variant.make()))
    const events = new MachineEvents()
    events.on('fault', ({ device, fault }) => {
      if (this.recorder.device(device).probing) return
      this.wrong.push(`fault of ${device}: ${JSON.stringify(fault)}`)
    })
    events.on('iommuFault', () => this.iommuFaults++)
    events.on('needsReset', ({ device, error }) => this.wrong.push(`${device} needs a reset: ${error.message}`))
    events.on('leak', ({ device, mappings }) => this.wrong.push(`${device} leaks ${mappings} mappings`))
    const common = { transport, mode, queueSize: script.queueSize }
    const configs = [...this.netConfigs(common), ...this.diskConfigs(common)]
    return createMachine({
      memory: this.memory,
      schemes,
      events,
      devices: configs.map((config, i): DeviceConfig => {
        const { id } = schemes[i % schemes.length]
        return { ...config, platform: id, dma: id }
      }),
    })
  }

  private variantOf(device: string): Variant {
    const { variants } = this.setup
    return variants[[...NETS, ...DISKS].indexOf(device as NetName | DiskName) % variants.length]
  }

  private netConfigs(common: object): DeviceConfig[] {
    const { network } = this.setup.script
    const wire = new Wire(FIFO)
    const hub = new LearningSwitch({ ports: NETS.length, dropWhenFull: false, ...FIFO })
    const links: NetLink[] = network === 'wire' ? [wire.a, wire.b, new LoopbackLink(FIFO)] : [...hub.ports]
    return NETS.map((name, i): DeviceConfig => {
      const device = { mac: macOf(name), link: links[i], ...(name === 'third' ? {} : { mtu: JUMBO_MTU }) }
      return {
        ...common,
        type: 'net',
        name,
        device,
        make: (port) => this.keep(new NetDevice({ ...device, ...this.deviceOptions(name, port) })),
        observer: {
          frames: (batch) => {
            this.look(name)
            this.nets.frames(name, batch)
          },
          sent: (tokens, count) => {
            this.look(name)
            this.nets.sent(name, tokens, count)
          },
        },
      }
    })
  }

  private diskConfigs(common: object): DeviceConfig[] {
    return DISKS.map((name): DeviceConfig => {
      const device = {
        store: name === 'disk0' ? this.disk0 : this.disk1,
        id: `${name} of the differential`.slice(0, 20),
        // Longer transfers are cut.
        ...(name === 'disk1' ? { sizeMax: 24_576, maxInFlight: 8 } : {}),
      }
      return {
        ...common,
        type: 'blk',
        name,
        device,
        make: (port) => this.keep(new BlkDevice({ ...device, ...this.deviceOptions(name, port) })),
      }
    })
  }

  private deviceOptions(name: NetName | DiskName, port: BusPort): DeviceOptions {
    const { choice } = this.setup
    const variant = this.variantOf(name)
    const swiotlb = variant.swiotlb === undefined ? [] : [VIRTIO_F_SWIOTLB]
    const features = ringFeatures(choice)
    return {
      name,
      port: new RecordingPort(port, this.recorder.device(name), !choice.asking),
      accessPlatform: 'offered',
      offer: [...swiotlb, ...features.flatMap(([bit, wanted]) => (wanted ? [bit] : []))],
      inOrderBatches: choice.inOrder === 'batches',
      withhold: features.flatMap(([bit, wanted]) => (wanted ? [] : [bit])),
      requires: variant.swiotlb === 'required' ? FeatureSet.of(...swiotlb) : FeatureSet.empty,
    }
  }

  private keep<T extends VirtioDevice>(device: T): T {
    this.devices.push(device)
    return device
  }

  // What was chosen is what was agreed on.
  private checkFeatures(): void {
    const { choice, transport } = this.setup
    for (const device of this.devices) {
      for (const [bit, chosen] of ringFeatures(choice)) {
        const wanted = chosen && !(bit === VIRTIO_F_NOTIF_CONFIG_DATA && transport === 'mmio')
        if (device.negotiated.has(bit) !== wanted)
          this.wrong.push(`${device.name}: bit ${bit}, which was ${wanted ? '' : 'not '}wanted`)
      }
    }
  }

  // A memory that grows takes all views of it away.
  private maybeGrow(): void {
    if (this.setup.script.grows && this.below(5) === 0 && growing.buffer.byteLength < 2 ** 31) growing.grow(1)
  }

  // In a completion callback: the device turns hostile for a moment.
  private look(name: NetName | DiskName): void {
    this.maybeGrow()
    const reach = this.recorder.device(name)
    reach.checkRevoked(this.memory)
    if (this.callbacks++ % 4 === 0) reach.probe(this.below, this.memory)
  }

  private async step(made: Machine, disks: DiskTraffic, step: Step): Promise<void> {
    this.maybeGrow()
    if (step.kind === 'suspend') return this.suspend(made, step.names)
    if (step.kind === 'send') this.nets.add(step.frames)
    else if (step.kind === 'blk') disks.add(step.ops)
    else if (step.kind === 'pump') {
      made.pump(step.budget)
      this.disk1.answer(this.below(4))
      await turn()
    } else if (step.kind === 'reset') {
      // What a link holds for a suspended device is lost with its reset.
      await this.resume(made, isNet)
      await Promise.all(step.names.map((name) => made.reset(name)))
      for (const name of step.names) if (isNet(name)) this.nets.wasReset(name)
    } else if (this.setup.choice.ringReset) {
      await this.resetQueues(made, step)
    }
    await this.resume(made)
    disks.submit()
    for (const name of NETS) this.nets.push(name)
  }

  private async resetQueues(made: Machine, { names, which }: QueueResetStep): Promise<void> {
    const awake = names.filter((name) => !this.asleep.includes(name))
    this.queueResets += awake.length
    const changes = awake.map((name) => {
      if (!isNet(name)) return made.blk(name).resetQueue()
      if (which === 'transmit') this.nets.willBeReset(name)
      return made.net(name).resetQueue(which)
    })
    await this.untilDone(made, changes)
  }

  private async suspend(made: Machine, names: readonly (NetName | DiskName)[]): Promise<void> {
    await this.resume(made)
    if (!this.setup.choice.suspend) return
    this.suspensions += names.length
    const changes = names.map((name) => driverOf(made, name).suspend())
    await this.untilDone(made, changes)
    this.asleep = names
  }

  // A reset has ended the suspension as well.
  private async resume(made: Machine, which: (name: NetName | DiskName) => boolean = () => true): Promise<void> {
    const drivers = this.asleep.filter(which).map((name) => driverOf(made, name))
    this.asleep = this.asleep.filter((name) => !which(name))
    const changes = drivers.filter(({ session }) => session.suspended).map((driver) => driver.resume())
    if (changes.length > 0) await this.untilDone(made, changes)
  }

  // A store has to answer all that it was given before its queue is reset, or its device suspended. In the end no frame is
  // under way to a driver that took nothing meanwhile.
  private async untilDone(made: Machine, changes: readonly Promise<void>[]): Promise<void> {
    let done = false
    const ended = Promise.all(changes).finally(() => {
      done = true
    })
    while (!done) {
      this.disk1.answer(this.disk1.waiting)
      made.pump()
      await Promise.race([ended, turn()])
    }
    await ended
    made.pump()
  }

  // Goes on until all that was asked for is done. False: nothing moves any more.
  private async settle(made: Machine, disks: DiskTraffic): Promise<boolean> {
    let moved = performance.now()
    while (!this.nets.idle || !disks.idle || this.disk1.waiting > 0) {
      const work = made.pump() + this.disk1.waiting
      this.disk1.answer(1 + this.below(6))
      await turn()
      disks.submit()
      for (const name of NETS) this.nets.push(name)
      if (work > 0) moved = performance.now()
      else if (performance.now() - moved > STUCK_MS) {
        this.wrong.push('nothing moves any more, and not all is done')
        return false
      }
    }
    made.pump()
    return true
  }

  private checkFaults(made: Machine): void {
    const { recorder, wrong } = this
    for (const [name, { faults, scheme }] of Object.entries(made.counters().devices)) {
      const { refused } = recorder.device(name)
      if (this.variantOf(name).make().id !== scheme) wrong.push(`${name} runs on ${scheme}`)
      // A second stage of a test's own is no part of the platform, and its faults are nobody's.
      if (faults !== refused) wrong.push(`${name} has ${faults} faults; ${refused} attempts of the test were refused`)
    }
    const refused = recorder.total((reach) => reach.refused)
    if (this.iommuFaults > refused) wrong.push(`${this.iommuFaults} faults of an IOMMU; ${refused} were asked for`)
    for (const [name, reach] of recorder.devices) if (!reach.live) wrong.push(`${name} has no backend of its own`)
  }

  // All of it was closed: nothing is mapped, lent or allocated.
  private checkEnd(made: Machine): void {
    const { recorder, wrong } = this
    if (made.ram.live !== 0) wrong.push(`${made.ram.live} spans of RAM are still in use`)
    for (const [name, reach] of recorder.devices) {
      for (const books of reach.unbalanced) wrong.push(`${name}: ${books}`)
      if (reach.live) wrong.push(`${name} has a backend after the end`)
      if (reach.maps !== reach.unmaps) wrong.push(`${name}: ${reach.maps} maps, ${reach.unmaps} unmaps`)
    }
    for (const { name, counters } of recorder.iommus)
      if (counters.mappings !== 0 || counters.domains !== 0)
        wrong.push(`${name}: ${counters.mappings} mappings in ${counters.domains} domains are left`)
    for (const { name, shared } of recorder.pages) if (shared !== 0) wrong.push(`${name}: ${shared} pages are shared`)
  }
}

function isNet(name: NetName | DiskName): name is NetName {
  return (NETS as readonly string[]).includes(name)
}

function driverOf(made: Machine, name: NetName | DiskName): VirtioDriver {
  return isNet(name) ? made.net(name) : made.blk(name)
}
