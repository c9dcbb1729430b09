import {
  FeatureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
} from '@guestdma/spec'
import { DeviceError } from '../faults/errors.ts'
import type { FeatureFault } from '../faults/faults.ts'

/** A feature and one group of features of which at least one must be accepted with it. */
export type FeatureDependency = readonly [bit: number, ...anyOf: number[]]

/** How a device's offer differs from the default. */
export interface FeatureOptions {
  /**
   * Bits to offer beside the default ones, RING_PACKED (34) say. A test may offer what no honest device would. Refused is
   * a feature without one that it needs (virtio 1.4 §2.2.2).
   */
  readonly offer?: readonly number[]
  /**
   * Bits not to offer. VERSION_1 may be among them, to build what a driver must refuse; FEATURES_OK then does not ask
   * for it.
   */
  readonly withhold?: readonly number[]
  /** Bits without which FEATURES_OK is refused. They must be offered. */
  readonly requires?: FeatureSet
  /** ACCESS_PLATFORM (33): `offered`, or `required` as well. Default: not offered. */
  readonly accessPlatform?: 'offered' | 'required'
}

/** What every device of this package offers unless told otherwise. */
export const DEFAULT_FEATURES: FeatureSet = FeatureSet.of(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
)

/** The device's half of feature negotiation: virtio 1.4 §2.2 and §6. */
export class Negotiation {
  readonly offered: FeatureSet
  readonly required: FeatureSet
  private readonly dependencies: readonly FeatureDependency[]
  private readonly device: string

  /** @throws DeviceError `DEVICE_FEATURE` */
  constructor(device: string, own: FeatureSet, dependencies: readonly FeatureDependency[], options: FeatureOptions) {
    const { offer = [], withhold = [], requires = FeatureSet.empty, accessPlatform } = options
    const platform = accessPlatform === undefined ? FeatureSet.empty : FeatureSet.of(VIRTIO_F_ACCESS_PLATFORM)
    this.device = device
    this.dependencies = dependencies
    this.offered = DEFAULT_FEATURES.or(own)
      .or(platform)
      .or(FeatureSet.of(...offer))
      .without(FeatureSet.of(...withhold))
    this.required = requires.or(accessPlatform === 'required' ? platform : FeatureSet.empty)
    const [unmet] = this.unmet(this.offered)
    if (unmet) {
      const [bit, ...anyOf] = unmet
      const message = `feature ${bit} cannot be offered without feature ${anyOf.join(' or ')}, which it needs; offer that as well`
      throw new DeviceError('DEVICE_FEATURE', device, message, { bit, needs: anyOf, offered: this.offered.bits() })
    }
    const missing = this.required.without(this.offered)
    if (!missing.equals(FeatureSet.empty)) {
      const message = `required bits ${missing} are not offered; offer them as well`
      throw new DeviceError('DEVICE_FEATURE', device, message, {
        required: this.required.bits(),
        offered: this.offered.bits(),
      })
    }
  }

  /** Why `accepted` is no valid choice; `null` if it is one. */
  judge(accepted: FeatureSet): FeatureFault | null {
    const fault = (reason: FeatureFault['reason'], bits: readonly number[]): FeatureFault => ({
      kind: 'features',
      device: this.device,
      reason,
      bits,
    })
    if (!accepted.isSubsetOf(this.offered)) return fault('not-offered', accepted.without(this.offered).bits())
    // §6.1: a device may fail to operate where it is not accepted, and nothing here speaks the legacy interface.
    if (this.offered.has(VIRTIO_F_VERSION_1) && !accepted.has(VIRTIO_F_VERSION_1))
      return fault('version-1', [VIRTIO_F_VERSION_1])
    if (!this.required.isSubsetOf(accepted)) return fault('required', this.required.without(accepted).bits())
    const unmet = this.unmet(accepted)
    return unmet.length > 0 ? fault('dependency', [...new Set(unmet.map(([bit]) => bit))]) : null
  }

  private unmet(features: FeatureSet): readonly FeatureDependency[] {
    return this.dependencies.filter(([bit, ...anyOf]) => features.has(bit) && !anyOf.some((need) => features.has(need)))
  }
}
