import {
  BLK_FEATURES,
  BlkDriver,
  type BlkDriverOptions,
  type DeviceSession,
  NET_FEATURES,
  NetDriver,
  type NetDriverOptions,
  type VirtioDriver,
} from '@guestdma/drivers'
import { DEVICE_ID_BLOCK, DEVICE_ID_NET, type FeatureSet, NET_FEATURE_DEPENDENCIES } from '@guestdma/spec'

/** What a machine tells a driver when it makes it. */
export type DriverOptions = NetDriverOptions & BlkDriverOptions

/** A kind of device, by its driver. `'net'` and `'blk'` are built in; pass one of your own as the type of a device. */
export interface DriverKind<D extends VirtioDriver = VirtioDriver> {
  /** For messages. */
  readonly name: string
  /** virtio 1.4 §5 */
  readonly deviceId: number
  /** What the driver understands; bits that decide the backend are added by the choice of it. */
  readonly features: FeatureSet
  /** Pairs [bit, needs]: a bit is not accepted without the other (virtio 1.4 §2.2.1). */
  readonly dependencies?: ReadonlyArray<readonly [bit: number, needs: number]>
  /** Makes the driver. What it throws fails the start of the device, whose session is then closed. */
  make(session: DeviceSession, options: DriverOptions): D
}

const KINDS: Readonly<Record<'net' | 'blk', DriverKind>> = {
  net: {
    name: 'net',
    deviceId: DEVICE_ID_NET,
    features: NET_FEATURES,
    dependencies: NET_FEATURE_DEPENDENCIES,
    make: (session, options) => new NetDriver(session, options),
  },
  blk: {
    name: 'blk',
    deviceId: DEVICE_ID_BLOCK,
    features: BLK_FEATURES,
    make: (session, options) => new BlkDriver(session, options),
  },
}

/** The kind that a device's type names, or is. */
export function kindOf(type: 'net' | 'blk' | DriverKind): DriverKind {
  return typeof type === 'string' ? KINDS[type] : type
}
