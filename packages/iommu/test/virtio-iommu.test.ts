import { DMA_EXHAUSTED, DMA_OK } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { DOMAIN_READ, DOMAIN_WRITE, VirtioIommu } from '../src/index.ts'
import { ALL_FEATURES, F, type HandRequest, properties, S, T } from './support/hand-iommu.ts'
import { attached, BASE, BYTES, driverRig, failure, fields, map, started, unmap } from './support/iommu-rig.ts'

const IOVA = 0x1234_5678_9000
const GUEST = 0x1_2345_6000
const BYPASS = 0x100 + 36

const last = (requests: readonly HandRequest[]): HandRequest => requests[requests.length - 1]
const without = (bit: number): number[] => ALL_FEATURES.filter((feature) => feature !== bit)

describe('initialization (virtio 1.4 §3.1.1, §5.13.5)', () => {
  test('is in order: features, bypass off, queues, DRIVER_OK, and nothing attached before that', {
    tags: ['3.1.1/no-early-config-write'],
  }, async () => {
    const { device } = await started({ bypass: 1 })
    const at = (offset: number, value: number): number =>
      device.writes.findIndex(([where, what]) => where === offset && what === value)
    const order = [at(0x70, 0), at(0x70, 1), at(0x70, 3), at(0x70, 11), at(BYPASS, 0), at(0x44, 1), at(0x70, 15)]
    expect(order).toEqual([...order].sort((a, b) => a - b))
    expect(order).not.toContain(-1)
    expect([device.requests.length, device.config.getUint8(36)]).toEqual([0, 0])
  })

  test('accepts what §5.13.3.1 names, and no bypass of unattached endpoints', {
    tags: ['5.13.3.1/accepted', '5.13.5.1/map-unmap', '5.13.6.5.1/mmio-agreed'],
  }, async () => {
    const { device } = await started({
      features: [F.INPUT_RANGE, F.DOMAIN_RANGE, F.MAP_UNMAP, F.BYPASS, F.PROBE, F.MMIO, F.BYPASS_CONFIG],
    })
    expect([...ALL_FEATURES, F.BYPASS, F.MMIO].filter((bit) => device.accepted.has(bit))).toEqual(ALL_FEATURES)
  })

  test('goes on with a device that offers all features of split rings', async () => {
    const { device, domain } = await attached({ features: [...ALL_FEATURES, 28, 29, 35, 38, 40] })
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 300; i++) map(domain, 0x1000 * (i + 1), BASE, 0x1000)
      expect([domain.commit(), device.mapped.get(0)?.length]).toEqual([DMA_OK, 300])
      unmap(domain, 0x1000, 300 * 0x1000)
      expect([domain.commit(), device.mapped.get(0)?.length]).toEqual([DMA_OK, 0])
    }
  })

  test('writes no field of the configuration but `bypass`, and that only where BYPASS_CONFIG was agreed', {
    tags: ['5.13.4.1/only-bypass', '5.13.4.1/bypass-values'],
  }, async () => {
    const configured = (writes: readonly [number, number][]) => writes.filter(([offset]) => offset >= 0x100)
    const { device } = await attached()
    expect(configured(device.writes)).toEqual([[BYPASS, 0]])
    const other = await attached({ features: without(F.BYPASS_CONFIG) })
    expect(configured(other.device.writes)).toEqual([])
  })

  test('a device that stays in bypass is refused, and so is one without MAP_UNMAP', {
    tags: ['2.2.1/missing-feature', '3.1.1/failed'],
  }, async () => {
    const rig = driverRig()
    rig.device.stubborn = true
    expect(await failure(() => VirtioIommu.start(rig.options))).toBe('IOMMU_BYPASS')
    // FAILED was set, the device was reset, and its memory came back.
    expect(rig.device.writes.some(([offset, value]) => offset === 0x70 && (value & 128) !== 0)).toBe(true)
    expect([rig.device.status, rig.ram.available]).toEqual([0, BYTES])
    expect(await failure(() => started({ features: without(F.MAP_UNMAP) }))).toBe('IOMMU_MODE')
    expect(await failure(() => started({ deviceId: 1 }))).toBe('IOMMU_NO_DEVICE')
  })

  test('bits 1 to 7 of `bypass` are ignored', { tags: ['5.13.4.1/bypass-bits'] }, async () => {
    const rig = driverRig({ bypass: 0xfe })
    rig.device.stubborn = true
    expect(await failure(() => VirtioIommu.start(rig.options))).toBe('nothing was thrown')
  })

  test('the granule is the least bit of page_size_mask, and none above 65536 is taken', async () => {
    const granule = async (pageSizeMask: bigint): Promise<number | string> => {
      let found: number | string = 0
      const code = await failure(async () => {
        const { iommu } = await attached({ pageSizeMask })
        found = iommu.granule
      })
      return found === 0 ? code : found
    }
    expect(await granule(2n ** 64n - 1n)).toBe(1)
    expect(await granule(0xffff_ffff_ffff_f000n)).toBe(4096)
    expect(await granule(0x4020_1000n)).toBe(4096)
    expect(await granule(0x1_0000n)).toBe(65_536)
    for (const mask of [0n, 0x2_0000n, 0x8000_0000n, 2n ** 32n, 2n ** 63n])
      expect(await granule(mask)).toBe('IOMMU_GRANULE')
  })

  test('ranges are what the device says where the feature was agreed, and else the defaults', {
    tags: ['5.13.6.1/domain-range'],
  }, async () => {
    const ranges = { input: [0x1000n, 0xffff_ffffn], domains: [7, 9] } as const
    const { iommu, domain } = await attached(ranges)
    expect([iommu.inputStart, iommu.inputEnd, domain.id]).toEqual([0x1000, 0xffff_ffff, 7])
    expect([domain.inputStart, domain.inputEnd, domain.granule]).toEqual([0x1000, 0xffff_ffff, 4096])
    expect([iommu.attach(9, 'net1').id, iommu.attach(10, 'net2').id]).toEqual([8, 9])
    expect(await failure(async () => iommu.attach(11, 'net3'))).toBe('IOMMU_DOMAINS')
    const other = await attached({ ...ranges, features: [F.MAP_UNMAP] })
    expect([other.iommu.inputStart, other.iommu.inputEnd, other.domain.id]).toEqual([0, 2 ** 48 - 1, 0])
  })

  test('hostile configurations: ends before starts are refused, 2^64 - 1 saturates', async () => {
    expect(await failure(() => started({ input: [2n, 1n] }))).toBe('IOMMU_RANGE')
    expect(await failure(() => started({ domains: [2, 1] }))).toBe('IOMMU_RANGE')
    expect(await failure(() => started({ input: [2n ** 64n - 1n, 0n] }))).toBe('IOMMU_RANGE')
    const { iommu } = await started({ input: [0n, 2n ** 64n - 1n] })
    expect(iommu.inputEnd).toBe(Number.MAX_SAFE_INTEGER)
    const { iommu: high } = await started({ input: [2n ** 63n, 2n ** 64n - 1n] })
    expect([high.inputStart, high.inputEnd]).toEqual([Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER])
    for (const probeSize of [65_537, 2 ** 31, 2 ** 32 - 1])
      expect(await failure(() => started({ probeSize }))).toBe('IOMMU_RANGE')
  })

  test('queues of 8 entries and more are used, shorter ones may be refused, and none at all is an error', async () => {
    for (const size of [2, 4, 8, 16]) {
      const code = await failure(async () => {
        const { domain, device } = await attached({ queueMax: [size, 1] })
        for (let i = 0; i < 20; i++) map(domain, 0x1000 * (i + 1), BASE, 0x1000)
        for (let i = 0; i < 20; i += 2) unmap(domain, 0x1000 * (i + 1), 0x1000)
        expect([domain.commit(), device.mapped.get(0)?.length]).toEqual([DMA_OK, 10])
        domain.dispose()
      })
      expect(code, `${size}`).toMatch(size < 8 ? /^(nothing was thrown|VIRTQUEUE_TOO_SMALL)$/ : /^nothing was thrown$/)
    }
    expect(await failure(() => started({ queueMax: [1, 64] }))).toBe('VIRTQUEUE_TOO_SMALL')
    expect(await failure(() => started({ queueMax: [512, 0] }))).toBe('DRIVER_NO_QUEUE')
  })

  test('close resets the device and gives all memory back', async () => {
    const { iommu, domain, device, ram } = await attached()
    await iommu.close()
    domain.dispose()
    expect([device.status, ram.available, iommu.endpoints.size, iommu.poll()]).toEqual([0, BYTES, 0, 0])
  })

  test("a closed driver touches no memory: what was its own may be somebody else's", async () => {
    const { iommu, domain, bytes, device } = await attached()
    await iommu.close()
    bytes.fill(0xa5)
    expect(await failure(() => iommu.attach(9, 'net1'))).not.toBe('nothing was thrown')
    map(domain, 0x1000, BASE, 0x1000)
    expect(domain.commit()).not.toBe(DMA_OK)
    domain.dispose()
    expect([iommu.poll(), bytes.every((byte) => byte === 0xa5), device.requests.length]).toEqual([0, true, 2])
  })
})

