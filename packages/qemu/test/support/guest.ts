import { type DmaProvider, directScheme, type PlatformOffer, type PoolFact, platformOffer } from '@guestdma/dma'
import { BLK_FEATURES, BlkDriver, DeviceSession, NET_FEATURES, NetDriver, type VirtioDriver } from '@guestdma/drivers'
import { type FeatureSet, NET_FEATURE_DEPENDENCIES } from '@guestdma/spec'
import { type Negotiated, negotiate, type VirtioTransport } from '@guestdma/transport'
import type { Qemu } from '../../src/index.ts'

/** What a platform says about one device that lives in QEMU. */
export interface Place {
  readonly providers?: readonly DmaProvider[]
  readonly pool?: PoolFact | undefined
  readonly region?: PoolFact | undefined
  /** Is guest RAM QEMU's? Default true. */
  readonly ramReachable?: boolean
}

/** The device is another process: nothing to pump. */
const wait = { pump: (): void => {}, deadlineMs: 5000 }

async function agree(
  qemu: Qemu,
  transport: VirtioTransport,
  place: Place,
  understood: FeatureSet,
): Promise<{ agreed: Negotiated; session: DeviceSession }> {
  const { memory, ram } = qemu
  const { providers = [directScheme().provider], pool, region, ramReachable = true } = place
  const offer = (offered: FeatureSet): PlatformOffer =>
    platformOffer({
      device: transport.name,
      offered,
      transport: { kind: transport.kind, transitional: transport.transitional },
      ramReachable,
      pool,
      region,
      memory,
      ram,
      enforcedBy: 'peer',
    })
  const agreed = await negotiate({
    transport,
    understood,
    ...(understood === NET_FEATURES ? { dependencies: NET_FEATURE_DEPENDENCIES } : {}),
    providers,
    dma: 'auto',
    offer,
    wait,
  })
  const { features, backend } = agreed
  return { agreed, session: new DeviceSession({ transport, features, backend, memory, ram, wait }) }
}

export async function blkOf(
  qemu: Qemu,
  transport: VirtioTransport,
  place: Place = {},
): Promise<{ driver: BlkDriver; agreed: Negotiated }> {
  const { agreed, session } = await agree(qemu, transport, place, BLK_FEATURES)
  return { driver: new BlkDriver(session), agreed }
}

export async function netOf(
  qemu: Qemu,
  transport: VirtioTransport,
  place: Place = {},
): Promise<{ driver: NetDriver; agreed: Negotiated }> {
  const { agreed, session } = await agree(qemu, transport, place, NET_FEATURES)
  return { driver: new NetDriver(session), agreed }
}

/** Polls until the promise settles. */
export async function run<T>(promise: Promise<T>, ...drivers: readonly VirtioDriver[]): Promise<T> {
  let settled = false
  const mark = (): void => {
    settled = true
  }
  promise.then(mark, mark)
  for (const until = performance.now() + 10_000; !settled; ) {
    let work = 0
    for (const driver of drivers) work += driver.poll(64)
    await Promise.resolve()
    if (performance.now() > until) throw new Error('no completion within 10 s')
    if (work === 0) await new Promise<void>((resolve) => setImmediate(resolve))
  }
  return promise
}
