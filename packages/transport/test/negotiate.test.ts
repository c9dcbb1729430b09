import {
  type CandidateReport,
  DirectBackend,
  type DmaBackend,
  type DmaChoice,
  DmaError,
  type DmaProvider,
  listedIds,
  type PlatformOffer,
  platformOffer,
  type Suitability,
} from '@guestdma/dma'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import {
  FeatureSet,
  MMIO_DRIVER_FEATURES,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_SEL,
  MMIO_STATUS,
  STATUS_ACKNOWLEDGE,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_SWIOTLB,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import {
  DeviceStuckError,
  MmioTransport,
  type Negotiated,
  negotiate,
  PciTransport,
  type Wait,
} from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { Registers, type RegistersOptions } from './support/registers.ts'
import { behindPci } from './support/registers-pci.ts'

const UP_TO_DRIVER = STATUS_ACKNOWLEDGE | STATUS_DRIVER
const UP_TO_FEATURES = UP_TO_DRIVER | STATUS_FEATURES_OK

const memory = new GuestMemory([{ base: 0, length: 0x1000, memory: new ArrayBuffer(0x1000) }])
const backend = (): DmaBackend => new DirectBackend({ memory, ram: new SpanAllocator(guestAddress(0), 0x1000) })

interface ProviderOptions {
  readonly reach?: DmaProvider['reach']
  readonly accept?: readonly number[]
  readonly fit?: 'required' | 'usable'
  assess?(offer: PlatformOffer): Suitability
  create?(offer: PlatformOffer, agreed: FeatureSet): DmaBackend | Promise<DmaBackend>
}

function provider(
  id: string,
  { reach = 'all', accept = [], fit = 'usable', assess, create = backend }: ProviderOptions = {},
): DmaProvider {
  return { id, reach, assess: assess ?? (() => ({ fit, accept: FeatureSet.of(...accept), why: `${id} fits` })), create }
}

interface Run {
  readonly registers: Registers
  readonly result: Negotiated
  readonly error: {
    readonly code: string
    readonly message: string
    readonly details: { readonly candidates: CandidateReport[] }
  }
}

interface RunOptions extends RegistersOptions {
  readonly understood?: readonly number[]
  readonly dependencies?: ReadonlyArray<readonly [number, number]>
  readonly providers?: (registers: Registers) => readonly DmaProvider[]
  readonly dma?: DmaChoice
  readonly wait?: Wait
}

/** Negotiates; of `result` and `error` one is there. What the driver does over PCI is in `registers` as well. */
async function runOver(kind: 'mmio' | 'pci', options: RunOptions): Promise<Run> {
  const registers = new Registers(options)
  const transport =
    kind === 'mmio' ? MmioTransport.probe(registers, 'dev0') : PciTransport.probe(behindPci(registers), 'dev0')
  if (transport === null) throw new Error('no device')
  registers.log.length = 0
  const { dma = 'auto' } = options
  const offer = (offered: FeatureSet): PlatformOffer =>
    platformOffer({
      device: 'dev0',
      offered,
      transport: { kind, transitional: false },
      memory,
      ram: new SpanAllocator(guestAddress(0), 0x1000),
      listed: listedIds(dma),
    })
  const outcome = await negotiate({
    transport,
    understood: FeatureSet.of(...(options.understood ?? [])),
    dependencies: options.dependencies ?? [],
    providers: options.providers?.(registers) ?? [provider('only')],
    dma,
    offer,
    wait: options.wait ?? { pump: () => {} },
  }).then(
    (result) => ({ result }),
    (error: unknown) => ({ error }),
  )
  return { registers, ...outcome } as unknown as Run
}

const offers = (...bits: number[]): (() => FeatureSet) => {
  const set = FeatureSet.of(VIRTIO_F_VERSION_1, ...bits)
  return () => set
}

const ladder = (reports: readonly CandidateReport[]): [string, string | undefined][] =>
  reports.map(({ id, outcome }) => [id, outcome])

describe.each(['mmio', 'pci'] as const)('over %s', (kind) => {
  const run = (options: RunOptions = {}): Promise<Run> => runOver(kind, options)

  describe('init/order (virtio 1.4 §3.1.1)', () => {
    it('resets, waits for 0, ACKNOWLEDGE, DRIVER, reads and writes features, FEATURES_OK, reads status', {
      tags: [
        '2.1.1/failed-then-reset',
        '3.4.1/suspend-if-agreed',
        '2.1.1/steps',
        '3.1.1/order',
        '3.1.1/features-final',
        '4.2.3.1.1/general-procedure',
      ],
    }, async () => {
      const { registers, result } = await run()
      expect(result.scheme).toBe('only')
      expect(registers.writes(MMIO_STATUS)).toEqual([0, STATUS_ACKNOWLEDGE, UP_TO_DRIVER, UP_TO_FEATURES])
      expect(registers.short()).toEqual([
        'w070=0',
        'r070',
        'r070',
        'w070=1',
        'r070',
        'w070=3',
        ...[0, 1, 2, 3].flatMap((i) => [`w014=${i}`, 'r010']),
        ...['w024=1', 'w020=1', 'w024=0', 'w020=0'],
        ...(kind === 'pci' ? ['w024=0', 'r020', 'w024=1', 'r020'] : []),
        'r070',
        'w070=b',
        'r070',
      ])
    })

    it('touches no queue and notifies nobody', async () => {
      const { registers } = await run()
      expect(registers.writes(MMIO_QUEUE_SEL)).toEqual([])
      expect(registers.writes(MMIO_QUEUE_NOTIFY)).toEqual([])
    })

    it('creates the backend only after FEATURES_OK was written and read back', async () => {
      const seen: string[] = []
      const { result } = await run({
        providers: (registers) => [
          provider('only', {
            create: () => {
              seen.push(...registers.short().slice(-2))
              return backend()
            },
          }),
        ],
      })
      expect(result.scheme).toBe('only')
      expect(seen).toEqual(['w070=b', 'r070'])
    })

    it('waits for a slow reset by letting the platform run, and goes on only once Status reads 0', {
      tags: ['2.4.2/wait-for-zero'],
    }, async () => {
      let pumps = 0
      const { registers, result } = await run({
        resetting: (reads) => (reads < 5 ? 0x8f : 0),
        wait: { pump: () => pumps++ },
      })
      expect(result.scheme).toBe('only')
      expect(pumps).toBeGreaterThan(0)
      const reads = Array.from({ length: 7 }, () => 'r070')
      expect(registers.short().slice(0, 9)).toEqual(['w070=0', ...reads, 'w070=1'])
    })

    it('ignores what a device puts above the 8 bits of its status', async () => {
      const { result } = await run({ resetting: () => 0xffff_ff00 })
      expect(result.scheme).toBe('only')
    })
  })

  describe('init/status: bits are added to what the device says (virtio 1.4 §2.1.1)', () => {
    it('does not clear DEVICE_NEEDS_RESET that the device set meanwhile', { tags: ['2.1.1/no-clearing'] }, async () => {
      const { registers } = await run({
        offered: () => FeatureSet.of(VIRTIO_F_VERSION_1),
        accepts: () => true,
        raises: { status: STATUS_DEVICE_NEEDS_RESET, after: UP_TO_DRIVER },
      })
      expect(registers.writes(MMIO_STATUS).slice(-1)).toEqual([UP_TO_FEATURES | STATUS_DEVICE_NEEDS_RESET])
      expect(registers.status).toBe(UP_TO_FEATURES | STATUS_DEVICE_NEEDS_RESET)
    })
  })

  describe('init/words: a register file that knows fewer feature words (virtio 1.4 §2.2)', () => {
    const platform = offers(5, VIRTIO_F_ACCESS_PLATFORM)

    it.each([
      ['takes every selector but 0 for 1, as QEMU 7.2 does', (selector: number) => (selector === 0 ? 0 : 1)],
      ['takes the lowest bit of a selector', (selector: number) => selector & 1],
    ])('keeps VERSION_1 and ACCESS_PLATFORM where it %s', async (_, selector) => {
      const { registers, result } = await run({ offered: platform, understood: [5, 65, 96, 97], selector })
      expect(result.features.bits()).toEqual([5, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM])
      expect(registers.written.bits()).toEqual([5, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM])
    })

    it('believes word 2 of a device that has four', async () => {
      const { result } = await run({ offered: offers(64, 96 + 31), understood: [64, 127] })
      expect(result.features.bits()).toEqual([VIRTIO_F_VERSION_1, 64, 127])
    })

    it.runIf(kind === 'pci')('refuses a device that holds other features than were written (§4.1.4.3)', async () => {
      const { registers, error } = await run({ offered: platform, held: (word) => (word === 1 ? 1 : 0) })
      expect(error.code).toBe('DMA_NO_USABLE_BACKEND')
      expect(error.details.candidates[0].outcome).toContain('holds the features {32}')
      expect(registers.status & STATUS_FEATURES_OK).toBe(0)
    })

    it('takes a register that always reads 0 for one that does not tell', async () => {
      const { result } = await run({ offered: platform, held: () => 0 })
      expect(result.scheme).toBe('only')
    })
  })

  describe('init/features: only offered and understood bits, with their dependencies (virtio 1.4 §2.2.1)', () => {
    it('accepts the intersection of what is offered and what is understood', {
      tags: ['2.2.1/offered-and-met'],
    }, async () => {
      const { registers, result } = await run({ offered: offers(1, 5, 6, 64, 70), understood: [5, 6, 7, 70] })
      expect(result.features.bits()).toEqual([5, 6, 32, 70])
      expect(registers.written.bits()).toEqual([5, 6, 32, 70])
    })

    it('does not fail because of bits that it does not know, and accepts none of them', {
      tags: ['2.2.1/unknown-ignored', '2.2.1/unknown-no-failure'],
    }, async () => {
      const all = FeatureSet.of(...Array.from({ length: 128 }, (_, i) => i))
      const { result } = await run({ offered: () => all, understood: [5] })
      expect(result.features.bits()).toEqual([5, VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ORDER_PLATFORM])
      expect(result.features.has(VIRTIO_F_RING_PACKED)).toBe(false)
    })

    it('writes nothing that is not offered, even if the driver understands it', {
      tags: ['2.2.1/offered-and-met'],
    }, async () => {
      const { registers } = await run({
        offered: offers(),
        understood: [0, 5, VIRTIO_F_EVENT_IDX, 33, 36, 38, 40, 64, 127],
      })
      expect(registers.writes(MMIO_DRIVER_FEATURES)).toEqual([1, 0])
    })

    it('accepts ACCESS_PLATFORM and ORDER_PLATFORM wherever they are offered (§6.1)', {
      tags: ['6.1/version-1', '6.1/order-platform', '6.1/access-platform'],
    }, async () => {
      const { result } = await run({ offered: offers(VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ORDER_PLATFORM) })
      expect(result.features.bits()).toEqual([32, 33, 36])
    })

    it('leaves bit 27 alone unless the chosen scheme asks for it: swiotlb/offer', async () => {
      const ignored = await run({ offered: offers(VIRTIO_F_SWIOTLB), understood: [VIRTIO_F_SWIOTLB] })
      expect(ignored.result.features.bits()).toEqual([32])
      const wanted = await run({
        offered: offers(VIRTIO_F_SWIOTLB),
        providers: () => [provider('region', { accept: [VIRTIO_F_SWIOTLB] })],
      })
      expect(wanted.result.features.bits()).toEqual([27, 32])
    })

    it('drops a bit whose need is not offered, and what needs that bit in turn', {
      tags: ['2.2.1/offered-and-met'],
    }, async () => {
      const chain = [
        [7, 1],
        [9, 7],
        [11, 9],
        [21, 17],
      ] as const
      const { result } = await run({
        offered: offers(7, 9, 11, 17, 21),
        understood: [1, 7, 9, 11, 17, 21],
        dependencies: chain,
      })
      expect(result.features.bits()).toEqual([17, 21, 32])
    })

    it('keeps dependent bits whose needs are met', async () => {
      const { result } = await run({ offered: offers(1, 7), understood: [1, 7], dependencies: [[7, 1]] })
      expect(result.features.bits()).toEqual([1, 7, 32])
    })

    it('ends on dependencies that form a circle', async () => {
      const { result } = await run({
        offered: offers(1, 7),
        understood: [1, 7, 9],
        dependencies: [
          [1, 7],
          [7, 9],
          [9, 1],
        ],
      })
      expect(result.features.bits()).toEqual([32])
    })
  })

  describe('init/version-1: a device without VERSION_1 is refused', () => {
    it('says so, writes no feature and gives up', { tags: ['2.2.1/missing-feature'] }, async () => {
      const { registers, error } = await run({ offered: () => FeatureSet.of(5, 27, 28) })
      expect(error).toMatchObject({ code: 'TRANSPORT_LEGACY', details: { offered: [5, 27, 28] } })
      expect(registers.writes(MMIO_DRIVER_FEATURES)).toEqual([])
      expect(registers.status & STATUS_FAILED).toBe(STATUS_FAILED)
      expect(registers.writes(MMIO_STATUS).some((status) => (status & STATUS_FEATURES_OK) !== 0)).toBe(false)
    })
  })

  describe('init/ladder: refusals cost one rung each', () => {
    const two = (): DmaProvider[] => [
      provider('first', { reach: 'pool', accept: [VIRTIO_F_SWIOTLB] }),
      provider('second', { reach: 'pool' }),
    ]

    it('resets after FEATURES_OK was refused and goes on to the next candidate', async () => {
      const { registers, result } = await run({
        offered: offers(VIRTIO_F_SWIOTLB),
        accepts: (features) => !features.has(VIRTIO_F_SWIOTLB),
        providers: two,
      })
      expect(result.scheme).toBe('second')
      expect(result.features.bits()).toEqual([32])
      expect(ladder(result.ladder)).toEqual([
        ['first', expect.stringContaining('refused')],
        ['second', undefined],
      ])
      expect(registers.writes(MMIO_STATUS)).toEqual([0, 1, 3, 11, 0, 1, 3, 11])
    })

    it.each([
      [
        'throws',
        () => {
          throw new DmaError('DMA_ALLOC', 'first', 'no room')
        },
      ],
      ['rejects', () => Promise.reject(new DmaError('DMA_ALLOC', 'first', 'no room'))],
    ])('resets after create() %s and goes on to the next candidate', async (_how, create) => {
      const { registers, result } = await run({ providers: () => [provider('first', { create }), provider('second')] })
      expect(result.scheme).toBe('second')
      expect(result.ladder[0].outcome).toContain('no room')
      expect(registers.writes(MMIO_STATUS)).toEqual([0, 1, 3, 11, 0, 1, 3, 11])
    })

    it('lets create() see the features that were agreed on', async () => {
      const seen: number[][] = []
      await run({
        offered: offers(5, VIRTIO_F_ACCESS_PLATFORM),
        understood: [5],
        providers: () => [
          provider('only', {
            create: (offer, agreed) => {
              seen.push(agreed.bits(), offer.offered.bits())
              return backend()
            },
          }),
        ],
      })
      expect(seen).toEqual([
        [5, 32, 33],
        [5, 32, 33],
      ])
    })

    it('reports the whole ladder and sets FAILED once none is left', { tags: ['3.1.1/failed'] }, async () => {
      const { registers, error } = await run({
        accepts: () => false,
        providers: () => [
          ...two(),
          provider('third', { assess: () => ({ fit: 'unusable', why: 'no such thing here' }) }),
        ],
      })
      expect(error.code).toBe('DMA_NO_USABLE_BACKEND')
      expect(ladder(error.details.candidates)).toEqual([
        ['first', expect.stringContaining('refused')],
        ['second', expect.stringContaining('refused')],
        ['third', undefined],
      ])
      expect(error.message).toContain('no such thing here')
      expect(registers.writes(MMIO_STATUS).at(-1)).toBe(UP_TO_DRIVER | STATUS_FAILED)
    })

    it('refuses before any feature is written where nothing fits', {
      tags: ['3.1.1/end-of-initialisation'],
    }, async () => {
      const { registers, error } = await run({
        providers: () => [provider('none', { assess: () => ({ fit: 'unusable', why: 'no memory' }) })],
      })
      expect(error.code).toBe('DMA_NO_USABLE_BACKEND')
      expect(registers.writes(MMIO_DRIVER_FEATURES)).toEqual([])
      expect(registers.writes(MMIO_STATUS)).toEqual([0, 1, 3, UP_TO_DRIVER | STATUS_FAILED])
    })

    it('has nobody registered', async () => {
      const { error } = await run({ providers: () => [] })
      expect(error.code).toBe('DMA_NO_USABLE_BACKEND')
      expect(error.details.candidates).toEqual([])
    })

    it('tries what is required first', async () => {
      const { result } = await run({
        providers: () => [provider('usable'), provider('required', { fit: 'required', reach: 'pool' })],
      })
      expect(result.scheme).toBe('required')
    })

    it('never clears a status bit except by a reset (§2.1.1)', { tags: ['2.1.1/no-clearing'] }, async () => {
      const { registers } = await run({ accepts: () => false, providers: two })
      let before = 0
      for (const status of registers.writes(MMIO_STATUS)) {
        if (status !== 0) expect(before & ~status).toBe(0)
        // What the device did not take is not set either.
        before = status === 0 ? 0 : status & ~STATUS_FEATURES_OK
      }
      expect(registers.writes(MMIO_STATUS).length).toBeGreaterThan(4)
    })
  })

  describe('init/downgrade: never descends to less confinement by itself', () => {
    const pool = (): DmaProvider => provider('pool', { reach: 'pool', accept: [VIRTIO_F_ACCESS_PLATFORM] })
    const direct = (): DmaProvider => provider('direct', { reach: 'all' })

    it('refuses what confines less after the device refused the confined one', async () => {
      const { registers, error } = await run({
        offered: offers(VIRTIO_F_ACCESS_PLATFORM),
        accepts: () => false,
        providers: () => [pool(), direct()],
      })
      expect(error).toMatchObject({ code: 'DMA_DOWNGRADE_REFUSED', details: { refused: 'direct', stronger: 'pool' } })
      expect(error.details.candidates.map(({ id }) => id)).toEqual(['pool', 'direct'])
      expect(registers.status & STATUS_FAILED).toBe(STATUS_FAILED)
      // One rung, not two.
      expect(registers.resets).toBe(1)
    })

    it('is not talked into it by a device that hides ACCESS_PLATFORM', async () => {
      const picky = provider('pool', {
        reach: 'pool',
        assess: (offer) =>
          offer.offered.has(VIRTIO_F_ACCESS_PLATFORM)
            ? { fit: 'usable', accept: FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM), why: 'fits' }
            : { fit: 'unusable', why: 'needs ACCESS_PLATFORM' },
      })
      const { error } = await run({ offered: offers(), providers: () => [picky, direct()] })
      expect(error).toMatchObject({ code: 'DMA_DOWNGRADE_REFUSED', details: { refused: 'direct', stronger: 'pool' } })
    })

    it('does it where the caller listed both, in the caller’s order', async () => {
      let asked = 0
      const { result, registers } = await run({
        offered: offers(VIRTIO_F_ACCESS_PLATFORM),
        // Refuses the first time.
        accepts: () => asked++ > 0,
        providers: () => [pool(), direct()],
        dma: ['pool', 'direct'],
      })
      expect(result.scheme).toBe('direct')
      expect(registers.resets).toBe(2)
    })
  })

  describe('init/features: an offer that changes between rungs', () => {
    const providers = (): DmaProvider[] => [
      provider('first', { reach: 'pool', accept: [VIRTIO_F_ACCESS_PLATFORM] }),
      provider('second', { reach: 'pool', accept: [VIRTIO_F_ACCESS_PLATFORM] }),
      provider('third', { reach: 'pool' }),
    ]

    it('skips a candidate whose bits are gone, without FEATURES_OK', async () => {
      const { registers, result } = await run({
        offered: (resets) => (resets <= 1 ? FeatureSet.of(32, VIRTIO_F_ACCESS_PLATFORM) : FeatureSet.of(32)),
        accepts: (features) => !features.has(VIRTIO_F_ACCESS_PLATFORM),
        providers,
      })
      expect(result.scheme).toBe('third')
      expect(ladder(result.ladder)).toEqual([
        ['first', expect.stringContaining('refused')],
        ['second', expect.stringContaining('no longer offers {33}')],
        ['third', undefined],
      ])
      expect(registers.writes(MMIO_STATUS)).toEqual([0, 1, 3, 11, 0, 1, 3, 0, 1, 3, 11])
    })

    it('accepts on each rung only what is offered on that rung', { tags: ['2.2.1/validated'] }, async () => {
      const offered = [FeatureSet.of(32, 5, 6, 33), FeatureSet.of(32, 6, 7, 33)]
      const chosen: number[][] = []
      const { result } = await run({
        offered: (resets) => offered[Math.min(Math.max(resets, 1), 2) - 1],
        accepts: (features) => chosen.push(features.bits()) > 1,
        understood: [5, 6, 7],
        providers,
      })
      expect(chosen).toEqual([
        [5, 6, 32, 33],
        [6, 7, 32, 33],
      ])
      expect(result.features.bits()).toEqual([6, 7, 32, 33])
    })

    it('refuses a device that turns legacy on a later rung', async () => {
      const { registers, error } = await run({
        offered: (resets) => (resets <= 1 ? FeatureSet.of(32) : FeatureSet.of(27)),
        accepts: () => false,
        providers,
      })
      expect(error.code).toBe('TRANSPORT_LEGACY')
      expect(registers.status & STATUS_FAILED).toBe(STATUS_FAILED)
    })
  })

  describe('init/failed: FAILED is set on giving up, whatever the reason (§3.1.1)', () => {
    it('for a listed scheme that is not registered', async () => {
      const { registers, error } = await run({ dma: ['only', 'nowhere'] })
      expect(error).toMatchObject({ code: 'DMA_UNKNOWN_SCHEME', details: { id: 'nowhere', known: ['only'] } })
      expect(registers.status).toBe(UP_TO_DRIVER | STATUS_FAILED)
    })

    it('for two schemes that are both required', async () => {
      const { registers, error } = await run({
        providers: () => [provider('a', { fit: 'required' }), provider('b', { fit: 'required' })],
      })
      expect(error).toMatchObject({ code: 'DMA_CONFLICT', details: { ids: ['a', 'b'] } })
      expect(registers.status).toBe(UP_TO_DRIVER | STATUS_FAILED)
    })

    it('for a provider whose assess() throws', async () => {
      const { registers, error } = await run({
        providers: () => [
          provider('a', {
            assess: () => {
              throw new Error('broken plug-in')
            },
          }),
        ],
      })
      expect(error.message).toBe('broken plug-in')
      expect(registers.status).toBe(UP_TO_DRIVER | STATUS_FAILED)
    })
  })

  describe('reset/deadline', () => {
    it('gives up on a device that never finishes its reset, and offers it no feature', async () => {
      let time = 0
      let pumps = 0
      const { registers, error } = await run({
        resetting: () => 0x80,
        wait: { pump: () => pumps++, now: () => (time += 5), deadlineMs: 20 },
      })
      expect(error).toBeInstanceOf(DeviceStuckError)
      expect(error).toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK', details: { waitedMs: 20, quarantined: true } })
      expect(pumps).toBeGreaterThan(1)
      expect(registers.writes(MMIO_DRIVER_FEATURES)).toEqual([])
    })

    it.each([Number.NaN, Number.POSITIVE_INFINITY, -1, '5' as unknown as number])(
      'refuses a deadline of %s before the device is touched',
      async (deadlineMs) => {
        const { registers, error } = await run({ wait: { pump: () => {}, deadlineMs } })
        expect(error).toMatchObject({ code: 'TRANSPORT_WAIT', details: { deadlineMs } })
        expect(registers.log).toEqual([])
      },
    )

    it.each([
      ['stands still', () => 7],
      ['goes back', (call: number) => -call],
      ['is no number', () => Number.NaN],
    ])('ends as well with a clock that %s', async (_, clock) => {
      let calls = 0
      const { error } = await run({ resetting: () => 0x80, wait: { pump: () => {}, now: () => clock(calls++) } })
      expect(error).toBeInstanceOf(DeviceStuckError)
    })

    it('asks the device at least once, however short the deadline', async () => {
      const { result } = await run({ wait: { pump: () => {}, deadlineMs: 0 } })
      expect(result.scheme).toBe('only')
    })
  })
})
