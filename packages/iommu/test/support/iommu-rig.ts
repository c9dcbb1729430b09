import type { IommuFault } from '@guestdma/dma'
import { GuestMemory, guestAddress, type MemorySource, SpanAllocator } from '@guestdma/memory'
import { MmioTransport } from '@guestdma/transport'
import { VirtioIommu, type VirtioIommuDomain, type VirtioIommuOptions } from '../../src/index.ts'
import { HandIommu, type HandOptions, type HandRequest } from './hand-iommu.ts'

export const BASE = 0x8000_0000
export const BYTES = 1 << 20
export const DEADLINE = 1000

export type RigOptions = HandOptions & {
  /** Where guest RAM begins in its buffer. */
  readonly offset?: number
  readonly source?: MemorySource
}

export interface DriverRig {
  readonly device: HandIommu
  readonly memory: GuestMemory
  readonly ram: SpanAllocator
  readonly bytes: Uint8Array
  readonly faults: IommuFault[]
  /** Each pump takes 100 ms. */
  readonly clock: { now: number; pumps: number }
  readonly options: VirtioIommuOptions
}

export function driverRig({ offset = 0, source, ...options }: RigOptions = {}): DriverRig {
  const buffer = source ?? new ArrayBuffer(offset + BYTES)
  const memory = new GuestMemory([{ base: BASE, length: BYTES, memory: buffer, offset }])
  const ram = new SpanAllocator(guestAddress(BASE), BYTES)
  const device = new HandIommu(memory, options)
  const clock = { now: 0, pumps: 0 }
  const faults: IommuFault[] = []
  const transport = MmioTransport.probe(device, 'iommu0')
  if (transport === null) throw new Error('there is no device')
  const wait = {
    pump(): void {
      clock.now += 100
      clock.pumps++
      device.pump()
    },
    now: () => clock.now,
    deadlineMs: DEADLINE,
  }
  const observer = (fault: IommuFault): void => void faults.push(fault)
  return {
    device,
    memory,
    ram,
    bytes: memory.ranges[0].region.u8.subarray(offset, offset + BYTES),
    faults,
    clock,
    options: { transport, memory, ram, wait, observer },
  }
}

export async function started(options: RigOptions = {}): Promise<DriverRig & { iommu: VirtioIommu }> {
  const rig = driverRig(options)
  return { ...rig, iommu: await VirtioIommu.start(rig.options) }
}

export async function attached(
  options: RigOptions = {},
): Promise<DriverRig & { iommu: VirtioIommu; domain: VirtioIommuDomain }> {
  const rig = await started(options)
  return { ...rig, domain: rig.iommu.attach(8, 'net0') }
}

export function map(domain: VirtioIommuDomain, iova: number, guest: number, length: number, access = 3): void {
  domain.request.set([iova, guest, length])
  domain.map(access)
}

export function unmap(domain: VirtioIommuDomain, iova: number, length: number): void {
  domain.request.set([iova, 0, length])
  domain.unmap()
}

/** Fields of a request, little-endian: [offset, bytes] each. */
export function fields(
  request: HandRequest,
  ...list: (readonly [at: number, bytes: 1 | 4 | 8])[]
): (number | bigint)[] {
  const view = new DataView(request.bytes.buffer)
  return list.map(([at, size]) =>
    size === 8 ? view.getBigUint64(at, true) : size === 4 ? view.getUint32(at, true) : view.getUint8(at),
  )
}

/** The code of what a promise or a function fails with. */
export async function failure(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
  return 'nothing was thrown'
}
