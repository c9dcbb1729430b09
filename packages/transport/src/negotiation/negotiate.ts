import {
  type CandidateReport,
  DMA_FEATURES,
  type DmaBackend,
  type DmaChoice,
  DmaError,
  type DmaProvider,
  DowngradeRefusedError,
  NoUsableBackendError,
  type PlatformOffer,
  select,
} from '@guestdma/dma'
import {
  FeatureSet,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_ORDER_PLATFORM,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DeviceStuckError, TransportError } from '../contract/errors.ts'
import type { VirtioTransport } from '../contract/transport.ts'
import { type Deadline, deadlineMsOf, turnsUntil, type Wait, waitUntil } from '../contract/wait.ts'

export interface NegotiationOptions {
  readonly transport: VirtioTransport
  /** What the driver understands. Bits that decide the backend (27, 33) are added by the choice of it. */
  readonly understood: FeatureSet
  /** Pairs [bit, needs]: a bit is not accepted without the other (virtio 1.4 §2.2.1). */
  readonly dependencies?: ReadonlyArray<readonly [bit: number, needs: number]>
  readonly providers: readonly DmaProvider[]
  readonly dma: DmaChoice
  /** What the platform declares about this device, given the bits that it offers. */
  offer(offered: FeatureSet): PlatformOffer
  readonly wait: Wait
}

/** What was agreed: the one place that says so from now on. */
export interface Negotiated {
  readonly features: FeatureSet
  readonly backend: DmaBackend
  readonly scheme: string
  readonly why: string
  /** Every candidate, and what became of it. */
  readonly ladder: readonly CandidateReport[]
}

/**
 * Brings a device from reset to FEATURES_OK in the order of virtio 1.4 §3.1.1 and creates the DMA backend that was
 * chosen on the way. A device that refuses a set of features, and a backend that cannot be created, cost one rung of
 * the ladder: reset, and on to the next candidate. What follows (queues, DRIVER_OK) is the driver's.
 *
 * @throws NoUsableBackendError, DowngradeRefusedError, DmaConflictError, UnknownSchemeError; TransportError
 *   `TRANSPORT_LEGACY`, `TRANSPORT_WAIT`, `TRANSPORT_LOST`; DeviceStuckError; DmaError `DMA_STILL_REACHABLE` where a
 *   backend could not be created and what was mapped for it could not be taken away: no other candidate is tried then
 */
export async function negotiate(options: NegotiationOptions): Promise<Negotiated> {
  const { transport, understood, dependencies = [], providers, dma, wait } = options
  deadlineMsOf(transport.name, wait)
  try {
    const offered = await acknowledge(transport, wait)
    const selection = select(options.offer(offered), providers, dma)
    const outcomes = new Map<string, string>()
    let failure: ErrorOptions = {}
    for (const [rung, { provider, accept, why }] of selection.ladder.entries()) {
      const now = rung === 0 ? offered : await acknowledge(transport, wait)
      const features = agreeable(now, understood, accept, dependencies)
      if (!accept.isSubsetOf(features)) {
        outcomes.set(provider.id, `the device no longer offers ${accept.without(features)}`)
        continue
      }
      try {
        transport.writeFeatures(features)
      } catch (error) {
        if (!(error instanceof TransportError) || error.code !== 'TRANSPORT_FEATURES') throw error
        outcomes.set(provider.id, error.message)
        continue
      }
      addStatus(transport, STATUS_FEATURES_OK)
      await transport.settle?.()
      if ((transport.readStatus() & STATUS_FEATURES_OK) === 0) {
        outcomes.set(provider.id, `the device refused the features ${features}`)
        continue
      }
      try {
        const backend = await provider.create(options.offer(now), features)
        return { features, backend, scheme: provider.id, why, ladder: report(selection.reports, outcomes) }
      } catch (error) {
        // What a rung left within the device's reach must not pass for one that was only not taken.
        if (error instanceof DmaError && error.code === 'DMA_STILL_REACHABLE') throw error
        outcomes.set(provider.id, `could not be set up: ${(error as Error).message}`)
        if (!('cause' in failure)) failure = { cause: error }
      }
    }
    const ladder = report(selection.reports, outcomes)
    const { downgrade } = selection
    throw downgrade === undefined
      ? new NoUsableBackendError(transport.name, ladder, '', failure)
      : new DowngradeRefusedError(transport.name, downgrade.refused, downgrade.stronger, ladder, failure)
  } catch (error) {
    giveUp(transport)
    throw error
  }
}

