import {
  DMA_OK,
  type DmaBackend,
  type DmaDirection,
  DmaMappings,
  type DmaScheme,
  describeStatus,
  type PlatformOffer,
  select,
} from '@guestdma/dma'
import type { BusPort } from '@guestdma/memory'
import { FeatureSet, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1 } from '@guestdma/spec'
import { readBus, writeBus } from '../doubles/bus-access.ts'
import { CheckError } from '../doubles/errors.ts'
import type { TestMachine, TestMachineOptions } from '../doubles/test-machine.ts'
import type { Check } from '../runner/test-functions.ts'

/** What {@link describeDmaScheme} may be told. */
export interface DmaSchemeOptions extends TestMachineOptions {
  /** Heads the tests. Default: the scheme's id. */
  readonly name?: string
  /** The feature bits that the test's device offers. Default: VERSION_1 and ACCESS_PLATFORM. */
  readonly offered?: FeatureSet
  /**
   * The device's half of a transformed payload: turns what is on the bus into what the guest meant, and back. Needed
   * where `traits.payload` is `transformed`.
   */
  readonly codec?: { open(onBus: Uint8Array): Uint8Array; seal(plain: Uint8Array): Uint8Array }
  /**
   * Makes the next call of this kind fail on this backend: `commitMaps` once, the others once or for good. Where those
   * calls can fail, the suite tests what holds afterwards; without it those tests do not exist.
   */
  readonly failNext?: (backend: DmaBackend, call: 'commitMaps' | 'commitUnmaps' | 'free') => void
}

/** A scheme set up for one device of a {@link TestMachine}. */
export class SchemeRig {
  readonly machine: TestMachine
  readonly port: BusPort
  readonly backend: DmaBackend
  readonly codec: Required<DmaSchemeOptions>['codec'] | undefined
  readonly offer: PlatformOffer
  readonly scheme: DmaScheme
  private readonly agreed: FeatureSet

  private constructor(
    machine: TestMachine,
    port: BusPort,
    backend: DmaBackend,
    scheme: DmaScheme,
    offer: PlatformOffer,
    agreed: FeatureSet,
    codec: Required<DmaSchemeOptions>['codec'] | undefined,
  ) {
    this.machine = machine
    this.port = port
    this.backend = backend
    this.scheme = scheme
    this.offer = offer
    this.agreed = agreed
    this.codec = codec
  }

  get arena(): Uint8Array<ArrayBuffer> {
    return this.machine.arena
  }

  /** Installs the scheme for the device `name`, offers, selects and creates as a driver does. */
  static async open(
    scheme: DmaScheme,
    options: DmaSchemeOptions,
    machine: TestMachine,
    name: string,
  ): Promise<SchemeRig> {
    const platform = machine.platform(name)
    const port = scheme.install(platform)()
    const offered = options.offered ?? FeatureSet.of(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM)
    const offer = platform.offer(offered, new Set([scheme.provider.id]))
    const { ladder, reports } = select(offer, [scheme.provider], scheme.provider.id)
    const [candidate] = ladder
    if (candidate === undefined)
      throw new CheckError(
        'CHECK_SCHEME',
        scheme.id,
        `the scheme is not usable on the platform that it installed itself on: ${reports[0]?.why}`,
        { why: reports[0]?.why },
      )
    const agreed = offered.and(FeatureSet.of(VIRTIO_F_VERSION_1)).or(candidate.accept)
    const backend = await scheme.provider.create(offer, agreed)
    return new SchemeRig(machine, port, backend, scheme, offer, agreed, options.codec)
  }

  /** Another device of the same machine. */
  another(): Promise<SchemeRig> {
    return SchemeRig.open(
      this.scheme,
      this.codec === undefined ? { offered: this.offer.offered } : { offered: this.offer.offered, codec: this.codec },
      this.machine,
      'other0',
    )
  }

  /** What a driver makes after a reset: a new backend on the same platform. */
  async again(): Promise<SchemeRig> {
    const { machine, port, scheme, offer, agreed, codec } = this
    return new SchemeRig(machine, port, await scheme.provider.create(offer, agreed), scheme, offer, agreed, codec)
  }

  /** Fills in row `row` so that it lends arena[at .. at + length), and maps it. */
  map(m: DmaMappings, row: number, at: number, length: number, direction: DmaDirection): number {
    m.guest[row] = this.machine.arenaBase + at
    m.length[row] = length
    m.direction[row] = direction
    return this.backend.map(m, row)
  }

