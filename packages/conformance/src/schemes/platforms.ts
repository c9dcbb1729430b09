import { DMA_FEATURES, type DmaScheme, type PlatformBuilder, TO_DEVICE } from '@guestdma/dma'
import { ACCESS_READ, ACCESS_WRITE, type BusPort, deviceAddress } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { reaches } from '../doubles/bus-access.ts'
import { TestMachine } from '../doubles/test-machine.ts'
import { fillPattern, firstDifference, SchemeRig, type SchemeSuite } from './rig.ts'

/** The device of the rig that a test gets. */
const FIRST = 'dev0'

/** Between probes of a port. Around spans that were reserved, their exact edges are tried as well. */
const STEP = 1024

// Platforms that other schemes set up, in the ways that differ for a driver. Device addresses are guest addresses where
// nothing else is said.
const PLATFORMS: ReadonlyArray<readonly [name: string, install: (platform: PlatformBuilder) => () => BusPort]> = [
  ['on which the device reaches nothing', (platform) => () => platform.nothing()],
  [
    'on which the device reaches all of RAM',
    (platform) => {
      platform.declareRam(true)
      return () => platform.everything()
    },
  ],
  [
    'on which the bus is offset',
    (platform) => {
      platform.declareRam(true, 0x3_0000_0000)
      return () => platform.everything(0x3_0000_0000)
    },
  ],
  [
    'with a pool for the device',
    (platform) => {
      const { guest, window } = platform.reserve(1 << 18, 4096)
      platform.declarePool({ window, device: deviceAddress(guest), home: 'guest-ram' })
      return () => platform.window(deviceAddress(guest), window)
    },
  ],
]

const BITS: ReadonlyArray<readonly [name: string, bits: FeatureSet]> = [
  ['with ACCESS_PLATFORM', FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM)],
  ['without ACCESS_PLATFORM', FeatureSet.of(VIRTIO_F_VERSION_1)],
]

/** What the platform half of a scheme declares and opens, and what its driver half makes of platforms. */
export function describePlatforms({ test, plainTest, check, make, options }: SchemeSuite): void {
  test('the scheme, its provider and its backends agree on what they are', ({ backend, scheme }) => {
    check('ids of provider and backend', [scheme.provider.id, backend.name], [scheme.id, scheme.id])
    check('reach that the provider promises', scheme.provider.reach, backend.traits.reach)
  })

  test('what the port reaches of guest RAM was reserved for it, unless it reaches all', async (rig) => {
    if (rig.backend.traits.reach === 'all') return
    await rig.another()
    const { machine, port, backend } = rig
    const [ram] = machine.memory.ranges
    const region = backend.alloc(4096, 64, TO_DEVICE, 'ring')
    const m = rig.lend(machine.arena.length >>> 1, 64, TO_DEVICE)
    // Where RAM would lie on the bus, by the guest's addresses, by the bus offset and by what was handed out.
    const bases = new Set([ram.base, ram.base + rig.offer.busOffset])
    if (region.region.source === ram.region.source) bases.add(region.device - (region.offset - ram.offset))
    port.request[0] = m.device[0]
    const lent = port.resolve(1, ACCESS_READ) > 0 && port.region.source === ram.region.source ? port.offset : -1
    if (lent >= 0) bases.add(m.device[0] - (lent - ram.offset))
    const allowed = machine.reserved
      .filter(({ device }) => device === undefined || device === FIRST)
      .map(({ guest, length }) => ({ from: ram.offset + guest - ram.base, length }))
    const { granule } = backend.limits
    const own: Array<{ from: number; length: number }> = []
    if (region.region.source === ram.region.source) own.push({ from: region.offset, length: region.length })
    if (lent >= 0) {
      const from = ram.offset + Math.floor((lent - ram.offset) / granule) * granule
      own.push({ from, length: Math.ceil((lent + 64 - from) / granule) * granule })
    }
    const addresses = new Set<number>()
    for (const base of bases) {
      for (let at = 0; at < ram.length; at += STEP) addresses.add(base + at)
      for (const { from, length } of allowed)
        for (const edge of [from - 1, from + length]) addresses.add(base + edge - ram.offset)
    }
    // Beside memory that is not RAM, RAM may follow.
    for (const near of [m.device[0], region.device])
      for (let at = -ram.length; at <= ram.length; at += STEP) addresses.add(near + at)
    const mine = [...allowed, ...own]
    let stray = 0
    for (const address of addresses) {
      for (const access of [ACCESS_READ, ACCESS_WRITE] as const) {
        if (!reaches(port, address, access) || port.region.source !== ram.region.source) continue
        const { offset } = port
        if (!mine.some(({ from, length }) => offset >= from && offset < from + length)) stray++
      }
    }
    check('probes that reached guest RAM which nobody gave to the device', stray, 0)
    rig.takeBack(m, 0)
  })

  test('declareRam says whether the device can reach guest RAM, where it is or once it is lent', (rig) => {
    const { machine, port, offer } = rig
    const at = (machine.arena.length >>> 1) + 136
    const { region, offset } = machine.memory.window(
      (machine.arenaBase + at) as Parameters<typeof machine.memory.window>[0],
      64,
    )
    const there = (address: number): boolean =>
      reaches(port, address, ACCESS_READ) && port.region.source === region.source && port.offset === offset
    const unlent = there(machine.arenaBase + at + offer.busOffset)
    const m = rig.lend(at, 64, TO_DEVICE)
    const lent = there(m.device[0])
    rig.takeBack(m, 0)
    // What an IOMMU could map need not be mapped.
    const could = offer.iommu !== undefined
    if (offer.ramReachable) check('RAM that is declared reachable is reached', unlent || lent || could, true)
    else check('RAM that is declared out of reach is reached', unlent, false)
  })

  for (const [platform, install] of PLATFORMS) {
    for (const [which, offered] of BITS) {
      plainTest(`a platform ${platform}, ${which}: unusable, or it works`, async () => {
        const foreign: DmaScheme = { ...make(), install }
        const machine = new TestMachine(options)
        const offer = (listed: readonly string[]) => {
          const other = machine.platform('foreign0')
          const port = install(other)()
          return { port, offer: other.offer(offered, new Set(listed)) }
        }
        for (const listed of [[], [foreign.provider.id]]) {
          const probe = offer(listed).offer
          const [answer, again] = [foreign.provider.assess(probe), foreign.provider.assess(probe)]
          check('assess gives the same answer again', [again.fit, again.why], [answer.fit, answer.why])
          if (answer.fit === 'unusable') continue
          check('bits accepted that no backend decides', answer.accept.without(DMA_FEATURES).bits(), [])
          if (listed.length === 0) continue
          const rig = await SchemeRig.open(foreign, { ...options, offered }, machine, 'dev0')
          fillPattern(rig.arena, 1)
          const m = rig.lend(4096, Math.min(64, rig.longest), TO_DEVICE)
          const lent = rig.arena.subarray(4096, 4096 + m.length[0])
          check('first difference that the device sees', firstDifference(rig.deviceReads(m), lent), -1)
          rig.takeBack(m, 0)
        }
      })
    }
  }
}
