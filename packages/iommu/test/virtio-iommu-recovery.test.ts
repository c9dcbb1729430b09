import { DMA_FAILED, DMA_OK } from '@guestdma/dma'
import { describe, expect, test } from 'vitest'
import { type IommuError, IommuUnit, VirtioIommu } from '../src/index.ts'
import { F, S } from './support/hand-iommu.ts'
import { BASE, BYTES, type DriverRig, driverRig, failure, map, type RigOptions, unmap } from './support/iommu-rig.ts'

const PAGE = 0x1000

function recoverable(options: RigOptions = {}): DriverRig & { unit: IommuUnit; errors: IommuError[] } {
  const rig = driverRig(options)
  const errors: IommuError[] = []
  const unit = new IommuUnit(() => ({ ...rig.options, onBroken: (error) => void errors.push(error) }))
  return { ...rig, unit, errors }
}

/** What goes wrong, once. */
const FAILURES: readonly (readonly [string, (rig: DriverRig) => void])[] = [
  [
    'it sets DEVICE_NEEDS_RESET',
    ({ device }) => {
      device.status |= 0x40
      device.silent = true
    },
  ],
  ['the platform resets it', ({ device }) => device.write(0x70, 4, 0)],
  [
    'it misses one deadline',
    ({ device }) => {
      device.misbehave = () => ({ lost: true })
    },
  ],
  [
    'it completes one request twice',
    ({ device }) => {
      device.misbehave = ({ id }) => {
        device.use(0, id, 4)
        return undefined
      }
    },
  ],
]

const repaired = ({ device }: DriverRig): void => {
  device.silent = false
  device.misbehave = () => undefined
}

describe.each(FAILURES)('an IOMMU that fails once: %s', (_, fail) => {
  test('commits fail and nothing hangs, an error names it once, and a new driver serves endpoints as they return', async () => {
    const rig = recoverable()
    const { unit, device, errors, ram } = rig
    const first = await unit.start()
    const [a, b] = [first.attach(8, 'net0'), first.attach(9, 'blk0')]
    fail(rig)
    map(a, PAGE, BASE, PAGE)
    expect([a.commit(), b.commit(), a.broken, b.broken]).toEqual([DMA_FAILED, DMA_FAILED, true, true])
    expect(errors.map(({ code, part }) => [code, part])).toEqual([['IOMMU_STUCK', 'iommu0']])
    // It was reset at once: nobody behind it reaches anything.
    expect([device.status, device.attached.size]).toEqual([0, 0])
    repaired(rig)
    a.dispose()
    const second = await unit.start()
    expect(second).not.toBe(first)
    const again = second.attach(8, 'net0')
    map(again, PAGE, BASE, PAGE)
    expect([again.commit(), device.translate(8, PAGE)]).toEqual([DMA_OK, BASE])
    // The other one has nothing until its own reset, and gives up what it had without touching the device.
    const sent = device.requests.length
    expect(b.commit()).toBe(DMA_FAILED)
    b.dispose()
    expect(device.requests.length).toBe(sent)
    map(second.attach(9, 'blk0'), PAGE, BASE + PAGE, PAGE)
    expect(again.commit()).toBe(DMA_OK)
    expect([device.translate(8, PAGE), device.translate(9, PAGE)]).toEqual([BASE, BASE + PAGE])
    await unit.close()
    expect([ram.available, errors.length]).toEqual([BYTES, 1])
  })

  test('a hundred times: no memory is lost', async () => {
    const rig = recoverable()
    const { unit, errors, ram } = rig
    const left: number[] = []
    for (let round = 0; round < 100; round++) {
      const iommu = await unit.start()
      const domain = iommu.attach(8, 'net0')
      left.push(ram.available)
      fail(rig)
      unmap(domain, PAGE, PAGE)
      expect(domain.commit()).toBe(DMA_FAILED)
      repaired(rig)
      domain.dispose()
    }
    expect(new Set(left).size).toBe(1)
    expect(errors).toHaveLength(100)
    await unit.close()
    expect(ram.available).toBe(BYTES)
  })
})

describe('what is noticed without a request', () => {
  test.each([
    ['DEVICE_NEEDS_RESET', 0x4f],
    ['a reset by somebody else', 0],
  ])('%s, by polling', async (_, status) => {
    const { unit, device, errors } = recoverable()
    const iommu = await unit.start()
    device.status = status
    for (let i = 0; i < 100; i++) unit.poll()
    expect([errors.length, iommu.broken?.code]).toEqual([1, 'IOMMU_STUCK'])
  })

  test('a transport that throws: a failure, and no exception', async () => {
    const { unit, device, errors } = recoverable()
    const iommu = await unit.start()
    const domain = iommu.attach(8, 'net0')
    device.silent = true
    device.read = () => {
      throw new Error('connection lost')
    }
    for (let i = 0; i < 100; i++) unit.poll()
    map(domain, PAGE, BASE, PAGE)
    expect([domain.commit(), errors.length]).toEqual([DMA_FAILED, 1])
    expect(await failure(() => domain.dispose())).toBe('IOMMU_DETACH')
  })

  test('a doorbell that throws: a failure, and no exception', async () => {
    const { unit, device, errors } = recoverable()
    const domain = (await unit.start()).attach(8, 'net0')
    const write = device.write.bind(device)
    device.write = (offset, size, value) => {
      if (offset === 0x50) throw new Error('connection lost')
      write(offset, size, value)
    }
    map(domain, PAGE, BASE, PAGE)
    expect([domain.commit(), errors.length]).toEqual([DMA_FAILED, 1])
    expect(errors[0].message).toMatch(/connection lost/)
  })
})

