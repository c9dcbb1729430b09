import { DMA_EXHAUSTED, DMA_FAILED, DMA_OK } from '@guestdma/dma'
import { describe, expect, test, vi } from 'vitest'
import { describeRequestStatus, IommuBackend, VirtioIommu } from '../src/index.ts'
import { type Answer, type HandRequest, S, T } from './support/hand-iommu.ts'
import { attached, BASE, BYTES, DEADLINE, driverRig, failure, map, started, unmap } from './support/iommu-rig.ts'

const answers =
  (type: number, answer: Answer) =>
  (request: HandRequest): Answer | undefined =>
    request.type === type ? answer : undefined
const REFUSALS = Object.entries(S).filter(([name]) => name !== 'OK')
const PAGE = 0x1000

describe('requests that are refused', () => {
  test.each(REFUSALS)('MAP with %s: only NOMEM is exhaustion, and the domain goes on', async (_, status) => {
    const { device, domain, iommu } = await attached()
    device.misbehave = answers(T.MAP, { status })
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(status === S.NOMEM ? DMA_EXHAUSTED : DMA_FAILED)
    expect([iommu.counters.refused, domain.broken]).toEqual([1, false])
    device.misbehave = () => undefined
    expect(domain.commit()).toBe(DMA_OK)
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_OK)
  })

  test.each(REFUSALS)('UNMAP with %s: what the endpoint reaches is not known any more', async (_, status) => {
    const { device, domain, iommu } = await attached()
    const other = iommu.attach(9, 'blk0')
    map(domain, PAGE, BASE, PAGE)
    domain.commit()
    device.misbehave = answers(T.UNMAP, { status })
    unmap(domain, PAGE, PAGE)
    expect(domain.commit()).toBe(DMA_FAILED)
    device.misbehave = () => undefined
    map(domain, 2 * PAGE, BASE, PAGE)
    expect([domain.commit(), domain.commit(), domain.broken]).toEqual([DMA_FAILED, DMA_FAILED, true])
    // Other endpoints are not concerned, and it can be detached.
    map(other, PAGE, BASE, PAGE)
    expect(other.commit()).toBe(DMA_OK)
    domain.dispose()
    expect(device.attached.has(8)).toBe(false)
  })

  test('after an UNMAP that was refused, nothing but a DETACH is asked for that endpoint', async () => {
    const { device, domain } = await attached()
    device.misbehave = answers(T.UNMAP, { status: S.DEVERR })
    unmap(domain, PAGE, PAGE)
    domain.commit()
    const asked = device.requests.length
    unmap(domain, 2 * PAGE, PAGE)
    map(domain, 4 * PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_FAILED)
    domain.dispose()
    expect(device.requests.slice(asked).map(({ type }) => type)).toEqual([T.DETACH])
  })

  test('one bad status in a batch is enough, wherever it stands, and the worst one counts', async () => {
    for (const bad of [0, 7, 19]) {
      const { device, domain } = await attached()
      let seen = 0
      device.misbehave = ({ type }) => {
        if (type !== T.MAP) return undefined
        const at = seen++
        return at === bad ? { status: S.INVAL } : at > 15 ? { status: S.NOMEM } : undefined
      }
      for (let i = 0; i < 20; i++) map(domain, PAGE * (i + 1), BASE, PAGE)
      expect(domain.commit()).toBe(DMA_FAILED)
    }
  })

  test('statuses go to the domain that asked', async () => {
    const { device, domain, iommu } = await attached()
    const other = iommu.attach(9, 'blk0')
    device.misbehave = (request) => (request.type === T.MAP && request.bytes[4] === 0 ? { status: S.NOMEM } : undefined)
    map(domain, PAGE, BASE, PAGE)
    map(other, PAGE, BASE, PAGE)
    // Whoever waits first waits for all.
    expect([other.commit(), domain.commit(), domain.commit()]).toEqual([DMA_OK, DMA_EXHAUSTED, DMA_OK])
  })

  test('unknown statuses are failures', async () => {
    for (const status of [9, 128, 255]) {
      const { device, domain } = await attached()
      device.misbehave = answers(T.MAP, { status })
      map(domain, PAGE, BASE, PAGE)
      expect(domain.commit()).toBe(DMA_FAILED)
    }
    expect([describeRequestStatus(8), describeRequestStatus(9)]).toEqual(['NOMEM', 'status 9'])
  })

  test('a used length of 0 is a failure, whatever the status byte says (virtio 1.4 §5.13.6)', {
    tags: ['5.13.6.1/length-zero'],
  }, async () => {
    for (const type of [T.MAP, T.UNMAP]) {
      const { device, domain } = await attached()
      device.misbehave = answers(type, { status: S.OK, length: 0 })
      if (type === T.MAP) map(domain, PAGE, BASE, PAGE)
      else unmap(domain, PAGE, PAGE)
      expect([domain.commit(), domain.broken]).toEqual([DMA_FAILED, type === T.UNMAP])
    }
    for (const type of [T.PROBE, T.ATTACH]) {
      const { device, iommu } = await started()
      device.misbehave = answers(type, { status: S.OK, length: 0 })
      expect(await failure(() => iommu.attach(8, 'net0'))).toBe(type === T.PROBE ? 'IOMMU_PROBE' : 'IOMMU_ATTACH')
    }
  })

  test('a status that was not written is a failure, also where an earlier one was OK', async () => {
    const { device, domain, iommu } = await attached()
    for (const type of [T.MAP, T.UNMAP]) {
      device.misbehave = () => undefined
      map(domain, PAGE, BASE, PAGE)
      unmap(domain, PAGE, PAGE)
      expect(domain.commit()).toBe(DMA_OK)
      device.misbehave = answers(type, { unwritten: true, length: 4 })
      map(domain, PAGE, BASE, PAGE)
      unmap(domain, PAGE, PAGE)
      expect(domain.commit()).toBe(DMA_FAILED)
    }
    for (const type of [T.PROBE, T.ATTACH]) {
      device.misbehave = answers(type, { unwritten: true })
      expect(await failure(() => iommu.attach(9, 'blk0'))).toBe(type === T.PROBE ? 'IOMMU_PROBE' : 'IOMMU_ATTACH')
    }
  })

  test('PROBE and ATTACH: an IommuError, the endpoint is not listed, and the next one goes on', async () => {
    for (const [type, code] of [
      [T.PROBE, 'IOMMU_PROBE'],
      [T.ATTACH, 'IOMMU_ATTACH'],
    ] as const) {
      const { device, iommu } = await started()
      device.misbehave = answers(type, { status: S.NOENT })
      expect(await failure(() => iommu.attach(8, 'net0'))).toBe(code)
      expect(iommu.endpoints.size).toBe(0)
      device.misbehave = () => undefined
      expect(iommu.attach(9, 'blk0').id).toBe(0)
    }
  })

  test('DETACH: IOMMU_DETACH with the endpoint and the status, and nobody else gets the domain of an endpoint that may still be attached', async () => {
    const { device, domain, iommu } = await attached()
    for (const [answer, status] of [
      [{ status: S.DEVERR }, S.DEVERR],
      [{ unwritten: true }, null],
    ] as const) {
      device.misbehave = answers(T.DETACH, answer)
      expect(() => domain.dispose()).toThrow(
        expect.objectContaining({ code: 'IOMMU_DETACH', part: 'net0', details: { endpoint: 8, domain: 0, status } }),
      )
    }
    device.misbehave = () => undefined
    expect(iommu.attach(9, 'blk0').id).not.toBe(domain.id)
  })

  test('a refused DETACH is asked for once more when dispose is called again, and is an error while mappings are left', async () => {
    for (const again of [undefined, { status: S.DEVERR }]) {
      const { device, domain } = await attached()
      map(domain, PAGE, BASE, PAGE)
      domain.commit()
      device.misbehave = answers(T.DETACH, { status: S.DEVERR })
      expect(await failure(() => domain.dispose())).toBe('IOMMU_DETACH')
      device.misbehave = () => again
      const asked = device.requests.length
      expect(await failure(() => domain.dispose())).toBe(again === undefined ? 'nothing was thrown' : 'IOMMU_DETACH')
      expect(device.requests.slice(asked).map(({ type }) => type)).toEqual([T.DETACH])
      expect(device.translate(8, PAGE)).toBe(again === undefined ? -1 : BASE)
    }
  })

  test('a refused DETACH: the backend gives its memory back when the endpoint is attached again (§5.13.6.3.2)', async () => {
    const rig = await started()
    const { device, iommu, memory, ram } = rig
    const { available } = ram
    for (let round = 0; round < 5; round++) {
      device.misbehave = () => undefined
      const domain = iommu.attach(8, 'net0')
      // What an earlier round could not give back is there again, and its domain too.
      expect([ram.available, domain.id]).toEqual([available, round % 2])
      const backend = new IommuBackend({ name: 'net0', memory, ram, domain })
      backend.alloc(PAGE, 8, 3, 'ring')
      device.misbehave = answers(T.DETACH, { status: S.DEVERR })
      const held = ram.available
      for (let times = 0; times < 2; times++) {
        expect(await failure(() => backend.dispose())).toBe('DMA_STILL_REACHABLE')
        expect([ram.available, held < available]).toEqual([held, true])
      }
    }
    await iommu.close()
    expect(ram.available).toBe(BYTES)
  })

  test('a refused DETACH: who asks after the IOMMU was reset is told at once', async () => {
    const { device, domain, iommu } = await attached()
    device.misbehave = answers(T.DETACH, { status: S.DEVERR })
    expect(await failure(() => domain.dispose())).toBe('IOMMU_DETACH')
    await iommu.close()
    let gone = 0
    domain.whenGone(() => gone++)
    expect(gone).toBe(1)
  })

  test('a refused DETACH: where all domains are taken, those that were given up are asked once more', async () => {
    const { device, iommu } = await started({ domains: [7, 7] })
    const domain = iommu.attach(8, 'net0')
    device.misbehave = answers(T.DETACH, { status: S.DEVERR })
    expect(await failure(() => domain.dispose())).toBe('IOMMU_DETACH')
    let gone = 0
    domain.whenGone(() => gone++)
    expect([await failure(() => iommu.attach(8, 'net0')), gone]).toEqual(['IOMMU_DOMAINS', 0])
    device.misbehave = () => undefined
    expect([iommu.attach(8, 'net0').id, gone]).toEqual([domain.id, 1])
  })

  test('a refused DETACH: everybody is told of the reset, whatever another one throws', async () => {
    const { device, domain, iommu } = await attached()
    const other = iommu.attach(9, 'blk0')
    device.misbehave = answers(T.DETACH, { status: S.DEVERR })
    for (const each of [domain, other]) expect(await failure(() => each.dispose())).toBe('IOMMU_DETACH')
    const told: string[] = []
    domain.whenGone(() => {
      throw new Error('a release that fails')
    })
    domain.whenGone(() => told.push('net0'))
    other.whenGone(() => told.push('blk0'))
    const surfaced = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation(() => {})
    await iommu.close()
    expect(surfaced).toHaveBeenCalledTimes(1)
    surfaced.mockRestore()
    expect([told, iommu.endpoints.size]).toEqual([['net0', 'blk0'], 0])
  })

  test('a refused DETACH: memory goes back with a reset that was confirmed, also where something else fails then', async () => {
    const { device, domain, iommu } = await attached()
    device.misbehave = answers(T.DETACH, { status: S.DEVERR })
    expect(await failure(() => domain.dispose())).toBe('IOMMU_DETACH')
    let gone = 0
    domain.whenGone(() => gone++)
    iommu.session.onRelease(() => {
      throw new Error('a release that fails')
    })
    await expect(iommu.close()).rejects.toThrow('a release that fails')
    expect([device.status, gone]).toEqual([0, 1])
  })
})

