import type { BusWindows, FeatureOptions, VirtioDevice } from '@guestdma/devices'
import type { Peer } from '@guestdma/node'
import { FeatureSet, VIRTIO_F_SWIOTLB } from '@guestdma/spec'
import type { VhostUserError, VhostUserServer } from '@guestdma/vhost-user'
import { expectIs, until } from '../work/workloads.ts'

/** For a device that no driver without the SWIOTLB RFC may drive. */
export const SWIOTLB_REQUIRED: FeatureOptions = { offer: [VIRTIO_F_SWIOTLB], requires: FeatureSet.of(VIRTIO_F_SWIOTLB) }

/** A driver that was refused and tries again does so within this time. */
const QUIET_MS = 3000

/** Waits until the driver was refused. Throws Error unless the device then did nothing at all. */
export async function expectRefused(
  server: VhostUserServer,
  device: VirtioDevice,
  port: BusWindows,
  peer: Peer,
  deadlineMs: number,
): Promise<void> {
  await until('the driver to be refused', () => server.faults.count > 0, peer, deadlineMs)
  await new Promise((resolve) => setTimeout(resolve, QUIET_MS))
  expectIs('how', (server.faults.last()[0] as VhostUserError).code, 'VHOST_FEATURES_REFUSED')
  expectIs('whether the device is live, and what its port refused', [device.live, port.faults.count], [false, 0])
}