describe('an IOMMU that stays away', () => {
  test('starting again rejects each time, keeps nothing, and works once it is back', async () => {
    const { unit, device, ram } = recoverable()
    const domain = (await unit.start()).attach(8, 'net0')
    device.silent = device.stuckReset = true
    unmap(domain, PAGE, PAGE)
    domain.commit()
    const left = ram.available
    for (let i = 0; i < 3; i++) expect(await failure(() => unit.start())).toBe('TRANSPORT_DEVICE_STUCK')
    expect(ram.available).toBe(left)
    device.silent = device.stuckReset = false
    const [one, two] = await Promise.all([unit.start(), unit.start()])
    expect([one === two, one.attach(8, 'net0').id, ram.available]).toEqual([true, 0, left])
    await unit.close()
    expect(ram.available).toBe(BYTES)
  })
})

describe('the event queue', () => {
  const cases: readonly (readonly [string, (rig: DriverRig) => unknown])[] = [
    ['an id out of range', ({ device }) => device.report(new Uint8Array(24), 24, 0xffff)],
    ['an index that runs ahead', ({ device }) => device.jump(1, 1000)],
  ]

  test.each(cases)(
    '%s: an error says that reports have ended, mappings go on, and a restart brings them back',
    async (_, spoil) => {
      const rig = recoverable()
      const { unit, device, errors, faults } = rig
      const first = await unit.start()
      const domain = first.attach(8, 'net0')
      spoil(rig)
      for (let i = 0; i < 5; i++) expect(unit.poll()).toBe(0)
      expect(errors.map(({ code }) => code)).toEqual(['IOMMU_EVENTS'])
      map(domain, PAGE, BASE, PAGE)
      expect(domain.commit()).toBe(DMA_OK)
      // Not while it serves somebody.
      expect(await unit.start()).toBe(first)
      domain.dispose()
      const second = await unit.start()
      expect(second).not.toBe(first)
      second.attach(8, 'net0')
      device.report(Uint8Array.from({ length: 24 }, (__, i) => (i === 0 ? 2 : i === 8 ? 8 : 0)))
      expect([unit.poll(), faults[0]?.device]).toEqual([1, 'net0'])
    },
  )
})

describe('waits', () => {
  test.each([Number.NaN, -1, Infinity])('a deadline of %s ms is refused: TRANSPORT_WAIT', async (deadlineMs) => {
    const { options } = driverRig()
    expect(await failure(() => VirtioIommu.start({ ...options, wait: { ...options.wait, deadlineMs } }))).toBe(
      'TRANSPORT_WAIT',
    )
  })

  test.each([
    ['stands still', () => () => 5],
    ['says nothing', () => () => Number.NaN],
    [
      'goes back',
      () => {
        let now = 0
        return () => --now
      },
    ],
    [
      'goes to and fro',
      () => {
        let round = 0
        return () => (++round % 2) * 50
      },
    ],
  ] as const)('a clock that %s does not keep a commit waiting for ever', async (_, clock) => {
    const rig = driverRig()
    const iommu = await VirtioIommu.start({
      ...rig.options,
      wait: { pump: () => (rig.device.silent ? undefined : rig.device.pump()), now: clock(), deadlineMs: 100 },
    })
    const domain = iommu.attach(8, 'net0')
    rig.device.silent = true
    map(domain, PAGE, BASE, PAGE)
    expect(domain.commit()).toBe(DMA_FAILED)
  })
})

test('fields of the configuration are read with their feature only (§5.13.4): 8 bytes are enough for MAP_UNMAP', {
  tags: ['2.5.1/optional-fields', '2.5.1/no-size-limit', '2.5.1/large-enough'],
}, async () => {
  const { device, options } = driverRig({ features: [F.MAP_UNMAP], configBytes: 8 })
  const iommu = await VirtioIommu.start(options)
  expect([iommu.inputStart, iommu.inputEnd]).toEqual([0, 2 ** 48 - 1])
  const domain = iommu.attach(8, 'net0')
  map(domain, PAGE, BASE, PAGE)
  expect([domain.commit(), device.requests.length, S.OK]).toEqual([DMA_OK, 2, 0])
})
