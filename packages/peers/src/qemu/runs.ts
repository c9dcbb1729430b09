import { readFileSync } from 'node:fs'
import { VIRTIO_F_RING_RESET } from '@guestdma/spec'
import { type Machine, MachineEvents } from 'guestdma'
import type { CaseProgress, PeerCase } from '../matrix/case.ts'
import { expectInside } from '../work/audit.ts'
import { diskWork, expectIs, expectSame, netWork, pattern, Station, wholeDisk } from '../work/workloads.ts'
import { direct } from './schemes.ts'
import { blkArgs, compareFeatures, DISK, machineOf, netArgs, type Setting, type Site, watch, withQemu } from './site.ts'

/** Disk work, resets in the middle of it, and the file in the end. */
export function blkRun(setting: Setting): PeerCase['run'] {
  return (progress) =>
    withQemu(setting, blkArgs(setting), progress, async (site) => {
      const events = new MachineEvents()
      const told = watch(events)
      const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
      compareFeatures(machine, site.qemu, 'disk', 'virtio-blk', setting)
      let model = await diskWork(machine, 'disk', pattern(DISK, 5), progress)
      // A reset while requests are under way: they end, and the disk goes on.
      progress.saw('a reset in the middle of requests')
      const cut = Array.from({ length: 4 }, (_, i) => machine.blk('disk').readBytes(i * 8, 4096))
      const ended = Promise.allSettled(cut)
      await machine.reset('disk')
      await ended
      model = await diskWork(machine, 'disk', model, progress, { rounds: 6, seed: 2 })
      expectIs('faults and broken devices', told, [])
      expectInside(site.audits)
      await machine.close()
      progress.saw('the machine is closed')
      expectSame('the file', readFileSync(site.disk), model)
    })
}

/** Two network cards of one QEMU, and in the end no fault and no address outside. */
function withNets(
  setting: Setting,
  progress: CaseProgress,
  body: (machine: Machine, stations: readonly [Station, Station], site: Site) => Promise<void>,
): ReturnType<PeerCase['run']> {
  return withQemu(setting, netArgs(setting), progress, async (site) => {
    const events = new MachineEvents()
    const told = watch(events)
    const stations = [new Station(), new Station()] as const
    const devices = stations.map(({ observer }, i) => ({ name: `net${i}`, more: { observer } }))
    const machine = await machineOf(site, setting, devices, events)
    await body(machine, stations, site)
    expectIs('faults and broken devices', told, [])
    expectInside(site.audits)
    await machine.close()
  })
}

export function netRun(setting: Setting): PeerCase['run'] {
  return (progress) =>
    withNets(setting, progress, async (machine, stations, site) => {
      compareFeatures(machine, site.qemu, 'net0', 'virtio-net', setting)
      await netWork(machine, ['net0', 'net1'], stations, progress)
      progress.saw('a reset')
      for (const { frames } of stations) frames.length = 0
      for (const name of ['net0', 'net1']) await machine.reset(name)
      machine.pump()
      await netWork(machine, ['net0', 'net1'], stations, progress, { rounds: 4 })
    })
}

/** Each queue is reset alone (RING_RESET) in the middle of frames, several times, and the work goes on. */
export function queueReset(setting: Setting): PeerCase['run'] {
  return (progress) =>
    withNets(setting, progress, async (machine, stations) => {
      const agreed = machine.device('net0').negotiated.features
      expectIs('RING_RESET was agreed', agreed.has(VIRTIO_F_RING_RESET), true)
      await netWork(machine, ['net0', 'net1'], stations, progress, { rounds: 2 })
      for (let round = 0; round < 4; round++) {
        for (const which of ['transmit', 'receive'] as const) {
          for (const name of ['net0', 'net1']) {
            for (let i = 0; i < 4; i++) machine.net(name).sendCopy(pattern(60 + i, round))
            await machine.run(machine.net(name).resetQueue(which))
          }
          progress.saw(`the ${which} queues were reset`)
          await untilQuiet(machine, stations)
          await netWork(machine, ['net0', 'net1'], stations, progress, { rounds: 1 })
        }
      }
    })
}

// What was on its way arrives late or not at all; then the stations forget it.
async function untilQuiet(machine: Machine, stations: readonly Station[]): Promise<void> {
  for (let quiet = 0; quiet < 5; ) {
    const before = stations.reduce((sum, { frames }) => sum + frames.length, 0)
    machine.pump()
    await new Promise((resolve) => setTimeout(resolve, 10))
    machine.pump()
    quiet = stations.reduce((sum, { frames }) => sum + frames.length, 0) === before ? quiet + 1 : 0
  }
  for (const { frames } of stations) frames.length = 0
}

/** The machine is reset under the driver: it notices, and a reset of the device makes it go on. */
export const systemReset: PeerCase['run'] = (progress) => {
  const setting: Setting = { machine: 'q35', scheme: direct }
  return withQemu(setting, blkArgs(setting), progress, async (site) => {
    const events = new MachineEvents()
    const told = watch(events)
    const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
    const model = await diskWork(machine, 'disk', pattern(DISK, 5), progress, { rounds: 4 })
    site.qemu.qmp('system_reset')
    progress.saw('the system was reset')
    const read = machine.blk('disk').readBytes(0, 512)
    const outcome = await machine.run(read).then(
      () => 'it was answered',
      (error: { code?: string }) => error.code,
    )
    expectIs('what became of a request to a device that somebody reset', outcome, 'DRIVER_DEVICE_BROKEN')
    expectIs('devices that are told to need a reset', told.length, 1)
    await machine.close().catch(() => {})
    // The firmware's part was undone as well: BARs are assigned anew with a new machine.
    await wholeFile(site, model)
  })
}

async function wholeFile({ disk }: Site, model: Uint8Array): Promise<void> {
  expectSame('the file', readFileSync(disk), model)
}

/** QEMU is killed while requests are under way: each ends with a typed error, and memory is cut off with it. */
export const killed: PeerCase['run'] = (progress) => {
  const setting: Setting = { machine: 'q35', scheme: direct, more: { detach: () => true } }
  return withQemu(setting, blkArgs(setting), progress, async (site) => {
    const events = new MachineEvents()
    const machine = await machineOf(site, setting, [{ name: 'disk' }], events)
    await wholeDisk(machine, 'disk', pattern(DISK, 5))
    const requests = Array.from({ length: 8 }, (_, i) => machine.blk('disk').readBytes(i * 8, 4096))
    const outcomes = Promise.allSettled(requests)
    process.kill(site.qemu.pid, 'SIGKILL')
    progress.saw('QEMU was killed')
    await machine.run(outcomes)
    const codes = new Set(
      (await outcomes).map((one) => (one.status === 'rejected' ? (one.reason as { code?: string }).code : 'answered')),
    )
    codes.delete('answered')
    expectIs('how requests end', [...codes], ['DRIVER_DEVICE_BROKEN'])
    await machine.close().then(
      () => Promise.reject(new Error('the end of a machine without its device passed in silence')),
      () => {},
    )
    expectIs('guest RAM in use', machine.ram.allocated, 0)
  })
}