describe('a device that does not answer', () => {
  test('DMA_FAILED within the deadline, for good and for all domains', async () => {
    const { device, domain, iommu, clock } = await attached()
    const other = iommu.attach(9, 'blk0')
    device.silent = true
    const { now } = clock
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_FAILED)
    expect(clock.now - now).toBeLessThanOrEqual(DEADLINE)
    const { pumps } = clock
    device.silent = false
    // Nobody waits again.
    expect([domain.commit(), other.commit(), clock.pumps]).toEqual([DMA_FAILED, DMA_FAILED, pumps])
    for (let i = 0; i < 600; i++) unmap(other, PAGE, PAGE)
    expect([other.commit(), clock.pumps]).toEqual([DMA_FAILED, pumps])
  })

  test('attach throws IOMMU_STUCK; the reset that follows detaches what is attached', async () => {
    const { device, domain, iommu, clock } = await attached()
    device.silent = true
    const { now } = clock
    expect(await failure(() => iommu.attach(9, 'blk0'))).toBe('IOMMU_STUCK')
    expect(await failure(() => domain.dispose())).toBe('nothing was thrown')
    expect(clock.now - now).toBeLessThanOrEqual(DEADLINE)
    expect([iommu.endpoints.size, device.status, device.attached.size]).toEqual([0, 0, 0])
  })

  test('where it is not reset either, dispose throws IOMMU_DETACH until it is', async () => {
    for (const waiting of ['commit', 'dispose'] as const) {
      const { device, domain, iommu, clock } = await attached()
      let gone = 0
      domain.whenGone(() => gone++)
      device.silent = device.stuckReset = true
      const { now } = clock
      map(domain, PAGE, BASE, PAGE)
      if (waiting === 'commit') expect(domain.commit()).toBe(DMA_FAILED)
      const refused = expect.objectContaining({ code: 'IOMMU_DETACH', cause: iommu.broken ?? expect.anything() })
      expect(() => domain.dispose()).toThrow(refused)
      // Once for the answer, once for the reset.
      expect(clock.now - now).toBeLessThanOrEqual(2 * DEADLINE)
      expect([iommu.endpoints.size, gone]).toEqual([1, 0])
      device.stuckReset = false
      await iommu.close()
      expect([iommu.endpoints.size, gone]).toEqual([0, 1])
    }
  })

  test('one lost answer among many is as bad, also where the queue is full', async () => {
    for (const many of [3, 400]) {
      const { device, domain } = await attached()
      let seen = 0
      device.misbehave = ({ type }) => (type === T.MAP && seen++ === 1 ? { lost: true } : undefined)
      for (let i = 0; i < many; i++) map(domain, PAGE * (i + 1), BASE, PAGE)
      expect([domain.commit(), domain.broken]).toEqual([DMA_FAILED, true])
    }
  })

  test('a device that answers just before the deadline is in time', async () => {
    const { device, domain, clock } = await attached()
    const { now } = clock
    const pump = device.pump.bind(device)
    device.pump = () => (clock.now >= now + DEADLINE - 100 ? pump() : undefined)
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_OK)
  })

  test('it can be closed all the same: the reset takes everything back', async () => {
    const { device, domain, iommu, ram } = await attached()
    device.silent = true
    map(domain, PAGE, BASE, PAGE)
    domain.commit()
    await iommu.close()
    expect([device.status, ram.available]).toEqual([0, BYTES])
  })

  test('a reset that does not end: close rejects each time, and no domain says that it is detached', async () => {
    const { device, domain, iommu, ram } = await attached()
    const { available } = ram
    device.stuckReset = true
    const closing = iommu.close()
    expect(await failure(() => domain.dispose())).not.toBe('nothing was thrown')
    expect(await failure(() => closing)).not.toBe('nothing was thrown')
    expect(await failure(() => iommu.close())).not.toBe('nothing was thrown')
    expect(ram.available).toBe(available)
  })

  test('at start: nothing is kept waiting', async () => {
    const rig = driverRig()
    rig.device.stuckReset = true
    rig.device.status = 1
    expect(await failure(() => VirtioIommu.start(rig.options))).not.toBe('nothing was thrown')
    expect(rig.clock.now).toBeLessThanOrEqual(3 * DEADLINE)
  })
})

