import type { RegisterBus } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import type { PciAccess } from '@guestdma/transport'

export interface FakeBar {
  readonly index: number
  readonly kind?: 'memory' | 'io'
  readonly size: number
  readonly is64?: boolean
  readonly prefetchable?: boolean
  readonly address?: number
  /** Does the machine map it? Default true. */
  readonly mapped?: boolean
}

export interface FakeCap {
  /** Default 9, vendor-specific. */
  readonly id?: number
  readonly type: number
  readonly bar?: number
  readonly instance?: number
  readonly offset?: number
  readonly length?: number
  /** cap_len; default what the fields here take. */
  readonly bytes?: number
  /** Words after the 16 bytes: multiplier, pci_cfg_data, high halves. */
  readonly extra?: readonly number[]
}

export interface PciLog {
  /** `config`, or the BAR. */
  readonly where: 'config' | number
  readonly kind: 'r' | 'w'
  readonly offset: number
  readonly size: number
  readonly value: number
}

export const COMMON: FakeCap = { type: 1, bar: 4, offset: 0, length: 0x40 }
export const ISR: FakeCap = { type: 3, bar: 4, offset: 0x1000, length: 1 }
export const DEVICE: FakeCap = { type: 4, bar: 4, offset: 0x2000, length: 0x40 }
export const NOTIFY: FakeCap = { type: 2, bar: 4, offset: 0x3000, length: 0x100, extra: [4] }
export const WINDOW: FakeCap = { type: 5, bar: 0, offset: 0, length: 0, extra: [0] }
export const PLAIN: readonly FakeCap[] = [COMMON, NOTIFY, ISR, DEVICE]
export const BAR4: FakeBar = { index: 4, size: 0x4000, is64: true, prefetchable: true, address: 0xc000_0000 }
const MSIX_BAR: FakeBar = { index: 1, size: 0x1000, address: 0xd000_0000 }
const MSIX_AT = 0xf0

interface FakeQueue {
  size: number
  enable: number
  vector: number
  notifyOff: number
  reset: number
  readonly area: Uint32Array
}

export interface FakeOptions {
  readonly vendor?: number
  readonly device?: number
  readonly subsystem?: number
  readonly header?: number
  readonly bars?: readonly FakeBar[]
  readonly caps?: readonly FakeCap[]
  /** Entries of an MSI-X table in BAR 1; 0: no such capability. */
  readonly msix?: number
  readonly queues?: number
}

/**
 * A PCI function that does as it is told: a configuration space whose BARs and command have the writable bits that they
 * should have, and the registers of a device where COMMON, ISR and DEVICE say. Remembers every access.
 */
export class PciFunction implements PciAccess {
  readonly log: PciLog[] = []
  readonly space = new Uint8Array(256)
  readonly deviceConfig = new Uint8Array(0x40)
  readonly table = new Uint32Array(2048 * 4)
  readonly config: RegisterBus
  /** Answers of common configuration registers that differ from a proper device's, by offset. */
  readonly scripted = new Map<number, (proper: number) => number>()
  offered: FeatureSet = FeatureSet.of(32)
  readonly accepted = [0, 0, 0, 0]
  status = 0
  isr = 0
  configVector = 0xffff
  readonly queues: FakeQueue[] = []
  /** Vectors that the device has resources for. */
  vectors = 0x800
  resets = 0

  private readonly writable = new Uint8Array(256)
  private readonly bars: readonly FakeBar[]
  private window = -1
  private deviceSelect = 0
  private driverSelect = 0
  private queueSelect = 0

  constructor(options: FakeOptions = {}) {
    const { vendor = 0x1af4, device = 0x1041, bars = [BAR4], caps = PLAIN, msix = 0, queues = 2 } = options
    this.bars = msix > 0 ? [...bars, MSIX_BAR] : bars
    this.put(0x00, 2, vendor)
    this.put(0x02, 2, device)
    this.put(0x04, 2, 0x0003)
    this.put(0x06, 2, 0x0010)
    this.put(0x0e, 1, options.header ?? 0)
    this.put(0x2e, 2, options.subsystem ?? 0)
    this.writable.fill(0xff, 0x04, 0x06)
    for (const bar of this.bars) this.putBar(bar)
    this.putCaps(caps, msix)
    for (let i = 0; i < queues; i++) this.queues.push(freshQueue(i))
    this.config = {
      read: (offset, size) => this.note('config', 'r', offset, size, this.readConfig(offset, size)),
      write: (offset, size, value) => {
        this.note('config', 'w', offset, size, value)
        this.writeConfig(offset, size, value)
      },
    }
  }

