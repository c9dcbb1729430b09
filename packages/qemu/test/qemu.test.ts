import { setTimeout } from 'node:timers/promises'
import { SharedMemory } from '@guestdma/node'
import {
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import type { VirtioTransport } from '@guestdma/transport'
import { createMachine, directScheme, onDeviceScheme, sharedPoolScheme } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { IvshmemRegion, launchQemu, type MachineType, type Qemu, type QemuOptions } from '../src/index.ts'
import { auditedPool, auditedRam, machineOf, missing, overMmio, overPci, pattern, titled } from './support/machines.ts'

const MIB = 1 << 20
const DISK_BYTES = 4 * MIB
const USER_NET = ['-netdev', 'user,id=n0,restrict=on']

interface Place {
  readonly machine: MachineType
  readonly over: string
  readonly device: (type: 'blk' | 'net', more?: string) => string[]
  readonly probe: (qemu: Qemu) => VirtioTransport
}

const backing = { blk: 'drive=d0', net: 'netdev=n0' } as const
const pci = (machine: MachineType, legacy: 'on' | 'off'): Place => ({
  machine,
  over: legacy === 'on' ? 'transitional pci' : 'pci',
  device: (type, more = '') => [
    '-device',
    `virtio-${type}-pci,${backing[type]},addr=3,disable-legacy=${legacy === 'on' ? 'off' : 'on'}${more}`,
  ],
  probe: (qemu) => overPci(qemu, 3),
})
const mmio = (machine: MachineType): Place => ({
  machine,
  over: 'mmio',
  device: (type, more = '') => ['-device', `virtio-${type}-device,${backing[type]}${more}`],
  // The first device is in the last slot.
  probe: (qemu) => overMmio(qemu, qemu.mmioSlots - 1),
})
const PLACES: readonly Place[] = [
  pci('q35', 'off'),
  pci('q35', 'on'),
  mmio('microvm'),
  pci('virt', 'off'),
  mmio('virt'),
]
const PC = PLACES[0]

const reasons: Readonly<Record<MachineType, string>> = (() => {
  const x86 = missing('qemu-system-x86_64')
  return { q35: x86, microvm: x86, virt: missing('qemu-system-aarch64') }
})()

/** A disk whose bytes this process sees. */
class Disk implements Disposable {
  readonly shared: SharedMemory = SharedMemory.create('disk', DISK_BYTES)
  readonly bytes: Uint8Array = new Uint8Array(this.shared.buffer)
  readonly args: readonly string[] = [
    '-drive',
    `if=none,id=d0,format=raw,file=/proc/${process.pid}/fd/${this.shared.fd}`,
  ];
  [Symbol.dispose](): void {
    this.shared.close()
  }
}

const started = (place: Place, type: 'blk' | 'net', args: readonly string[], more: Partial<QemuOptions> = {}) =>
  launchQemu({ machine: place.machine, ...more, args: [...args, ...place.device(type), ...(more.args ?? [])] })

describe.each(PLACES)('$machine over $over', (place) => {
  const reason = reasons[place.machine]
  const title = (text: string): string => titled(text, reason)

  it.skipIf(reason !== '')(
    title('the block driver writes and reads; the device is told of its RAM alone'),
    async () => {
      using disk = new Disk()
      await using qemu = await started(place, 'blk', disk.args)
      const audited = auditedRam(place.probe(qemu), qemu)
      const { machine, broken } = await machineOf(qemu, 'blk', audited, directScheme())
      const data = pattern(96 * 512, 1)
      await machine.run(machine.blk('dev0').writeBytes(5, data))
      await machine.run(machine.blk('dev0').flush())
      expect(disk.bytes.subarray(5 * 512, 5 * 512 + data.length)).toEqual(data)
      expect(await machine.run(machine.blk('dev0').readBytes(5, data.length))).toEqual(data)
      expect(broken).toEqual([])
      await machine.close()
      expect([audited.outside, audited.missed, audited.findings]).toEqual([0, 0, []])
      expect(audited.passed).toBeGreaterThan(10)
    },
  )

  it.skipIf(reason !== '')(title('the network driver sends a request, and the answer arrives'), async () => {
    await using qemu = await started(place, 'net', USER_NET)
    const audited = auditedRam(place.probe(qemu), qemu)
    await answersArp(qemu, audited, directScheme())
    expect([audited.outside, audited.findings]).toEqual([0, []])
  })
})

const noPc = reasons.q35
describe.skipIf(noPc !== '')(titled('a QEMU that has a pool and no other memory of the guest', noPc), () => {
  it.each([PC, PLACES[2]])('serves the block driver over $over, which tells it of the pool alone', async (place) => {
    using disk = new Disk()
    await using qemu = await started(place, 'blk', disk.args, { memory: 8 * MIB, pool: MIB })
    const { pool } = qemu
    if (pool === undefined) throw new Error('no pool')
    const audited = auditedPool(place.probe(qemu), pool)
    const { machine } = await machineOf(qemu, 'blk', audited, sharedPoolScheme({ memory: () => pool }))
    const data = pattern(40 * 512, 2)
    await machine.run(machine.blk('dev0').writeBytes(0, data))
    expect(disk.bytes.subarray(0, data.length)).toEqual(data)
    expect(await machine.run(machine.blk('dev0').readBytes(0, data.length))).toEqual(data)
    expect(machine.device('dev0').negotiated.scheme).toBe('shared-pool')
    await machine.close()
    expect([audited.outside, audited.missed, audited.findings]).toEqual([0, 0, []])
    expect(audited.passed).toBeGreaterThan(10)
  })

  it('serves the network driver as well', async () => {
    await using qemu = await started(PC, 'net', USER_NET, { pool: MIB })
    const { pool } = qemu
    if (pool === undefined) throw new Error('no pool')
    const audited = auditedPool(PC.probe(qemu), pool)
    await answersArp(qemu, audited, sharedPoolScheme({ memory: () => pool }))
    expect([audited.outside, audited.findings]).toEqual([0, []])
  })

  it('reaches nothing of guest RAM, whatever it is told', async () => {
    using disk = new Disk()
    await using qemu = await started(PC, 'blk', disk.args, { pool: MIB })
    qemu.memory.write(qemu.ram.base, pattern(4096, 9))
    expect(qemu.qtest.read(qemu.ram.base, 4)).not.toBe(new DataView(pattern(4, 9).buffer).getUint32(0, true))
    if (qemu.pool === undefined) throw new Error('no pool')
    const audited = auditedPool(PC.probe(qemu), qemu.pool)
    const machine = await createMachine({
      memory: qemu.memory,
      ram: qemu.ram,
      schemes: [directScheme()],
      devices: [{ type: 'blk', name: 'dev0', transport: audited, requestDeadlineMs: 200 }],
    })
    await expect(machine.run(machine.blk('dev0').writeBytes(0, pattern(512, 3)))).rejects.toThrow()
    await machine.close().catch(() => {})
    expect(disk.bytes.every((byte) => byte === 0)).toBe(true)
    expect(audited.findings.map(({ part }) => part)).toEqual(['descriptor area', 'driver area', 'device area'])
  })

  it('serves a region in the BAR of a neighbour, which stands for memory on the device', async () => {
    using disk = new Disk()
    using region = IvshmemRegion.create({ device: 6, bytes: MIB })
    await using qemu = await started(PC, 'blk', disk.args, { pool: MIB, args: region.args })
    const fact = region.place(qemu)
    const audited = auditedPool(PC.probe(qemu), fact)
    const scheme = onDeviceScheme({ memory: () => fact, bit: 'absent' })
    const { machine } = await machineOf(qemu, 'blk', audited, scheme)
    const data = pattern(40 * 512, 4)
    await machine.run(machine.blk('dev0').writeBytes(7, data))
    expect(disk.bytes.subarray(7 * 512, 7 * 512 + data.length)).toEqual(data)
    expect(await machine.run(machine.blk('dev0').readBytes(7, data.length))).toEqual(data)
    await machine.close()
    expect([audited.outside, audited.findings]).toEqual([0, []])
  })
})

/** What QEMU calls some bits. */
const QEMU_NAMES: Readonly<Record<string, number>> = {
  VIRTIO_F_VERSION_1: VIRTIO_F_VERSION_1,
  VIRTIO_RING_F_EVENT_IDX: VIRTIO_F_EVENT_IDX,
  VIRTIO_RING_F_INDIRECT_DESC: VIRTIO_F_INDIRECT_DESC,
  VIRTIO_BLK_F_SEG_MAX: VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_BLK_SIZE: VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_FLUSH: VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_TOPOLOGY: VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_DISCARD: VIRTIO_BLK_F_DISCARD,
}

describe.skipIf(noPc !== '')(titled('a block device of QEMU', noPc), () => {
  it.each([
    ['a queue of 4 entries', ',queue-size=4', 1024],
    ['a queue of 1024 entries', ',queue-size=1024', 1024],
    ['no event index', ',event_idx=off', 256],
    ['no indirect descriptors', ',indirect_desc=off', 256],
    ['neither', ',event_idx=off,indirect_desc=off,queue-size=8', 256],
  ])('with %s takes many requests at once, and resets in the middle of them', async (_, more, queueSize) => {
    using disk = new Disk()
    await using qemu = await launchQemu({ machine: 'q35', args: [...disk.args, ...PC.device('blk', more)] })
    const audited = auditedRam(PC.probe(qemu), qemu)
    const { machine } = await machineOf(qemu, 'blk', audited, directScheme(), queueSize)
    for (let round = 0; round < 4; round++) {
      const writes = Array.from({ length: 64 }, (_, i) =>
        machine.blk('dev0').writeBytes(8 * i, pattern(4096, i + round)),
      )
      if (round % 2 === 1) {
        // Whatever was in flight is told that the device was reset.
        const settled = Promise.allSettled(writes)
        machine.pump()
        await machine.reset('dev0')
        await settled
        continue
      }
      await machine.run(Promise.all(writes))
      for (let i = 0; i < 64; i++)
        expect(disk.bytes.subarray(4096 * i, 4096 * i + 4096)).toEqual(pattern(4096, i + round))
    }
    expect(await machine.run(machine.blk('dev0').readBytes(8, 512))).toEqual(disk.bytes.slice(4096, 4096 + 512))
    await machine.close()
    expect([audited.outside, audited.findings]).toEqual([0, []])
  })

  it('has agreed to what its driver says was agreed', async () => {
    using disk = new Disk()
    await using qemu = await launchQemu({ machine: 'q35', args: [...disk.args, ...PC.device('blk', ',id=blk0')] })
    const { machine } = await machineOf(qemu, 'blk', PC.probe(qemu), directScheme())
    const path = '/machine/peripheral/blk0/virtio-backend'
    const seen = qemu.qmp('x-query-virtio-status', { path }) as {
      'guest-features': { transports: string[]; 'dev-features': string[] }
      status: { statuses: string[] }
    }
    const { transports, 'dev-features': ofType } = seen['guest-features']
    const names = [...transports, ...ofType].map((text) => text.split(':')[0])
    const { features } = machine.device('dev0').negotiated
    expect(Object.keys(QEMU_NAMES).filter((name) => names.includes(name))).toEqual(
      Object.keys(QEMU_NAMES).filter((name) => features.has(QEMU_NAMES[name])),
    )
    expect(names).toContain('VIRTIO_BLK_F_FLUSH')
    expect(seen.status.statuses.map((text) => text.split(':')[0])).toContain('VIRTIO_CONFIG_S_DRIVER_OK')
    await machine.close()
  })
})

describe.skipIf(noPc !== '')(titled('a QEMU that changes under its driver', noPc), () => {
  it('that was killed ends requests, and each access says that the connection is lost', async () => {
    using disk = new Disk()
    await using qemu = await started(PC, 'blk', disk.args)
    const transport = PC.probe(qemu)
    const { machine, broken } = await machineOf(qemu, 'blk', transport, directScheme())
    await machine.run(machine.blk('dev0').writeBytes(0, pattern(512, 5)))
    process.kill(qemu.pid, 'SIGKILL')
    await expect(machine.run(machine.blk('dev0').writeBytes(1, pattern(512, 6)))).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
    })
    expect(broken).toHaveLength(1)
    expect(() => transport.readStatus()).toThrow(
      expect.objectContaining({ code: 'TRANSPORT_LOST', cause: expect.objectContaining({ code: 'QEMU_LOST' }) }),
    )
    await expect(machine.close()).rejects.toMatchObject({ code: expect.stringMatching(/^(MACHINE|TRANSPORT)_/) })
  })

  it('that was reset tells so, and its driver works again after a reset of its own', async () => {
    using disk = new Disk()
    await using qemu = await started(PC, 'blk', disk.args)
    const { machine, broken } = await machineOf(qemu, 'blk', PC.probe(qemu), directScheme())
    await machine.run(machine.blk('dev0').writeBytes(0, pattern(512, 7)))
    qemu.qmp('system_reset')
    const events = []
    while (events.length === 0) {
      events.push(...qemu.takeEvents())
      await setTimeout(5)
    }
    expect(events[0].event).toBe('RESET')
    // The reset took the BARs away as well.
    await expect(machine.run(machine.blk('dev0').writeBytes(1, pattern(512, 8)))).rejects.toMatchObject({
      code: 'DRIVER_DEVICE_BROKEN',
    })
    expect(broken).toHaveLength(1)
    qemu.assignBars()
    await machine.reset('dev0')
    await machine.run(machine.blk('dev0').writeBytes(1, pattern(512, 8)))
    expect(disk.bytes.subarray(512, 1024)).toEqual(pattern(512, 8))
    await machine.close()
  })

  it('sends its interrupts as messages into memory, where that was asked for', async () => {
    using disk = new Disk()
    await using qemu = await started(PC, 'blk', disk.args)
    const machine = await createMachine({
      memory: qemu.memory,
      ram: qemu.ram,
      schemes: [directScheme()],
      devices: [{ type: 'blk', name: 'dev0', transport: PC.probe(qemu), messages: 'memory' }],
    })
    const data = pattern(8 * 512, 10)
    await machine.run(machine.blk('dev0').writeBytes(0, data))
    expect(disk.bytes.subarray(0, data.length)).toEqual(data)
    await machine.close()
  })
})

/** Asks QEMU's own network who has the address of its gateway. */
async function answersArp(
  qemu: Qemu,
  transport: VirtioTransport,
  scheme: ReturnType<typeof directScheme>,
): Promise<void> {
  const { machine, frames } = await machineOf(qemu, 'net', transport, scheme)
  const net = machine.net('dev0')
  const mac = [...(net.mac as Uint8Array)]
  const request = Uint8Array.from([
    ...[255, 255, 255, 255, 255, 255, ...mac, 8, 6],
    ...[0, 1, 8, 0, 6, 4, 0, 1, ...mac, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
  ])
  machine.pump()
  expect(net.sendCopy(request)).toBe(true)
  while (frames.length === 0) {
    machine.pump()
    await setTimeout(1)
  }
  expect([...frames[0].subarray(0, 6)]).toEqual(mac)
  // An answer (2), about 10.0.2.2.
  expect([frames[0][21], ...frames[0].subarray(28, 32)]).toEqual([2, 10, 0, 2, 2])
  await machine.close()
}
