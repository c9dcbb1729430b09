import { withBackend } from '@guestdma/conformance'
import { MemoryBlockStore, type VirtioDevice } from '@guestdma/devices'
import type { DmaScheme } from '@guestdma/dma'
import { GuestMemory } from '@guestdma/memory'
import { VIRTIO_F_RING_PACKED } from '@guestdma/spec'
import { type BlkConfig, createMachine, type Machine, type NetConfig } from 'guestdma'
import { Random } from '../contract/random.ts'
import type { ExposureResult } from '../contract/result.ts'
import { Attacker } from './attacker.ts'
import { Campaign } from './campaign.ts'
import { Ledger, RecordingBackend } from './ledger.ts'
import { type AttackOptions, type AttackSetting, checkedSetting, QUEUE_SIZE } from './options.ts'
import { Places } from './places.ts'
import { Secrets } from './secrets.ts'
import {
  BUFFER_SETS,
  diskOf,
  type Leave,
  Receive,
  Requests,
  type Traffic,
  type TrafficContext,
  Transmit,
} from './traffic.ts'

const RAM_BASE = 0x8000_0000
const POOL_BYTES = 8 << 20
const MAC = [2, 0, 0, 0, 0, 1]
const ATTACKED = 'attacked'
const ANOTHER = 'another'

/**
 * Lets a hostile device work at its port while real drivers move real traffic over a scheme, and says what it reached
 * that it was not lent, on average over a virtual clock. The same options give the same result everywhere.
 *
 * `performance.now`, `Date.now`, `setTimeout` and `clearTimeout` go by the virtual clock while traffic runs; nothing
 * else of the thread runs meanwhile.
 *
 * @throws ExposureError `EXPOSURE_SCHEME`, `EXPOSURE_WORK`, `EXPOSURE_SETTING`, before anything is made; what
 *   `createMachine` throws
 */
export async function attack(options: AttackOptions): Promise<ExposureResult> {
  const setting = checkedSetting(options)
  const stage = new Stage(setting)
  const machine = await stage.machine(options.schemes[setting.backend]({ poolBytes: POOL_BYTES }))
  try {
    return stage.run(machine)
  } finally {
    stage.leave.given = true
    await machine.close()
    spare = stage.ram
  }
}

// The guest RAM of the last attack, for the next one: new memory takes longer than all the rest.
let spare: ArrayBuffer | null = null

function takeRam(bytes: number): ArrayBuffer {
  const ram = spare?.byteLength === bytes ? spare : new ArrayBuffer(bytes)
  spare = null
  return ram
}

/** A machine with the attacked device and another one beside it, and what is known of its memory. */
class Stage {
  readonly ram: ArrayBuffer
  readonly leave: Leave = { given: true }
  private readonly setting: AttackSetting
  // The same traffic for each scheme, whatever the attack on it draws.
  private readonly random: Random
  private readonly guesses: Random
  private readonly memory: GuestMemory
  private readonly secrets: Secrets
  private readonly places: Places
  private readonly ledgers = new Map<string, Ledger>()
  private beforeAttach = { readable: 0, writable: 0 }
  private receive: Receive | null = null

  constructor(setting: AttackSetting) {
    this.setting = setting
    this.random = new Random(setting.seed)
    this.guesses = new Random(~setting.seed)
    this.ram = takeRam(setting.ramBytes)
    this.secrets = new Secrets(new Uint8Array(this.ram), this.random)
    this.memory = new GuestMemory([{ base: RAM_BASE, length: setting.ramBytes, memory: this.ram }])
    this.places = new Places(this.memory)
  }

