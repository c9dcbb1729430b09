/**
 * QEMU's virtio devices for drivers in this process: a machine whose processor stands still, reached by qtest and QMP.
 * Needs Node on Linux.
 *
 * @packageDocumentation
 */
export { IvshmemRegion } from './machine/ivshmem.ts'
export { launchQemu, type QemuOptions } from './machine/launch.ts'
export type { MachineType } from './machine/layout.ts'
export { Qemu } from './machine/qemu.ts'
export { QEMU_CODES, QemuError } from './protocol/errors.ts'
export type { QmpEvent } from './protocol/qmp.ts'
export type { Qtest } from './protocol/qtest.ts'