describe('requests are laid out as in virtio 1.4 §5.13.6', () => {
  test('ATTACH: 20 bytes and the tail', { tags: ['5.13.6.3.1/reserved', '5.13.6.3.1/no-bypass'] }, async () => {
    const { device, iommu } = await attached({ domains: [5, 100] })
    const request = last(device.requests)
    expect([...request.bytes]).toEqual([T.ATTACH, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, ...new Uint8Array(8)])
    expect(request.writable).toBe(4)
    iommu.attach(0xdead_beef, 'net1')
    expect(fields(last(device.requests), [4, 4], [8, 4], [12, 4])).toEqual([6, 0xdead_beef, 0])
  })

  test('DETACH: 20 bytes and the tail', { tags: ['5.13.6.4.1/reserved'] }, async () => {
    const { device, domain } = await attached({ domains: [5, 100] })
    domain.dispose()
    const request = last(device.requests)
    expect([...request.bytes]).toEqual([T.DETACH, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0, ...new Uint8Array(8)])
    expect(request.writable).toBe(4)
    expect(device.attached.size).toBe(0)
  })

  test('MAP: 36 bytes and the tail, the end included, addresses above 2^32 whole', {
    tags: ['5.13.6.1/reserved', '5.13.6.5.1/flags', '5.13.6.5.1/read', '5.13.6.5.1/range'],
  }, async () => {
    const { device, domain } = await attached()
    for (const [access, flags] of [
      [DOMAIN_READ, 1],
      [DOMAIN_WRITE, 2],
      [DOMAIN_READ | DOMAIN_WRITE, 3],
    ]) {
      map(domain, IOVA + flags * 0x10_0000, GUEST, 0x3000, access)
      expect(domain.commit()).toBe(DMA_OK)
      const request = last(device.requests)
      const start = BigInt(IOVA + flags * 0x10_0000)
      expect(request.bytes.length).toBe(36)
      expect(fields(request, [0, 4], [4, 4], [8, 8], [16, 8], [24, 8], [32, 4])).toEqual([
        T.MAP,
        domain.id,
        start,
        start + 0x2fffn,
        BigInt(GUEST),
        flags,
      ])
      expect(request.writable).toBe(4)
    }
  })

  test('UNMAP: 28 bytes and the tail, reserved bytes zero also where a MAP used the same cell', {
    tags: ['5.13.6.6.1/reserved'],
  }, async () => {
    const { device, domain } = await attached()
    map(domain, IOVA, GUEST, 0x1000)
    domain.commit()
    unmap(domain, IOVA, 0x1000)
    expect(domain.commit()).toBe(DMA_OK)
    const request = last(device.requests)
    expect([request.bytes.length, request.writable]).toEqual([28, 4])
    expect(fields(request, [0, 4], [4, 4], [8, 8], [16, 8], [24, 4])).toEqual([
      T.UNMAP,
      domain.id,
      BigInt(IOVA),
      BigInt(IOVA) + 0xfffn,
      0,
    ])
    expect(device.mapped.get(domain.id)).toEqual([])
  })

  test('PROBE: 72 bytes, probe_size bytes for the properties and the tail, before ATTACH', {
    tags: ['5.13.5.1/probe-first', '5.13.6.7.1/size', '5.13.6.7.1/reserved'],
  }, async () => {
    const { device } = await attached({ probeSize: 100 })
    const [probe, attach] = device.requests
    expect([...probe.bytes]).toEqual([T.PROBE, 0, 0, 0, 8, 0, 0, 0, ...new Uint8Array(64)])
    expect([probe.writable, attach.type, device.requests.length]).toEqual([104, T.ATTACH, 2])
  })

  test('PROBE is not sent where it was not agreed', async () => {
    const { device } = await attached({ features: without(F.PROBE) })
    expect(device.requests.map(({ type }) => type)).toEqual([T.ATTACH])
  })

  test('requests, statuses and reports are found beyond 2 GiB of a buffer', async () => {
    const { device, domain, iommu, faults } = await attached({ offset: 2 ** 31 })
    map(domain, IOVA, GUEST, 0x1000)
    expect([domain.commit(), device.mapped.get(0)]).toEqual([
      DMA_OK,
      [{ start: IOVA, end: IOVA + 0xfff, phys: GUEST, flags: 3 }],
    ])
    device.misbehave = () => ({ status: S.NOMEM })
    map(domain, 0x1000, GUEST, 0x1000)
    expect(domain.commit()).toBe(DMA_EXHAUSTED)
    device.report(Uint8Array.from({ length: 24 }, (_, i) => (i === 0 ? 2 : i === 8 ? 8 : 0)))
    expect([iommu.poll(), faults.length]).toEqual([1, 1])
  })

  test('requests after memory grew say what they should', async () => {
    const source = new WebAssembly.Memory({ initial: BYTES / 65_536, maximum: BYTES / 65_536 + 8 })
    const { device, domain, iommu, faults } = await attached({ source })
    for (let i = 0; i < 3; i++) {
      map(domain, IOVA + 0x1000 * i, GUEST, 0x1000)
      expect(domain.commit()).toBe(DMA_OK)
    }
    source.grow(1)
    unmap(domain, IOVA, 0x1000)
    expect([domain.commit(), device.mapped.get(0)?.map(({ start }) => start)]).toEqual([
      DMA_OK,
      [IOVA + 0x1000, IOVA + 0x2000],
    ])
    source.grow(1)
    map(domain, IOVA + 0x9000, GUEST, 0x1000)
    expect([domain.commit(), device.translate(8, IOVA + 0x9001)]).toEqual([DMA_OK, GUEST + 1])
    source.grow(1)
    expect(iommu.attach(9, 'blk0').id).toBe(1)
    source.grow(1)
    device.report(Uint8Array.from({ length: 24 }, (_, i) => (i === 0 ? 2 : i === 8 ? 9 : 0)))
    expect([iommu.poll(), faults.map((fault) => fault.device)]).toEqual([1, ['blk0']])
  })

  test('the highest addresses keep their last byte', { tags: ['5.13.6.5.1/range'] }, async () => {
    const { device, domain } = await attached({ pageSizeMask: 1n, input: [0n, 2n ** 64n - 1n] })
    map(domain, 2 ** 53 - 16, 2 ** 53 - 16, 15)
    domain.commit()
    const top = 2n ** 53n
    expect(fields(last(device.requests), [8, 8], [16, 8], [24, 8])).toEqual([top - 16n, top - 2n, top - 16n])
  })
})

