import { readSync, writeSync } from 'node:fs'
import { DMA_FAILED, DMA_OK, DmaMappings, TO_DEVICE } from '@guestdma/dma'
import { DOMAIN_READ, DOMAIN_WRITE, IommuBackend } from '@guestdma/iommu'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { SharedMemory, waitReadable } from '@guestdma/node'
import { DEVICE_ID_BLOCK, STATUS_FEATURES_OK } from '@guestdma/spec'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { IotlbDomain, type IotlbDomainOptions, VhostUserTransport } from '../src/index.ts'
import { encodeAnswer, encodeRequest } from '../src/protocol/codec.ts'
import { BACKEND_IOTLB_MSG, IOTLB_MSG } from '../src/protocol/messages.ts'
import {
  IOTLB_ACCESS_FAIL,
  IOTLB_INVALIDATE,
  IOTLB_MISS,
  IOTLB_UPDATE,
  type IotlbMessage,
} from '../src/protocol/payload.ts'
import { FakeBackEnd } from './support/fake-back-end.ts'
import { missingSystem, titled } from './support/system.ts'

const RAM = 0x8000_0000
const USER = 2 ** 46 + RAM
const FIRST = 0x10_0000
const PAGE = 4096
const BOTH = DOMAIN_READ | DOMAIN_WRITE

let memory: SharedMemory
let backEnd: FakeBackEnd
let transport: VhostUserTransport
let pump: () => void

beforeEach(() => {
  if (missingSystem !== '') return
  memory = SharedMemory.create('ram', 1 << 20)
  backEnd = new FakeBackEnd()
  pump = backEnd.pump
  transport = VhostUserTransport.over(backEnd.theirs, {
    name: 'dev0',
    deviceId: DEVICE_ID_BLOCK,
    queues: 1,
    memory: [{ memory, device: RAM }],
    iotlb: true,
    wait: { pump: () => pump(), deadlineMs: 10_000 },
  })
  transport.writeFeatures(transport.readFeatures())
  transport.writeStatus(STATUS_FEATURES_OK)
})
afterEach(() => {
  transport?.close()
  backEnd?.close()
  memory?.close()
})

function map(domain: IotlbDomain, iova: number, guest: number, length: number, access: number): void {
  domain.request.set([iova, guest, length])
  domain.map(access)
}

function unmap(domain: IotlbDomain, iova: number, length: number): void {
  domain.request.set([iova, 0, length])
  domain.unmap()
}

/** The back end misses a translation. Returns what it is told, and which mapping it is given. */
function miss(iova: number, permission: number): [result: number, given: IotlbMessage | undefined] {
  backEnd.iotlb.length = 0
  const message = { iova, length: 0, user: 0, permission, type: IOTLB_MISS }
  const result = backEnd.ask(message, () => transport.takeInterrupts())
  backEnd.pump()
  return [result, backEnd.iotlb.at(0)]
}

