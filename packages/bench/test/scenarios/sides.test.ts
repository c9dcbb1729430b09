import { describe, expect, test, vi } from 'vitest'
import { type Prepared, type Scenario, variantsOf } from '../../src/contract/scenario.ts'
import { count } from '../../src/harness/count.ts'
import { modelRow } from '../../src/model/causes.ts'
import { parametersOf } from '../../src/model/parameters.ts'
import { requests } from '../../src/scenarios/blk.ts'
import * as net from '../../src/scenarios/net.ts'
import { MEASURED } from '../../src/scenarios/schemes.ts'

const [transmit, receive, pingPong] = [net.transmit(MEASURED), net.receive(MEASURED), net.pingPong(MEASURED)]
const write = requests('write', MEASURED)

const HEADER = 12

/** What one operation counts in the long run, in the largest batches. */
async function countersOf(scenario: Scenario, backend: string, bytes: number): Promise<Record<string, number>> {
  return withPrepared(scenario, backend, bytes, count)
}

async function withPrepared<T>(
  scenario: Scenario,
  backend: string,
  bytes: number,
  use: (prepared: Prepared) => T,
): Promise<T> {
  const batch = scenario.batches.includes(32) ? 32 : Math.max(...scenario.batches)
  const subject = variantsOf(scenario, backend).find((one) => {
    return (
      one.mode === 'map' && one.ring === 'split' && one.buffers === 'warm' && one.bytes === bytes && one.batch === batch
    )
  })
  if (subject === undefined) throw new Error('no such variant')
  const prepared = await scenario.prepare({
    ...subject,
    base: 2 ** 32,
    lastLevelCacheBytes: 1 << 20,
    crowded: false,
    counting: true,
  })
  try {
    return use(prepared)
  } finally {
    await prepared.close()
  }
}

const moved = (counters: Record<string, number>, name: string): number =>
  [1, 2, 4, 8].reduce((sum, width) => sum + width * counters[`${name}${width}`], 0)

describe('accesses to the memory of a device', () => {
  test('of a frame that is sent: the driver stores it with its header, and the device loads it', async () => {
    const [small, large] = await Promise.all([64, 1514].map((bytes) => countersOf(transmit, 'on-device', bytes)))
    expect(moved(large, 'driverStores') - moved(small, 'driverStores')).toBe(1514 - 64)
    expect(moved(large, 'deviceLoads') - moved(small, 'deviceLoads')).toBe(1514 - 64)
    expect(small.driverStores8).toBe(Math.floor((64 + HEADER) / 8))
    // The driver reads used elements and no payload, and the device writes these and no payload.
    expect([moved(large, 'driverLoads'), moved(large, 'deviceStores')]).toEqual([
      moved(small, 'driverLoads'),
      moved(small, 'deviceStores'),
    ])
  })

  test('of a frame that is received: the device stores it, and the driver loads it', async () => {
    const [small, large] = await Promise.all([64, 1514].map((bytes) => countersOf(receive, 'on-device', bytes)))
    expect(moved(large, 'deviceStores') - moved(small, 'deviceStores')).toBe(1514 - 64)
    expect(moved(large, 'driverLoads') - moved(small, 'driverLoads')).toBe(1514 - 64)
  })

  test.each([
    ['ping-pong', pingPong, 64],
    ['write', write, 512],
  ])('of %s are of both sides', async (_, scenario, bytes) => {
    const counters = await countersOf(scenario, 'on-device', bytes)
    for (const name of ['driverLoads', 'driverStores', 'deviceLoads', 'deviceStores'])
      expect(moved(counters, name)).toBeGreaterThan(0)
    expect(moved(counters, 'driverStores')).toBeGreaterThanOrEqual(bytes)
    expect(moved(counters, 'deviceLoads')).toBeGreaterThanOrEqual(bytes)
  })

  test('are counted for no other scheme, and the model says so by null', async () => {
    const counters = await countersOf(transmit, 'shared-pool', 64)
    expect(Object.keys(counters).filter((name) => name.startsWith('driver'))).toEqual([])
    const [subject] = variantsOf(transmit, 'shared-pool')
    expect(modelRow({ ...subject, counters }, parametersOf('pcie-wc'))).toMatchObject({
      deviceMemoryReads: null,
      deviceLocalReads: null,
    })
  })
})

test.each([
  ['transmit', transmit, 64],
  ['receive', receive, 64],
  ['write', write, 512],
])('the time of a round is shared out by whose turn it is: %s', async (_, scenario, bytes) => {
  const share = await withPrepared(scenario, 'direct', bytes, (prepared) => {
    let now = 0
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now++)
    try {
      // The driver begins and ends each round, with one turn of the device's between.
      return prepared.driverShare?.(() => {
        for (let i = 0; i < 3; i++) prepared.round()
      })
    } finally {
      clock.mockRestore()
    }
  })
  expect(share).toBe(4 / 7)
})

test('every scheme that is measured counts what the model needs of it', async () => {
  for (const backend of ['direct', 'shared-pool', 'on-device', 'virtio-iommu', 'shared-pages']) {
    const counters = await countersOf(transmit, backend, 64)
    const [subject] = variantsOf(transmit, backend)
    const modelled = modelRow({ ...subject, counters }, parametersOf('memslot'))
    expect([modelled.copies, modelled.clears, modelled.doorbells]).not.toContain(null)
    expect(modelled.doorbells).toBe(4000 / 32)
    expect(modelled.iommuWaits !== null).toBe(backend === 'virtio-iommu')
    expect(modelled.pageConversions !== null).toBe(backend === 'shared-pages')
  }
})

describe('what goes over the bus to guest RAM', () => {
  test.each(['direct', 'shared-pool', 'virtio-iommu'])(
    '%s: a device reads what is sent and writes what is received',
    async (backend) => {
      const [sent, received] = await Promise.all(
        [transmit, receive].map(async (scenario) => {
          const [small, large] = await Promise.all([64, 1514].map((bytes) => countersOf(scenario, backend, bytes)))
          return {
            read: large.bytesReadByDma - small.bytesReadByDma,
            written: large.bytesWrittenByDma - small.bytesWrittenByDma,
          }
        }),
      )
      expect(sent).toEqual({ read: 1514 - 64, written: 0 })
      expect(received).toEqual({ read: 0, written: 1514 - 64 })
    },
  )

  test('is less than a ring where the memory of the device holds it: nothing', async () => {
    const { bytesReadByDma, bytesWrittenByDma } = await countersOf(transmit, 'on-device', 64)
    expect([bytesReadByDma, bytesWrittenByDma]).toEqual([0, 0])
  })
})

test('a device that polls the ring asks for a full barrier at each publication, and so does its driver', async () => {
  const { barriers, interrupts, notified } = await countersOf(pingPong, 'direct', 64)
  expect(barriers).toBeGreaterThanOrEqual(4)
  expect(interrupts).toBeGreaterThan(0)
  expect(notified).toBeGreaterThan(0)
})

test('the IOTLB is asked for each access behind an IOMMU, and misses less than it is asked', async () => {
  const strict = await countersOf(transmit, 'virtio-iommu', 64)
  expect(strict.iotlbLookups).toBeGreaterThanOrEqual(1)
  expect(strict.iotlbMisses).toBeGreaterThan(0)
  expect(strict.iotlbMisses).toBeLessThan(strict.iotlbLookups)
  expect((await countersOf(transmit, 'direct', 64)).iotlbLookups).toBeUndefined()
})
