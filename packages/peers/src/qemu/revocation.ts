import { type GuestAddress, guestAddress } from '@guestdma/memory'
import { type Machine, MachineEvents, virtioIommuScheme } from 'guestdma'
import type { CaseProgress, PeerCase } from '../matrix/case.ts'
import { expectIs, expectSame, pattern } from '../work/workloads.ts'
import { type WrongAddress, wrongAddressScheme } from '../work/wrong-address.ts'
import { behindIommu } from './schemes.ts'
import { blkArgs, DISK, machineOf, type Setting, withQemu } from './site.ts'

const BYTES = 4096
const LAZY_MS = 50

const settle = (machine: Machine, milliseconds: number): Promise<void> =>
  machine.run(new Promise<void>((resolve) => setTimeout(resolve, milliseconds)))

/**
 * A device is given the address of a buffer that was taken back. What is there now belongs to the guest again: it is out
 * of reach at once (strict) or after the flush (lazy). QEMU completes such a read all the same, so what counts is memory
 * and what the IOMMU told.
 */
export function revocationRun(mode: 'strict' | 'lazy'): PeerCase['run'] {
  return (progress: CaseProgress) => {
    const made: WrongAddress[] = []
    const lazy = mode === 'lazy' ? { mode, lazy: { ms: LAZY_MS } } : { mode }
    const behind = behindIommu((at) => virtioIommuScheme({ ...at, ...lazy }))
    const setting: Setting = {
      machine: 'q35',
      iommu: true,
      scheme: (qemu, region) => wrongAddressScheme(behind(qemu, region), BYTES, (backend) => made.push(backend)),
    }
    return withQemu(setting, blkArgs(setting), progress, async (site) => {
      const events = new MachineEvents()
      const faults: string[] = []
      events.on('iommuFault', ({ device, reason, access, address }) => {
        faults.push(
          `${device} ${reason} ${access} ${address === undefined ? '' : address.high * 2 ** 32 + address.low}`,
        )
      })
      const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
      const [backend] = made
      const disk = pattern(DISK, 5)
      const buffers = Array.from({ length: 3 }, () => machine.ram.allocate(BYTES, BYTES))
      const read = (buffer: GuestAddress, sector = 0): Promise<void> =>
        machine.run(machine.blk('disk').read(sector, buffer, BYTES))
      const holds = (buffer: GuestAddress): Uint8Array => machine.memory.read(guestAddress(buffer), BYTES)

      // Two at once, so that the next mapping cannot be given both addresses again.
      await machine.run(
        Promise.all([machine.blk('disk').read(0, buffers[0], BYTES), machine.blk('disk').read(8, buffers[1], BYTES)]),
      )
      expectSame('what was read first', holds(buffers[0]), disk.subarray(0, BYTES))
      const secret = pattern(BYTES, 99)
      const attack = async (): Promise<void> => {
        for (const buffer of buffers) machine.memory.write(buffer, secret)
        // Which of the two addresses the next mapping gets is the allocator's to say; the other one is stale.
        backend.lent.splice(2)
        await read(buffers[2], 16)
        backend.next = backend.lent.slice(0, 2).find((address) => address !== backend.lent[2]) as number
        machine.memory.write(buffers[2], secret)
        await read(buffers[2], 24).catch(() => {})
        await settle(machine, 20)
      }
      // A lazy removal waits for the next flush, and goes to the IOMMU with the next request at the latest.
      if (mode === 'lazy') await settle(machine, 2 * LAZY_MS)
      progress.saw('an attack on what was taken back')
      const removed = backend.lent.slice(0, 2)
      await attack()
      for (const i of [0, 1]) expectSame(`buffer ${i}, which belongs to the guest again`, holds(buffers[i]), secret)
      const told = faults.filter((fault) => fault.startsWith('disk mapping'))
      expectIs('that the IOMMU told of the attempt', told.length > 0, true)
      const at = Number((told[0] as string).split(' ')[3])
      const inside = removed.some((address) => at >= address && at < address + BYTES)
      expectIs('that the address it told lies in what was taken back', inside, true)
      for (const buffer of buffers) machine.ram.release(buffer)
      await machine.close()
      expectIs('guest RAM in use', machine.ram.allocated, 0)
    })
  }
}
