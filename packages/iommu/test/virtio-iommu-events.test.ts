import { describe, expect, test } from 'vitest'
import { VirtioIommu } from '../src/index.ts'
import { attached, driverRig, started } from './support/iommu-rig.ts'

interface Report {
  readonly reason?: number
  readonly reserved?: number
  readonly flags?: number
  readonly endpoint?: number
  readonly reserved1?: number
  readonly address?: bigint
}

function report({ reason = 2, reserved = 0, flags = 0x101, endpoint = 8, reserved1 = 0, address = 0n }: Report = {}) {
  const view = new DataView(new ArrayBuffer(24))
  view.setUint32(0, reason | (reserved << 8), true)
  view.setUint32(4, flags, true)
  view.setUint32(8, endpoint, true)
  view.setUint32(12, reserved1, true)
  view.setBigUint64(16, address, true)
  return new Uint8Array(view.buffer)
}

describe('fault reports (virtio 1.4 §5.13.6.9)', () => {
  test('carry the endpoint by its name, the reason, the access and the address in two halves', async () => {
    const { device, iommu, faults } = await attached()
    const sent = [
      report({ reason: 0, flags: 0, address: 7n }),
      report({ reason: 1, flags: 0x101, address: 0xffff_eeee_8000_0001n }),
      report({ reason: 2, flags: 0x102, address: 0x9000n }),
    ]
    for (const bytes of sent) expect(device.report(bytes)).toBe(true)
    expect(iommu.poll()).toBe(3)
    expect(faults).toEqual([
      { device: 'net0', reason: 'unknown', access: 'unknown', address: undefined },
      { device: 'net0', reason: 'domain', access: 'read', address: { high: 0xffff_eeee, low: 0x8000_0001 } },
      { device: 'net0', reason: 'mapping', access: 'write', address: { high: 0, low: 0x9000 } },
    ])
    expect([iommu.poll(), iommu.counters.faults, iommu.counters.malformed]).toEqual([0, 3, 0])
  })

  test('an address counts only with the ADDRESS flag', async () => {
    const { device, iommu, faults } = await attached()
    device.report(report({ flags: 0x001, address: 0x1234n }))
    device.report(report({ flags: 0x100, address: 0x1234n }))
    iommu.poll()
    expect(faults.map(({ address }) => address)).toEqual([undefined, { high: 0, low: 0x1234 }])
  })

  test('reasons that are not known are unknown; undefined flags and reserved1 are ignored', {
    tags: ['5.13.6.9.1/reserved-ignored', '5.13.6.9.1/flags', '5.13.6.9.1/reason'],
  }, async () => {
    const { device, iommu, faults } = await attached()
    device.report(report({ reason: 3 }))
    device.report(report({ reason: 255, flags: 0xffff_ffff, reserved1: 0xffff_ffff }))
    iommu.poll()
    expect(faults.map(({ reason }) => reason)).toEqual(['unknown', 'unknown'])
    expect(iommu.counters.malformed).toBe(0)
  })

  test('a report whose reserved bytes are not zero is ignored', { tags: ['5.13.6.9.1/report-reserved'] }, async () => {
    const { device, iommu, faults } = await attached()
    for (const reserved of [1, 0x100, 0x80_0000]) device.report(report({ reserved }))
    device.report(report())
    expect(iommu.poll()).toBe(4)
    expect([faults.length, iommu.counters.malformed]).toEqual([1, 3])
  })

  test('short reports are malformed, and long ones are read as far as they are known', async () => {
    const { device, iommu, faults } = await attached()
    for (const length of [0, 1, 23]) device.report(report(), length)
    device.report(report(), 0xffff_ffff)
    expect(iommu.poll()).toBe(4)
    expect([faults.length, iommu.counters.malformed]).toEqual([1, 3])
  })

  test('an endpoint that is not attached goes by its number', async () => {
    const { device, iommu, faults, domain } = await attached()
    device.report(report({ endpoint: 0xffff_fff0 }))
    iommu.poll()
    domain.dispose()
    device.report(report({ endpoint: 8 }))
    iommu.poll()
    expect(faults.map((fault) => fault.device)).toEqual(['endpoint 4294967280', 'endpoint 8'])
  })

  test('buffers are posted from the start, and again after each poll', async () => {
    const { device, iommu } = await started({ queueMax: [512, 8] })
    expect(device.posted).toBe(8)
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i <= round % 8; i++) expect(device.report(report())).toBe(true)
      expect(iommu.poll()).toBe(1 + (round % 8))
      expect(device.posted).toBe(8)
    }
    expect(iommu.counters.faults).toBe(82)
  })

  test('more faults than buffers: the device drops them, and later ones arrive', async () => {
    const { device, iommu, faults } = await started({ queueMax: [512, 4] })
    const sent = Array.from({ length: 9 }, (_, i) => device.report(report({ address: BigInt(i) })))
    expect(sent.filter((done) => done)).toHaveLength(4)
    expect(iommu.poll()).toBe(4)
    expect(device.report(report({ address: 99n }))).toBe(true)
    expect(iommu.poll()).toBe(1)
    expect(faults.map(({ address }) => address?.low)).toEqual([0, 1, 2, 3, 99])
  })

  test('without an observer they are counted', async () => {
    const rig = driverRig()
    const { observer: _, ...options } = rig.options
    const iommu = await VirtioIommu.start(options)
    rig.device.report(report())
    expect([iommu.poll(), iommu.counters.faults]).toEqual([1, 1])
  })

  test('an observer that polls is told of each fault once', async () => {
    const rig = driverRig()
    const seen: (number | undefined)[] = []
    const iommu: VirtioIommu = await VirtioIommu.start({
      ...rig.options,
      observer: ({ address }) => {
        seen.push(address?.low)
        if (seen.length === 1) for (let i = 10; i < 13; i++) rig.device.report(report({ address: BigInt(i) }))
        iommu.poll()
      },
    })
    for (let i = 0; i < 3; i++) rig.device.report(report({ address: BigInt(i) }))
    iommu.poll()
    iommu.poll()
    expect(seen.sort((a, b) => Number(a) - Number(b))).toEqual([0, 1, 2, 10, 11, 12])
  })

  test('used ids that make no sense stop the reports and nothing else', async () => {
    const { device, iommu, faults, domain } = await attached()
    device.report(report(), 24, 0xffff)
    expect([iommu.poll(), iommu.poll(), faults.length]).toEqual([0, 0, 0])
    domain.request.set([0x1000, 0x8000_0000, 0x1000])
    domain.map(3)
    expect(domain.commit()).toBe(0)
    const other = await attached()
    other.device.jump(1, 1000)
    expect([other.iommu.poll(), other.faults.length]).toEqual([0, 0])
  })
})
