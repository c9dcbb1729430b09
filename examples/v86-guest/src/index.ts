// What other programs of this repository take from here.
export { fileOfExt4, makeExt4 } from './ext4-image.ts'
export { guestFiles, type KernelName } from './guest-files.ts'
export { type LinuxGuest, linuxGuest } from './linux.ts'
export { memoryOf, PciHost, type PciHostState } from './pci-host.ts'
export { PingResponder } from './ping-responder.ts'
export { type Shown, showProgram } from './show.ts'