  /** Maps and commits one row of a new table. Throws where that does not work. */
  lend(at: number, length: number, direction: DmaDirection): DmaMappings {
    const m = new DmaMappings(1)
    const status = this.map(m, 0, at, length, direction)
    const commit = this.backend.commitMaps()
    if (status !== DMA_OK || commit !== DMA_OK)
      this.refused(`map of ${length} bytes`, status, 'commitMaps', commit, '[map-lends], [map-exhausted]')
    return m
  }

  /** Unmaps and commits. Throws where that does not work. */
  takeBack(m: DmaMappings, written: number, row = 0): void {
    const status = this.backend.unmap(m, row, written)
    const commit = this.backend.commitUnmaps()
    if (status !== DMA_OK || commit !== DMA_OK)
      this.refused(
        `unmap with ${written} bytes written`,
        status,
        'commitUnmaps',
        commit,
        '[unmap-written], [commit-revokes]',
      )
  }

  private refused(call: string, status: number, commitCall: string, commit: number, lines: string): never {
    const message = `${call} must be ok and is ${describeStatus(status)}, and ${commitCall} must be ok and is ${describeStatus(commit)}; see ${lines} of DmaBackend`
    throw new CheckError('CHECK_STATUS', this.backend.name, message, { status, commit })
  }

  /** What the device makes of a mapping, or `null` where its port refuses. */
  deviceReads(m: DmaMappings, row = 0): Uint8Array | null {
    const bytes = readBus(this.port, m.device[row], m.deviceLength[row])
    return bytes === null || this.codec === undefined ? bytes : this.codec.open(bytes)
  }

  /** The device fills a mapping from its start on. Returns whether its port let it. */
  deviceWrites(m: DmaMappings, plain: Uint8Array, row = 0): boolean {
    const bytes = this.codec === undefined ? plain : this.codec.seal(plain)
    return writeBus(this.port, m.device[row], bytes) === bytes.length
  }

  /** The longest mapping that limits and arena allow. */
  get longest(): number {
    return Math.min(this.backend.limits.maxMappingLength, this.arena.length / 4)
  }
}

/** Fills with bytes that depend on their place and on `seed`, none of them 0. */
export function fillPattern(bytes: Uint8Array, seed: number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = 1 + (((i + seed * 31) * 151 + (i >>> 8) * 7) % 255)
}

/** New bytes with {@link fillPattern}'s contents. */
export function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length)
  fillPattern(bytes, seed)
  return bytes
}

/**
 * A mapping's length, and a part [from, to) of it that can be synced: the second quarter, or all of it where a backend
 * can only sync whole mappings.
 */
export function syncParts(rig: SchemeRig): { length: number; from: number; to: number } {
  const unit = Math.max(16, rig.backend.limits.syncGranule)
  if (4 * unit <= rig.longest) return { length: 4 * unit, from: unit, to: 2 * unit }
  const length = Math.min(256, rig.longest)
  return { length, from: 0, to: length }
}

/** Where two byte strings differ first, or -1. `null` differs everywhere. */
export function firstDifference(a: Uint8Array | null, b: Uint8Array): number {
  if (a === null) return 0
  for (let i = 0; i < b.length; i++) if (a[i] !== b[i]) return i
  return a.length === b.length ? -1 : b.length
}

/** Lengths worth trying: around the sizes at which copies, granules, slots and limits change, up to `longest`. */
export function interestingLengths(longest: number): number[] {
  const around = [1, 8, 64, 128, 256, 512, 1514, 2048, 4096, 65536].flatMap((n) => [n - 1, n, n + 1])
  return [...new Set([...around, 3, 5, longest - 8, longest - 1, longest])]
    .filter((n) => n >= 1 && n <= longest)
    .sort((a, b) => a - b)
}

/** What the parts of the suite get: a test function that opens a fresh rig for each test, and the comparison. */
export interface SchemeSuite {
  /** Makes the scheme under test, for tests that set it up in their own way; and what the suite was told. */
  readonly make: () => DmaScheme
  readonly options: DmaSchemeOptions
  /** A test without a rig. */
  readonly plainTest: (name: string, body: () => void | Promise<void>) => void
  /** As `test`, on a machine whose memory can grow. */
  readonly growingTest: (name: string, body: (rig: SchemeRig) => void | Promise<void>) => void
  readonly test: (name: string, body: (rig: SchemeRig) => void | Promise<void>) => void
  readonly check: Check
}