describe('used rings', () => {
  test('answers in another order are answers all the same', async () => {
    const { device, domain } = await attached()
    device.reversed = true
    let seen = 0
    device.misbehave = ({ type }) => (type === T.MAP && seen++ === 2 ? { status: S.NOMEM } : undefined)
    for (let i = 0; i < 50; i++) map(domain, PAGE * (i + 1), BASE, PAGE)
    expect([domain.commit(), device.mapped.get(0)?.length]).toEqual([DMA_EXHAUSTED, 49])
    expect(domain.commit()).toBe(DMA_OK)
  })

  test.each([
    ['an id out of range', 0xffff],
    ['an id beyond 16 bits', 0xffff_ffff],
    ['an id that is not outstanding', 511],
  ])('%s breaks the queue: a failure, and no wait', async (_, id) => {
    const { device, domain, iommu, clock } = await attached()
    const other = iommu.attach(9, 'blk0')
    device.misbehave = answers(T.MAP, { id })
    const { pumps } = clock
    map(domain, PAGE, BASE, PAGE)
    expect([domain.commit(), other.commit(), clock.pumps - pumps]).toEqual([DMA_FAILED, DMA_FAILED, 1])
    expect(await failure(() => iommu.attach(10, 'net1'))).toBe('IOMMU_STUCK')
    // It was reset, so nothing is attached.
    expect(await failure(() => domain.dispose())).toBe('nothing was thrown')
    expect([device.status, iommu.broken?.code]).toEqual([0, 'IOMMU_STUCK'])
  })

  test('the same id twice breaks the queue', async () => {
    const { device, domain } = await attached()
    let first = -1
    device.misbehave = ({ type, id }) => {
      if (type !== T.MAP) return undefined
      if (first < 0) first = id
      return { id: first }
    }
    for (let i = 0; i < 3; i++) map(domain, PAGE * (i + 1), BASE, PAGE)
    expect([domain.commit(), domain.broken]).toEqual([DMA_FAILED, true])
  })

  test('an index that runs ahead of what was sent breaks the queue', async () => {
    const { device, domain } = await attached()
    device.jump(0, 5)
    map(domain, PAGE, BASE, PAGE)
    expect([domain.commit(), domain.commit(), domain.broken]).toEqual([DMA_FAILED, DMA_FAILED, true])
  })

  test('used lengths above what was posted are taken for what was posted', async () => {
    const { device, domain } = await attached()
    device.misbehave = answers(T.MAP, { length: 0xffff_ffff })
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_OK)
  })
})
