import type { VirtioDevice } from '../device/virtio-device.ts'
import type { RegisterFaultReason } from '../faults/faults.ts'

/** A space of a PCI function: its configuration space, or a BAR. */
type PciSpace = 'config' | number

/** Whose faults they are. */
export type FaultOwner = Pick<VirtioDevice, 'name' | 'faults'>

/** Records a register fault at `offset` of a space; `value` is `null` for a read. Returns what the read gives. */
export function pciFault(
  device: FaultOwner,
  reason: RegisterFaultReason,
  space: PciSpace,
  offset: number,
  size: number,
  value: number | null,
): 0 {
  device.faults.record({ kind: 'register', device: device.name, reason, space, offset, size, value })
  return 0
}
