import { IOMMU_CONFIG_BYPASS, MMIO_CONFIG } from '@guestdma/spec'
import { type DeviceError, everything, type IommuPort } from '../../src/index.ts'
import { TranslationReader } from '../../src/worker/translation-reader.ts'
import { TranslationWriter } from '../../src/worker/translation-writer.ts'
import type { Ram } from './guest.ts'
import { IommuMachine } from './iommu.ts'

export const BYPASS_FIELD: number = MMIO_CONFIG + IOMMU_CONFIG_BYPASS

/** Both sides of a worker's translations in one thread, where the test says when the worker's loop runs. */
export class Pair {
  readonly writer: TranslationWriter
  readonly memory: SharedArrayBuffer
  readonly reader: TranslationReader
  readonly errors: DeviceError[] = []
  /** Messages that there are refused accesses. */
  told = 0
  woken = 0
  gone = false
  /** What the worker does when it is woken. */
  onWake: () => void = () => this.reader.leave()
  private readonly ram: Ram

  constructor(ram: Ram, deadlineMs = 20) {
    this.ram = ram
    this.writer = new TranslationWriter({
      name: 'far',
      deadlineMs,
      gone: () => this.gone,
      lost: () => this.errors.length > 0,
      lose: (error) => this.errors.push(error),
      wake: () => {
        this.woken++
        this.onWake()
      },
    })
    this.memory = this.writer.prepare()
    this.reader = this.read(this.memory)
    this.writer.begin(this.memory)
  }

  /** What a worker that was given this memory has. */
  read(memory: SharedArrayBuffer): TranslationReader {
    return new TranslationReader('far', memory, everything(this.ram.memory), () => void this.told++)
  }

  get port(): IommuPort {
    return this.reader.port
  }

  /** Does something while the worker's loop runs, and lets the platform's side hear of what was refused. */
  within<T>(act: () => T): T {
    this.reader.enter()
    const result = act()
    this.reader.leave()
    this.writer.takeFaults()
    return result
  }
}

/** An IOMMU with a plain endpoint 8, and endpoint 9 whose device is "in a worker". */
export function rig(granule = 4096, deadlineMs = 20) {
  const m = new IommuMachine({ granule, bypass: 'on' }).start()
  const pair = new Pair(m.ram, deadlineMs)
  const near = m.endpoint(8)
  const far = m.endpoint(9, { copy: pair.writer })
  return { m, pair, near, far }
}