  bar(index: number): RegisterBus | null {
    const bar = this.bars.find((candidate) => candidate.index === index)
    if (bar === undefined || bar.mapped === false) return null
    return {
      read: (offset, size) => this.note(index, 'r', offset, size, this.readBar(index, offset, size)),
      write: (offset, size, value) => {
        this.note(index, 'w', offset, size, value)
        this.writeBar(index, offset, size, value)
      },
    }
  }

  put(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) this.space[offset + i] = Math.floor(value / 256 ** i)
  }

  get(offset: number, size: number): number {
    let value = 0
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.space[offset + i]
    return value
  }

  /** Values that were written to an offset of a BAR. */
  writes(bar: number, offset: number): number[] {
    return this.log.filter((a) => a.where === bar && a.kind === 'w' && a.offset === offset).map(({ value }) => value)
  }

  /** Accesses to a BAR: `r14/1`, `w16/2=1`. */
  short(bar: number): string[] {
    return this.log
      .filter(({ where }) => where === bar)
      .map(({ kind, offset, size, value }) => {
        return `${kind}${offset.toString(16)}/${size}${kind === 'w' ? `=${value.toString(16)}` : ''}`
      })
  }

  private note(where: 'config' | number, kind: 'r' | 'w', offset: number, size: number, value: number): number {
    const end = where === 'config' ? 256 : (this.bars.find(({ index }) => index === where)?.size ?? 0)
    if (offset < 0 || offset + size > end || offset % size !== 0) {
      throw new Error(`${kind} of ${size} bytes at ${offset} of ${where}: outside, or not aligned`)
    }
    if (kind === 'w' && !(value >= 0 && value < 256 ** size)) throw new Error(`${value} is not ${size} bytes`)
    this.log.push({ where, kind, offset, size, value })
    return value
  }

  private putBar({ index, kind, size, is64, prefetchable, address = 0 }: FakeBar): void {
    const at = 0x10 + 4 * index
    const bytes = is64 ? 8 : 4
    const mask = 2n ** BigInt(8 * bytes) - BigInt(size)
    const value = BigInt(address)
    for (let i = 0; i < bytes; i++) {
      this.writable[at + i] = Number((mask >> BigInt(8 * i)) & 0xffn)
      this.space[at + i] = Number((value >> BigInt(8 * i)) & 0xffn)
    }
    this.space[at] |= kind === 'io' ? 1 : (is64 ? 4 : 0) | (prefetchable ? 8 : 0)
  }

  private putCaps(caps: readonly FakeCap[], msix: number): void {
    let link = 0x34
    let at = 0x40
    for (const cap of caps) {
      const { id = 9, extra = [] } = cap
      this.put(link, 1, at)
      this.put(at, 1, id)
      this.put(at + 2, 1, cap.bytes ?? 16 + 4 * extra.length)
      this.put(at + 3, 1, cap.type)
      this.put(at + 4, 1, cap.bar ?? 0)
      this.put(at + 5, 1, cap.instance ?? 0)
      this.put(at + 8, 4, cap.offset ?? 0)
      this.put(at + 12, 4, cap.length ?? 0)
      for (const [i, word] of extra.entries()) this.put(at + 16 + 4 * i, 4, word)
      if (cap.type === 5) {
        this.window = at
        this.writable.fill(0xff, at + 4, at + 5)
        this.writable.fill(0xff, at + 8, at + 20)
      }
      link = at + 1
      at += 16 + 4 * extra.length
    }
    if (msix === 0) return
    this.put(link, 1, MSIX_AT)
    this.put(MSIX_AT, 1, 0x11)
    this.put(MSIX_AT + 2, 2, msix - 1)
    this.put(MSIX_AT + 4, 4, MSIX_BAR.index)
    this.writable[MSIX_AT + 3] = 0xc0
    for (let i = 0; i < msix; i++) this.table[4 * i + 3] = 0xabc0_0001
  }

  /** MSI-X control */
  get msixControl(): number {
    return this.get(MSIX_AT + 2, 2)
  }

  private readConfig(offset: number, size: 1 | 2 | 4): number {
    if (this.window >= 0 && offset === this.window + 16) {
      const width = this.get(this.window + 12, 4) as 1 | 2 | 4
      this.put(offset, width, this.readBar(this.get(this.window + 4, 1), this.get(this.window + 8, 4), width))
    }
    return this.get(offset, size)
  }

  private writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < size; i++) {
      const mask = this.writable[offset + i]
      const byte = Math.floor(value / 256 ** i) & mask
      this.space[offset + i] = (this.space[offset + i] & ~mask) | byte
    }
    if (this.window >= 0 && offset === this.window + 16) {
      const width = this.get(this.window + 12, 4) as 1 | 2 | 4
      this.writeBar(this.get(this.window + 4, 1), this.get(this.window + 8, 4), width, this.get(offset, width))
    }
  }

  private readBar(bar: number, offset: number, size: 1 | 2 | 4): number {
    if (bar === MSIX_BAR.index) return this.table[offset / 4]
    if (offset < 0x40) return this.scripted.get(offset)?.(this.readCommon(offset)) ?? this.readCommon(offset)
    if (offset === 0x1000) {
      const { isr } = this
      this.isr = 0
      return isr
    }
    const view = new DataView(this.deviceConfig.buffer)
    const at = offset - 0x2000
    if (at < 0 || at >= 0x40) return 0
    return size === 1 ? view.getUint8(at) : size === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
  }

  private writeBar(bar: number, offset: number, size: 1 | 2 | 4, value: number): void {
    if (bar === MSIX_BAR.index) this.table[offset / 4] = value
    else if (offset < 0x40) this.writeCommon(offset, value)
    else if (offset >= 0x2000 && offset < 0x2040) {
      for (let i = 0; i < size; i++) this.deviceConfig[offset - 0x2000 + i] = value >>> (8 * i)
    }
  }

  private readCommon(offset: number): number {
    const queue = this.queues[this.queueSelect]
    if (offset === 0x04) return this.offered.word(this.deviceSelect)
    if (offset === 0x0c) return this.accepted[this.driverSelect] ?? 0
    if (offset === 0x10) return this.configVector
    if (offset === 0x12) return this.queues.length
    if (offset === 0x14) return this.status
    if (offset === 0x18) return queue?.size ?? 0
    if (offset === 0x1a) return queue?.vector ?? 0xffff
    if (offset === 0x1c) return queue?.enable ?? 0
    if (offset === 0x1e) return queue?.notifyOff ?? 0
    // Not the index, so that a driver which takes it for that is noticed.
    if (offset === 0x38) return queue === undefined ? 0 : 0x1230 + this.queueSelect
    if (offset === 0x3a) return queue?.reset ?? 0
    return 0
  }

  private writeCommon(offset: number, value: number): void {
    const queue = this.queues[this.queueSelect]
    const vector = value < this.vectors ? value : 0xffff
    if (offset === 0x00) this.deviceSelect = value
    else if (offset === 0x08) this.driverSelect = value
    else if (offset === 0x0c) this.accepted[this.driverSelect] = value
    else if (offset === 0x10) this.configVector = vector
    else if (offset === 0x14) this.writeStatus(value)
    else if (offset === 0x16) this.queueSelect = value
    else if (queue === undefined) return
    else if (offset === 0x18) queue.size = value
    else if (offset === 0x1a) queue.vector = vector
    else if (offset === 0x1c) queue.enable = value
    else if (offset >= 0x20 && offset < 0x38) queue.area[(offset - 0x20) / 4] = value
    else if (offset === 0x3a) queue.enable = 0
  }

  private writeStatus(value: number): void {
    this.status = value
    if (value !== 0) return
    this.resets++
    this.configVector = 0xffff
    for (const [i] of this.queues.entries()) this.queues[i] = freshQueue(i)
  }
}

function freshQueue(index: number): FakeQueue {
  return { size: 256, enable: 0, vector: 0xffff, notifyOff: index, reset: 0, area: new Uint32Array(6) }
}
