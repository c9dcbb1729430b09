import { BLK_CONFIG_SIZE, DEVICE_ID_BLOCK, FeatureSet } from '@guestdma/spec'
import type { Wait } from '@guestdma/transport'
import { VhostUserError } from '../protocol/errors.ts'
import { MAX_CONFIG } from '../protocol/payload.ts'
import type { SharedWindow } from './memory-table.ts'

export interface VhostUserOptions {
  /** The device's name, for errors. */
  readonly name: string
  /** What the back end serves, which the protocol does not tell (virtio 1.4 §5): 1 is net, 2 is block. */
  readonly deviceId: number
  /** Queues that the driver uses: 2 for net with one pair. */
  readonly queues: number
  /** All memory that the back end is given. */
  readonly memory: readonly SharedWindow[]
  /** Entries of a queue at most, a power of two to 32768, which the protocol does not tell either. Default 1024. */
  readonly maxQueueSize?: number
  /**
   * The configuration space, where the front end has it: a back end for net usually has none. Default: it is read from
   * the back end.
   */
  readonly config?: Uint8Array
  /** Features that the front end itself provides with `config`: MAC, STATUS and MTU of net. The back end is not told. */
  readonly ownFeatures?: FeatureSet
  /** Bytes of configuration to read from the back end, to 256. Default for block: 36. */
  readonly configLength?: number
  /**
   * Let the back end ask for the translation of addresses (vhost-user, "IOMMU support"). `IotlbDomain` answers.
   * Default false: ACCESS_PLATFORM is not offered to the driver.
   */
  readonly iotlb?: boolean
  /** How to wait for answers. `pump` is for a back end in this process. Default: blocks for up to a second. */
  readonly wait?: Wait
}

const MAX_QUEUE_SIZE = 32_768
/** The index of a queue has 8 bits in SET_VRING_KICK. */
const MAX_QUEUES = 256
const NO_WAIT: Wait = { pump: () => {} }

export type CheckedOptions = Required<Omit<VhostUserOptions, 'config'>> & { readonly config: Uint8Array | null }

/** Fills the defaults in. Throws VhostUserError `VHOST_OPTION`. */
export function checkOptions(options: VhostUserOptions): CheckedOptions {
  const { name, deviceId, queues, maxQueueSize = 1024, config = null, wait = NO_WAIT } = options
  const { configLength = deviceId === DEVICE_ID_BLOCK ? BLK_CONFIG_SIZE : 0 } = options
  const within = (option: string, value: number, least: number, most: number): void => {
    if (Number.isInteger(value) && value >= least && value <= most) return
    const text = `${option} is ${String(value)}, which must be an integer from ${least} to ${most}`
    throw new VhostUserError('VHOST_OPTION', name, text, { [option]: value })
  }
  within('deviceId', deviceId, 1, 0xffff)
  within('queues', queues, 1, MAX_QUEUES)
  within('maxQueueSize', maxQueueSize, 1, MAX_QUEUE_SIZE)
  if ((maxQueueSize & (maxQueueSize - 1)) !== 0)
    throw new VhostUserError('VHOST_OPTION', name, `maxQueueSize is ${maxQueueSize}, which is no power of two`, {
      maxQueueSize,
    })
  if (config === null) within('configLength', configLength, 1, MAX_CONFIG)
  const { memory, ownFeatures = FeatureSet.empty, iotlb = false } = options
  return { name, deviceId, queues, memory, maxQueueSize, config, ownFeatures, configLength, iotlb, wait }
}