describe.skipIf(missingSystem !== '')(titled('iotlb-domain (vhost-user, "IOMMU support")', missingSystem), () => {
  it('a mapping is told to the back end with its user address, a removal is done when commit returns', () => {
    const domain = new IotlbDomain(transport)
    map(domain, FIRST, RAM + PAGE, 2 * PAGE, DOMAIN_READ)
    expect(backEnd.iotlb).toEqual([])
    expect(domain.commit()).toBe(DMA_OK)
    unmap(domain, FIRST, 2 * PAGE)
    expect(domain.commit()).toBe(DMA_OK)
    expect(backEnd.iotlb).toEqual([
      { iova: FIRST, length: 2 * PAGE, user: USER + PAGE, permission: DOMAIN_READ, type: IOTLB_UPDATE },
      { iova: FIRST, length: 2 * PAGE, user: 0, permission: 0, type: IOTLB_INVALIDATE },
    ])
    expect(domain.counters).toMatchObject({ updates: 1, invalidations: 1 })
  })

  it('more requests than one batch takes are all done', () => {
    const domain = new IotlbDomain(transport)
    for (let i = 0; i < 200; i++) map(domain, FIRST + 2 * i * PAGE, RAM + i * PAGE, PAGE, BOTH)
    expect(domain.commit()).toBe(DMA_OK)
    expect(backEnd.iotlb.map(({ user }) => user)).toEqual(Array.from({ length: 200 }, (_, i) => USER + i * PAGE))
  })

  describe('misses', () => {
    it('are answered with the whole mapping, again and again', () => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST + PAGE, RAM, 3 * PAGE, DOMAIN_READ)
      map(domain, FIRST + 4 * PAGE, RAM + 8 * PAGE, PAGE, DOMAIN_WRITE)
      expect(domain.commit()).toBe(DMA_OK)
      const whole = { iova: FIRST + PAGE, length: 3 * PAGE, user: USER, permission: DOMAIN_READ, type: IOTLB_UPDATE }
      for (const at of [0, 1, 2, 2]) expect(miss(FIRST + (1 + at) * PAGE + 17, DOMAIN_READ)).toEqual([0, whole])
      const [, next] = miss(FIRST + 4 * PAGE, DOMAIN_WRITE)
      expect(next).toMatchObject({ iova: FIRST + 4 * PAGE, length: PAGE, user: USER + 8 * PAGE })
      expect(domain.counters).toMatchObject({ missesAnswered: 5, missesRefused: 0 })
    })

    it.each<[string, number, number]>([
      ['of what is not mapped', FIRST, DOMAIN_READ],
      ['of more than is allowed', FIRST + PAGE, BOTH],
      ['behind a mapping', FIRST + 2 * PAGE, DOMAIN_READ],
      ['below all addresses', 0, DOMAIN_READ],
      ['above all addresses', FIRST + 2 ** 30, DOMAIN_READ],
      ['beyond 2^53', 2 ** 63, DOMAIN_READ],
    ])('%s are refused', (_, iova, permission) => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST + PAGE, RAM, PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_OK)
      expect(miss(iova, permission)).toEqual([1, undefined])
      expect(domain.counters).toMatchObject({ missesAnswered: 0, missesRefused: 1 })
    })

    it('of what is taken back are refused before the removal is done', () => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST, RAM, PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_OK)
      unmap(domain, FIRST, PAGE)
      expect(miss(FIRST, DOMAIN_READ)).toEqual([1, undefined])
    })

    it('are answered while a commit waits for a back end that waits for them', () => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST, RAM, PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_OK)
      unmap(domain, FIRST + PAGE, PAGE)
      backEnd.answers.set(IOTLB_MSG.request, null)
      let asked = false
      pump = () => {
        backEnd.pump()
        if (!asked) {
          asked = true
          const message = { iova: FIRST, length: 0, user: 0, permission: DOMAIN_READ, type: IOTLB_MISS }
          writeSync(backEnd.channel, encodeRequest(BACKEND_IOTLB_MSG, message, true))
        }
        // Only now is the removal done.
        if (waitReadable([backEnd.channel], 0).length === 0) return
        readSync(backEnd.channel, new Uint8Array(20))
        backEnd.socket.send(encodeAnswer(IOTLB_MSG, 0))
      }
      expect(domain.commit()).toBe(DMA_OK)
      expect(domain.counters.missesAnswered).toBe(1)
    })

    it('accesses that failed are counted', () => {
      const domain = new IotlbDomain(transport)
      const message = { iova: FIRST, length: 0, user: 0, permission: DOMAIN_WRITE, type: IOTLB_ACCESS_FAIL }
      expect(backEnd.ask(message, () => transport.takeInterrupts())).toBe(0)
      expect(domain.counters.accessFailures).toBe(1)
    })

    it('without a domain every miss is refused', () => {
      expect(miss(FIRST, DOMAIN_READ)).toEqual([1, undefined])
    })
  })

  describe('failures', () => {
    it('a mapping that the back end refuses fails its commit, and the next one goes on', () => {
      const domain = new IotlbDomain(transport)
      backEnd.refused.add(IOTLB_MSG.request)
      map(domain, FIRST, RAM, PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_FAILED)
      backEnd.refused.clear()
      expect([domain.broken, domain.commit()]).toEqual([false, DMA_OK])
    })

    it('memory that the back end was not given cannot be mapped', () => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST, RAM + (1 << 20) - PAGE, 2 * PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_FAILED)
      expect([backEnd.iotlb, domain.broken]).toEqual([[], false])
    })

    it('a removal that is refused leaves the domain broken, and so does a connection that is lost', () => {
      const domain = new IotlbDomain(transport)
      backEnd.refused.add(IOTLB_MSG.request)
      unmap(domain, FIRST, PAGE)
      expect([domain.commit(), domain.broken, domain.commit()]).toEqual([DMA_FAILED, true, DMA_FAILED])
      const other = new IotlbDomain(transport)
      backEnd.close()
      map(other, FIRST, RAM, PAGE, DOMAIN_READ)
      expect([other.commit(), other.broken]).toEqual([DMA_FAILED, true])
      expect(transport.connection.lost).not.toBeNull()
    })

    it('dispose takes all away after a removal that was refused, in one request', () => {
      const domain = new IotlbDomain(transport)
      map(domain, FIRST, RAM, PAGE, DOMAIN_READ)
      expect(domain.commit()).toBe(DMA_OK)
      backEnd.refused.add(IOTLB_MSG.request)
      unmap(domain, FIRST, PAGE)
      expect([domain.commit(), domain.broken]).toEqual([DMA_FAILED, true])
      expect(() => domain.dispose()).toThrow(expect.objectContaining({ code: 'VHOST_IOTLB' }))
      backEnd.refused.clear()
      backEnd.iotlb.length = 0
      domain.dispose()
      expect(backEnd.iotlb).toEqual([{ iova: FIRST, length: 2 ** 30, user: 0, permission: 0, type: IOTLB_INVALIDATE }])
    })

    it('dispose takes all away, or says that it is not known to be gone until the process is', () => {
      new IotlbDomain(transport).dispose()
      expect(backEnd.iotlb).toEqual([{ iova: FIRST, length: 2 ** 30, user: 0, permission: 0, type: IOTLB_INVALIDATE }])
      const domain = new IotlbDomain(transport)
      backEnd.close()
      expect(() => domain.dispose()).toThrow(expect.objectContaining({ code: 'VHOST_IOTLB' }))
      transport.backEndEnded()
      expect(domain.detached).toBe(true)
      domain.dispose()
    })

    it('a connection that is lost while a removal waits: memory goes back once the process has ended, and not before', () => {
      const guest = new GuestMemory([{ base: RAM, length: 1 << 20, memory: memory.buffer }])
      const ram = new SpanAllocator(guestAddress(RAM), 1 << 20)
      const backend = new IommuBackend({ name: 'dev0', memory: guest, ram, domain: new IotlbDomain(transport) })
      backend.alloc(PAGE, 8, TO_DEVICE, 'ring')
      const m = new DmaMappings(1)
      m.guest[0] = ram.allocate(PAGE, PAGE)
      m.length[0] = PAGE
      m.direction[0] = TO_DEVICE
      expect([backend.map(m, 0), backend.commitMaps()]).toEqual([DMA_OK, DMA_OK])
      const { allocated } = ram
      pump = () => backEnd.close()
      backend.unmap(m, 0, 0)
      expect(backend.commitUnmaps()).toBe(DMA_FAILED)
      const cause = expect.objectContaining({ code: 'VHOST_IOTLB' })
      for (let times = 0; times < 2; times++) {
        expect(() => backend.dispose()).toThrow(expect.objectContaining({ code: 'DMA_STILL_REACHABLE', cause }))
        expect(ram.allocated).toBe(allocated)
      }
      transport.backEndEnded()
      expect(backend.commitUnmaps()).toBe(DMA_OK)
      backend.dispose()
      expect(ram.allocated).toBe(PAGE)
    })

    it.each([0, 100, 2 ** 40 + PAGE, Number.NaN])('iovaBytes of %d are refused', (iovaBytes) => {
      expect(() => new IotlbDomain(transport, { iovaBytes })).toThrow(expect.objectContaining({ code: 'VHOST_OPTION' }))
    })
  })

  it.each<[IotlbDomainOptions, number]>([
    [{}, DOMAIN_WRITE],
    [{ writeIsReadWrite: true }, BOTH],
  ])('what the device may write it may read where its peer asks for that: %o', (options, permission) => {
    const domain = new IotlbDomain(transport, options)
    map(domain, FIRST, RAM, PAGE, DOMAIN_WRITE)
    map(domain, FIRST + PAGE, RAM, PAGE, DOMAIN_READ)
    expect(domain.commit()).toBe(DMA_OK)
    expect(backEnd.iotlb.map((message) => message.permission)).toEqual([permission, DOMAIN_READ])
  })

  it('what the back end knows and what it is told at a miss is what is mapped, whatever came before', () => {
    const step = fc.record({
      on: fc.boolean(),
      page: fc.integer({ min: 0, max: 15 }),
      pages: fc.integer({ min: 1, max: 4 }),
      guest: fc.integer({ min: 0, max: 200 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const domain = new IotlbDomain(transport)
        backEnd.iotlb.length = 0
        // By page: the user address, and the first page of its mapping.
        const live = new Map<number, { user: number; first: number; pages: number }>()
        for (const { on, page, pages, guest } of steps) {
          const range = Array.from({ length: pages }, (_, i) => page + i)
          if (on && range.every((at) => !live.has(at))) {
            map(domain, FIRST + page * PAGE, RAM + guest * PAGE, pages * PAGE, BOTH)
            for (const [i, at] of range.entries()) live.set(at, { user: USER + (guest + i) * PAGE, first: page, pages })
          } else if (!on) {
            // Never cuts a mapping in two.
            const first = live.get(page)?.first ?? page
            const end = Math.max(
              ...range.map((at) => {
                const of = live.get(at)
                return of === undefined ? at + 1 : of.first + of.pages
              }),
            )
            unmap(domain, FIRST + first * PAGE, (end - first) * PAGE)
            for (let at = first; at < end; at++) live.delete(at)
          }
        }
        expect(domain.commit()).toBe(DMA_OK)
        const known = new Map<number, number>()
        for (const { iova, length, user, type } of backEnd.iotlb) {
          for (let i = 0; i < length / PAGE; i++) {
            const page = (iova - FIRST) / PAGE + i
            if (type === IOTLB_UPDATE) known.set(page, user + i * PAGE)
            else known.delete(page)
          }
        }
        expect(known).toEqual(new Map([...live].map(([page, { user }]) => [page, user])))
        for (let page = 0; page < 20; page++) {
          const mapping = live.get(page)
          const [result, given] = miss(FIRST + page * PAGE, BOTH)
          expect([result, given?.iova, given?.length]).toEqual(
            mapping === undefined ? [1, undefined, undefined] : [0, FIRST + mapping.first * PAGE, mapping.pages * PAGE],
          )
        }
      }),
      { numRuns: 30 },
    )
  })
})