describe('batches', () => {
  test('one notification per commit, however many requests', async () => {
    const { device, domain, iommu } = await attached()
    const before = device.notifications
    for (let i = 0; i < 100; i++) map(domain, 0x1000 * (i + 1), BASE, 0x1000)
    expect(device.mapped.get(0)).toEqual([])
    expect(domain.commit()).toBe(DMA_OK)
    expect([device.notifications - before, device.mapped.get(0)?.length]).toEqual([1, 100])
    expect(domain.commit()).toBe(DMA_OK)
    expect(device.notifications - before).toBe(1)
    expect(iommu.counters).toMatchObject({ maps: 100, unmaps: 0, full: 0, refused: 0 })
  })

  test('more requests than fit are sent in between, in order, and none is lost', async () => {
    const { device, domain, iommu } = await attached({ queueMax: [16, 4] })
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 50; i++) map(domain, 0x1000 * (i + 1), BASE, 0x1000)
      for (let i = 0; i < 50; i += 2) unmap(domain, 0x1000 * (i + 1), 0x2000)
      expect(domain.commit()).toBe(DMA_OK)
      expect(device.mapped.get(0)).toEqual([])
    }
    expect(iommu.counters.full).toBeGreaterThan(10)
    expect(iommu.counters).toMatchObject({ maps: 150, unmaps: 75, refused: 0 })
  })

  test('domains have numbers of their own, and do not see each other', async () => {
    const { device, domain, iommu } = await attached()
    const other = iommu.attach(9, 'blk0')
    expect([domain.id, other.id, [...iommu.endpoints]]).toEqual([
      0,
      1,
      [
        [8, 'net0'],
        [9, 'blk0'],
      ],
    ])
    map(domain, 0x1000, BASE, 0x1000)
    map(other, 0x1000, BASE + 0x5000, 0x1000)
    expect([domain.commit(), other.commit()]).toEqual([DMA_OK, DMA_OK])
    expect([8, 9, 10].map((endpoint) => device.translate(endpoint, 0x1001))).toEqual([BASE + 1, BASE + 0x5001, -1])
  })

  test('a domain is exclusive while no other one has anything to give back', async () => {
    const { iommu, device, domain } = await attached()
    const [other, mute] = [iommu.attach(9, 'blk0'), iommu.attach(10, 'pool')]
    const lent = [0, 0]
    domain.lentBy(() => lent[0])
    other.lentBy(() => lent[1])
    const exclusive = (): boolean[] => [domain, other, mute].map((each) => each.exclusive)
    expect(exclusive()).toEqual([true, true, true])
    lent[0] = 3
    expect(exclusive()).toEqual([true, false, false])
    lent[1] = 1
    expect(exclusive()).toEqual([false, false, false])
    // What nobody can remove any more is not waited for.
    device.misbehave = ({ type }) => (type === T.DETACH ? { status: S.IOERR } : undefined)
    expect(await failure(() => other.dispose())).toBe('IOMMU_DETACH')
    expect(exclusive()).toEqual([true, false, false])
    device.misbehave = ({ type }) => (type === T.UNMAP ? { status: S.RANGE } : undefined)
    unmap(domain, IOVA, 0x1000)
    domain.commit()
    expect(exclusive()).toEqual([true, true, true])
  })

  test('the number of a domain is used again once its endpoint is detached', async () => {
    const { domain, iommu, device } = await attached({ domains: [3, 3] })
    expect(await failure(() => iommu.attach(9, 'blk0'))).toBe('IOMMU_DOMAINS')
    expect([iommu.endpoints.has(9), device.attached.has(9)]).toEqual([false, false])
    domain.dispose()
    domain.dispose()
    expect(iommu.attach(9, 'blk0').id).toBe(3)
    expect(device.requests.filter(({ type }) => type === T.DETACH)).toHaveLength(1)
  })

  test('what was queued before a domain is given up is sent first', async () => {
    const { domain, device } = await attached()
    map(domain, 0x1000, BASE, 0x1000)
    domain.dispose()
    expect(device.requests.map(({ type }) => type)).toEqual([T.PROBE, T.ATTACH, T.MAP, T.DETACH])
    expect(device.mapped.has(0)).toBe(false)
  })

  test('an endpoint is told apart by its reserved ranges', async () => {
    const rig = await started()
    rig.device.properties = (endpoint) =>
      endpoint === 8 ? properties([0xfee0_0000n, 0xfeef_ffffn, 1]) : new Uint8Array()
    expect(rig.iommu.attach(8, 'net0').reserved).toEqual([{ start: 0xfee0_0000, end: 0xfeef_ffff, kind: 'msi' }])
    expect(rig.iommu.attach(9, 'blk0').reserved).toEqual([])
  })
})
