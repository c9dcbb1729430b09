import { BlkDevice, NetDevice, type VirtioDevice } from '@guestdma/devices'
import type { FaultLog } from '@guestdma/memory'
import { CountingStore } from './counting-store.ts'
import type { WatchedPort } from './watched-port.ts'

/** What there is to compare, by name. */
export type Figures = Readonly<Record<string, number | string>>

/** What serves one device. */
interface Watched {
  readonly device: VirtioDevice
  readonly port: WatchedPort
  readonly server: { readonly faults: FaultLog<Error> }
}

/** What only whoever drives them can tell. */
interface Told {
  /** What the front end agreed on: QEMU keeps ACCESS_PLATFORM to itself where it translates nothing. */
  readonly negotiated: string
  readonly reach: string
  /** To and from bounce buffers. */
  readonly bytesCopied: number
  /** The most that was found at once. */
  readonly secretInReach: number
}

/**
 * What there is to compare between schemes and drivers, for all devices of a guest together. `bytesRead` are what the
 * driver took from disks or received, `bytesWritten` what it wrote or sent. `iommuMessages` are translations that came
 * and that were taken back. `secretHandedOver` is the sum of what was there whenever something was handed over.
 */
export function figuresOf(
  served: readonly Watched[],
  { negotiated, reach, bytesCopied, secretInReach }: Told,
): Figures {
  const sum = (value: (one: Watched) => number): number => served.reduce((total, one) => total + value(one), 0)
  return {
    negotiated,
    reach,
    bytesRead: sum(({ device }) => moved(device)[0]),
    bytesWritten: sum(({ device }) => moved(device)[1]),
    accesses: sum(({ port }) => port.granted),
    outside: sum(({ port }) => port.outside),
    faults: sum(({ port, device, server }) => port.faults.count + device.faults.count + server.faults.count),
    bytesCopied,
    iommuMessages: sum(({ port }) => port.messages),
    secretInReach,
    secretHandedOver: sum(({ port }) => port.handedOver),
  }
}

function moved(device: VirtioDevice): readonly [number, number] {
  if (device instanceof NetDevice) return [device.counters.receivedBytes, device.counters.transmittedBytes]
  const store = device instanceof BlkDevice ? device.store : null
  return store instanceof CountingStore ? [store.bytesRead, store.bytesWritten] : [0, 0]
}
