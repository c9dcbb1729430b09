import { NET_RECEIVE_QUEUE } from '@guestdma/spec'
import type { Machine } from 'guestdma'

/** What a scheme did for some traffic. Plain data. */
export interface Costs {
  /** Bytes that the CPU copied, to and from the device. */
  readonly bytesCopied: number
  readonly bytesCleared: number
  /** Requests for mappings and removals, to an IOMMU or to whoever shares pages; 0 where there is neither. */
  readonly mapRequests: number
  readonly unmapRequests: number
  /** Times that the CPU waited for them. */
  readonly synchronousCommits: number
}

/** What the drivers of a machine had lent, by the counters of their backends. */
export interface MappingCount {
  /** When all traffic was done. */
  readonly live: number
  /** Of those, receive buffers: they are lent until a frame comes. */
  readonly posted: number
  /** After the machine was closed. */
  readonly afterClose: number
}

/** Starts counting what is spent by some devices' backends. The function that is returned tells the sums so far. */
export function costsOf(machine: Machine, devices: readonly string[]): () => Costs {
  const read = (): Costs => {
    const { devices: all } = machine.counters()
    const sum = (...names: readonly string[]): number =>
      devices.reduce((total, device) => names.reduce((t, name) => t + (all[device].backend[name] ?? 0), total), 0)
    return {
      bytesCopied: sum('bytesCopiedToDevice', 'bytesCopiedFromDevice'),
      bytesCleared: sum('bytesCleared'),
      mapRequests: sum('mapRequests'),
      unmapRequests: sum('unmapRequests'),
      synchronousCommits: sum('synchronousCommits'),
    }
  }
  const before = read()
  return () => {
    const after = read()
    return {
      bytesCopied: after.bytesCopied - before.bytesCopied,
      bytesCleared: after.bytesCleared - before.bytesCleared,
      mapRequests: after.mapRequests - before.mapRequests,
      unmapRequests: after.unmapRequests - before.unmapRequests,
      synchronousCommits: after.synchronousCommits - before.synchronousCommits,
    }
  }
}

/** Counts mappings, closes the machine, and counts again. */
export async function countMappings(machine: Machine): Promise<MappingCount> {
  machine.pump()
  const devices = Object.keys(machine.counters().devices)
  // Kept now: a closed device has no backend any more.
  const backends = devices.map((device) => machine.device(device).negotiated.backend)
  const live = (): number => backends.reduce((sum, { counters }) => sum + counters.maps - counters.unmaps, 0)
  const nets = devices.filter((device) => device.startsWith('net'))
  const posted = nets.reduce((sum, net) => sum + machine.net(net).session.queues[NET_RECEIVE_QUEUE].outstanding, 0)
  const before = live()
  await machine.close()
  return { live: before, posted, afterClose: live() }
}
