import { spawnSync } from 'node:child_process'
import { AuditedTransport } from '@guestdma/conformance'
import type { DmaScheme, PoolFact } from '@guestdma/dma'
import { deviceAddress, type MemoryWindow } from '@guestdma/memory'
import { SharedMemory } from '@guestdma/node'
import { MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { createMachine, type Machine, MachineEvents } from 'guestdma'
import type { Qemu } from '../../src/index.ts'

/** Why machines cannot be started here, with QEMU or with what stands in for it; empty where they can. */
export function missing(program?: string): string {
  try {
    SharedMemory.create('test', 4096).close()
  } catch (error) {
    return (error as Error).message
  }
  return program === undefined || spawnSync(program, ['--version']).status === 0 ? '' : `${program} is not installed`
}

/** `title`, and why it is skipped where it is. */
export function titled(title: string, reason: string): string {
  return reason === '' ? title : `${title} (skipped: ${reason})`
}

export function overPci(qemu: Qemu, device: number): VirtioTransport {
  return PciTransport.probe(qemu.pci(device), `pci${device}`) as VirtioTransport
}

export function overMmio(qemu: Qemu, slot: number): VirtioTransport {
  return MmioTransport.probe(qemu.mmio(slot), `mmio${slot}`) as VirtioTransport
}

/** Passes on what is inside of `window` from `device` on, for an audit. */
export function auditedPool(transport: VirtioTransport, { device, window }: PoolFact): AuditedTransport {
  const inside = (address: number, length: number): MemoryWindow | null =>
    address >= device && address + length <= device + window.length
      ? { region: window.region, offset: window.offset + (address - device), length }
      : null
  return new AuditedTransport(transport, { allowed: [{ base: device, length: window.length }], lookup: inside })
}

/** An audit of a device that may be told of any memory that QEMU has. */
export function auditedRam(transport: VirtioTransport, { memory, ram }: Qemu): AuditedTransport {
  return auditedPool(transport, {
    device: deviceAddress(ram.base),
    window: memory.window(ram.base, ram.length),
    home: 'guest-ram',
  })
}

/** A machine whose one device lives in QEMU. */
export async function machineOf(
  qemu: Qemu,
  type: 'net' | 'blk',
  transport: VirtioTransport,
  scheme: DmaScheme,
  queueSize = 256,
): Promise<{ machine: Machine; frames: Uint8Array[]; broken: unknown[] }> {
  const frames: Uint8Array[] = []
  const broken: unknown[] = []
  const events = new MachineEvents()
  events.on('needsReset', ({ error }) => broken.push(error))
  const observer = {
    frames: (batch: { count: number; copy(i: number): Uint8Array }): void => {
      for (let i = 0; i < batch.count; i++) frames.push(batch.copy(i))
    },
  }
  const machine = await createMachine({
    memory: qemu.memory,
    ram: qemu.ram,
    schemes: [scheme],
    events,
    deadlineMs: 10_000,
    devices: [{ type, name: 'dev0', transport, queueSize, ...(type === 'net' ? { observer } : {}) }],
  })
  return { machine, frames, broken }
}

/** `length` bytes that differ from their neighbours. */
export function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >>> 8) * 7 + seed) & 0xff)
}