/**
 * Sets bits of the device status beside those that it has now (virtio 1.4 §2.1.1): whatever the device set meanwhile,
 * DEVICE_NEEDS_RESET above all, stays. The one way in which a driver writes the status, but for a reset.
 *
 * @throws TransportError `TRANSPORT_LOST`; over PCI `TRANSPORT_MSIX_VECTOR`
 */
export function addStatus(transport: VirtioTransport, bits: number): void {
  transport.writeStatus(transport.readStatus() | bits)
}

/** Tells the device that its driver gave up (virtio 1.4 §3.1.1). A device that is gone need not be told. */
export function giveUp(transport: VirtioTransport): void {
  try {
    addStatus(transport, STATUS_FAILED)
  } catch {}
}

/**
 * Resets a device and waits until it says so.
 *
 * @throws DeviceStuckError with `quarantined` set: it did not say so in time, or an access failed (`cause`);
 *   TransportError `TRANSPORT_WAIT`, before the device is touched
 */
export async function resetDevice(transport: VirtioTransport, wait: Wait): Promise<void> {
  await confirmed(
    transport.name,
    () => transport.writeStatus(0),
    () => transport.readStatus() === 0,
    wait,
  )
}

/** Resets one queue (RING_RESET) and waits. Throws as {@link resetDevice}, and `TRANSPORT_QUEUE` over PCI. */
export async function resetQueue(transport: VirtioTransport, index: number, wait: Wait): Promise<void> {
  await confirmed(
    `${transport.name} queue ${index}`,
    () => transport.resetQueue(index),
    () => transport.queueResetDone(index),
    wait,
  )
}

// A reset that an error interrupts is not confirmed either, so memory must not go back: whatever it was, it is told as
// the cause of a stuck device.
async function confirmed(part: string, begin: () => void, done: () => boolean, wait: Wait): Promise<void> {
  const deadline: Deadline = turnsUntil(part, wait)
  let confirmed: boolean
  try {
    begin()
    confirmed = await waitUntil(done, wait, deadline)
  } catch (error) {
    throw new DeviceStuckError(part, deadline.ms, true, error)
  }
  if (!confirmed) throw new DeviceStuckError(part, deadline.ms, true)
}

// Steps 1 to 4 of virtio 1.4 §3.1.1: reset, ACKNOWLEDGE, DRIVER, read the features.
async function acknowledge(transport: VirtioTransport, wait: Wait): Promise<FeatureSet> {
  await resetDevice(transport, wait)
  addStatus(transport, STATUS_ACKNOWLEDGE)
  addStatus(transport, STATUS_DRIVER)
  await transport.settle?.()
  const offered = transport.readFeatures()
  if (!offered.has(VIRTIO_F_VERSION_1)) {
    throw new TransportError(
      'TRANSPORT_LEGACY',
      transport.name,
      `the device offers ${offered} without VERSION_1 (32); legacy devices are not supported`,
      {
        offered: offered.bits(),
      },
    )
  }
  return offered
}

// VERSION_1 must, ACCESS_PLATFORM and ORDER_PLATFORM should be accepted wherever they are offered: virtio 1.4 §6.1.
const ALWAYS = FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ORDER_PLATFORM)

function agreeable(
  offered: FeatureSet,
  understood: FeatureSet,
  accept: FeatureSet,
  dependencies: ReadonlyArray<readonly [number, number]>,
): FeatureSet {
  let features = offered.and(understood.without(DMA_FEATURES).or(ALWAYS).or(accept))
  for (let settled = false; !settled; ) {
    const unmet = dependencies.filter(([bit, needs]) => features.has(bit) && !features.has(needs)).map(([bit]) => bit)
    settled = unmet.length === 0
    features = features.without(FeatureSet.of(...unmet))
  }
  return features
}

function report(reports: readonly CandidateReport[], outcomes: ReadonlyMap<string, string>): CandidateReport[] {
  return reports.map((candidate) => {
    const outcome = outcomes.get(candidate.id)
    return outcome === undefined ? candidate : { ...candidate, outcome }
  })
}