  machine(scheme: DmaScheme): Promise<Machine> {
    const { driver, mode, ring } = this.setting
    const common = {
      dma: scheme.id,
      mode: mode === 'map' ? 'map' : 'pool',
      queueSize: QUEUE_SIZE,
    } as const
    const offer = ring === 'packed' ? [VIRTIO_F_RING_PACKED] : []
    const card = { mac: MAC, offer, link: { transmit: ({ count }: { count: number }) => count } }
    const net = (name: string): NetConfig => ({
      ...common,
      type: 'net',
      name,
      device: card,
      observer: { frames: (batch) => name === ATTACKED && this.receive?.arrived(batch) },
    })
    const store = new MemoryBlockStore(diskOf(this.secrets))
    const disk: BlkConfig = {
      ...common,
      type: 'blk',
      name: ATTACKED,
      device: { store, queueSize: QUEUE_SIZE, offer },
    }
    return createMachine({
      memory: this.memory,
      // Memory on a device lies behind a BAR.
      transport: 'pci',
      schemes: [this.watched(scheme)],
      devices: [driver === 'net' ? net(ATTACKED) : disk, net(ANOTHER)],
    })
  }

  run(machine: Machine): ExposureResult {
    const { beforeAttach, guesses, random, secrets, setting } = this
    const { backend, bytes, driver, mode, operation, ramBytes, ring, size } = setting
    for (const name of [ATTACKED, ANOTHER]) makePatient(machine.device(name).model, this.leave)
    const ledger = this.ledger(ATTACKED)
    const other = this.ledger(ANOTHER)
    const attacker = new Attacker(ledger, [other], secrets, guesses, RAM_BASE)
    const context: TrafficContext = {
      machine,
      name: ATTACKED,
      ledger,
      secrets,
      random,
      leave: this.leave,
      owner: 'attacked',
      mode,
      bytes,
      size,
    }
    const traffic = this.traffic(context)
    const sent = Math.min(bytes, machine.net(ANOTHER).maxFrame)
    const neighbour = new Transmit({ ...context, name: ANOTHER, ledger: other, owner: 'another', bytes: sent })
    const campaign = new Campaign({
      machine,
      attacker,
      traffic,
      neighbour,
      random: guesses,
      leave: this.leave,
      perMillisecond: setting.perSecond / 1000,
    })
    const { batches, milliseconds, readable, taken, writable } = campaign.run(BUFFER_SETS, setting.seconds * 1000)
    const seconds = milliseconds / 1000
    const ringFill = (2 * taken) / batches / QUEUE_SIZE
    return {
      driver,
      operation,
      backend,
      mode,
      ring,
      bytes,
      setting: { ramBytes, perSecond: rounded(taken / seconds), ringFill, seconds: rounded(seconds) },
      readable,
      writable,
      beforeAttach,
      probes: { ...attacker.prober.counts },
    }
  }

  private traffic(context: TrafficContext): Traffic {
    const { operation } = this.setting
    if (operation === 'transmit') return new Transmit(context)
    if (operation !== 'receive') return new Requests(context, operation)
    this.receive = new Receive(context)
    return this.receive
  }

  // The same scheme; ports and backends that it makes are seen.
  private watched(scheme: DmaScheme): DmaScheme {
    return {
      ...withBackend(scheme, (backend, { device }) => new RecordingBackend(backend, this.ledger(device))),
      install: (platform) => {
        const make = scheme.install(platform)
        return () => {
          const port = make()
          this.ledgers.set(platform.device, new Ledger(this.places, port))
          if (platform.device === ATTACKED) this.lookBefore()
          return port
        }
      },
    }
  }

  // No driver has taken hold of the device yet, and all that it reaches of the guest is foreign.
  private lookBefore(): void {
    const { guesses, secrets } = this
    const { readable, writable } = new Attacker(this.ledger(ATTACKED), [], secrets, guesses, RAM_BASE).look()
    this.beforeAttach = { readable: readable.foreign, writable: writable.foreign }
  }

  private ledger(device: string): Ledger {
    const ledger = this.ledgers.get(device)
    if (ledger === undefined) throw new Error(`no port was made for ${device}`)
    return ledger
  }
}

// The device works when it is told to, whoever polls it.
function makePatient(device: VirtioDevice, leave: Leave): void {
  const poll = device.poll.bind(device)
  device.poll = (budget) => (leave.given ? poll(budget) : 0)
}

// Sums of fractions are a little off.
function rounded(value: number): number {
  return Number(value.toPrecision(9))
}
