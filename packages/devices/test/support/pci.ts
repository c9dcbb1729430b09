// The guest's side of virtio-pci by hand: finds the structures on the capability list and accesses them through BARs,
// as virtio 1.4 §4.1.4 describes it. Offsets are written out, so that they are compared with the device's constants.
import type { PciFunction } from '../../src/index.ts'
import { GuestDriver, type RingPlace } from './guest.ts'

/** Fields of the common configuration structure. */
export const COMMON = {
  deviceFeatureSelect: [0, 4],
  deviceFeature: [4, 4],
  driverFeatureSelect: [8, 4],
  driverFeature: [12, 4],
  configVector: [16, 2],
  numQueues: [18, 2],
  status: [20, 1],
  generation: [21, 1],
  queueSelect: [22, 2],
  queueSize: [24, 2],
  queueVector: [26, 2],
  queueEnable: [28, 2],
  notifyOff: [30, 2],
  descLow: [32, 4],
  descHigh: [36, 4],
  driverLow: [40, 4],
  driverHigh: [44, 4],
  deviceLow: [48, 4],
  deviceHigh: [52, 4],
  notifConfigData: [56, 2],
  queueReset: [58, 2],
  adminIndex: [60, 2],
  adminNum: [62, 2],
} as const satisfies Record<string, readonly [offset: number, size: 1 | 2 | 4]>

export type CommonField = keyof typeof COMMON

export interface FoundCapability {
  readonly at: number
  readonly id: number
  readonly type: number
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** A function, here or in a worker. */
export type Reached = Pick<PciFunction, 'config' | 'bar'>

/** The capability list, at most as long as the space can hold. */
export function capabilities({ config }: Reached): FoundCapability[] {
  const found: FoundCapability[] = []
  for (let at = config.read(0x34, 1); at !== 0 && found.length < 48; at = config.read(at + 1, 1)) {
    found.push({
      at,
      id: config.read(at, 1),
      type: config.read(at + 3, 1),
      bar: config.read(at + 4, 1),
      offset: config.read(at + 8, 4),
      length: at + 16 <= 256 ? config.read(at + 12, 4) : 0,
    })
  }
  return found
}

export const IO = 1
export const MEMORY = 2
export const MASTER = 4
export const INTX_DISABLE = 0x400

/** Brings a function up and drives its device with INTx. */
export class PciDriver<Function extends Reached = PciFunction> extends GuestDriver {
  readonly pci: Function
  private readonly structures: ReadonlyMap<number, FoundCapability>
  private readonly multiplier: number

  constructor(pci: Function, command = MEMORY | MASTER) {
    super()
    this.pci = pci
    // The first of each type is the one that the device prefers.
    const structures = new Map<number, FoundCapability>()
    for (const found of capabilities(pci)) {
      if (found.id === 9 && !structures.has(found.type)) structures.set(found.type, found)
    }
    this.structures = structures
    this.multiplier = pci.config.read(this.structure(2).at + 16, 4)
    this.command = command
  }

  structure(type: number): FoundCapability {
    const found = this.structures.get(type)
    if (found === undefined) throw new Error(`no capability of type ${type}`)
    return found
  }

  get command(): number {
    return this.pci.config.read(4, 2)
  }

  set command(value: number) {
    this.pci.config.write(4, 2, value)
  }

  read(type: number, offset: number, size: 1 | 2 | 4): number {
    const { bar, offset: base } = this.structure(type)
    return this.pci.bar(bar)?.read(base + offset, size) ?? -1
  }

  write(type: number, offset: number, size: 1 | 2 | 4, value: number): void {
    const { bar, offset: base } = this.structure(type)
    this.pci.bar(bar)?.write(base + offset, size, value)
  }

  get(field: CommonField): number {
    const [offset, size] = COMMON[field]
    return this.read(1, offset, size)
  }

  set(field: CommonField, value: number): void {
    const [offset, size] = COMMON[field]
    this.write(1, offset, size, value)
  }

  get status(): number {
    return this.get('status')
  }

  set status(value: number) {
    this.set('status', value)
  }

  deviceFeatures(word: number): number {
    this.set('deviceFeatureSelect', word)
    return this.get('deviceFeature')
  }

  driverFeatures(word: number, value: number): void {
    this.set('driverFeatureSelect', word)
    this.set('driverFeature', value)
  }

  setQueue(index: number, ring: RingPlace, size: number = ring.size): void {
    this.set('queueSelect', index)
    this.set('queueSize', size)
    this.setAddress('descLow', 'descHigh', ring.desc)
    this.setAddress('driverLow', 'driverHigh', ring.avail)
    this.setAddress('deviceLow', 'deviceHigh', ring.used)
  }

  enableQueue(index: number): void {
    this.set('queueSelect', index)
    this.set('queueEnable', 1)
  }

  queueReady(index: number): boolean {
    this.set('queueSelect', index)
    return this.get('queueEnable') === 1
  }

  resetQueue(index: number): void {
    this.set('queueSelect', index)
    this.set('queueReset', 1)
  }

  queueReset(index: number): boolean {
    this.set('queueSelect', index)
    return this.get('queueReset') === 1
  }

  kick(queue: number): void {
    this.set('queueSelect', queue)
    this.write(2, this.get('notifyOff') * this.multiplier, 2, queue)
  }

  config(offset: number, size: 1 | 2 | 4): number {
    return this.read(4, offset, size)
  }

  setConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.write(4, offset, size, value)
  }

  get generation(): number {
    return this.get('generation')
  }

  get interrupting(): boolean {
    return (this.pci.config.read(6, 2) & 8) !== 0
  }

  acknowledge(): number {
    return this.read(3, 0, 1)
  }

  private setAddress(low: CommonField, high: CommonField, address: number): void {
    this.set(low, address % 2 ** 32)
    this.set(high, Math.floor(address / 2 ** 32))
  }
}
