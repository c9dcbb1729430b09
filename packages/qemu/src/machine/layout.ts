/** Machines of QEMU whose devices can be driven. */
export type MachineType = 'q35' | 'microvm' | 'virt'

/** A span of physical addresses. */
interface Span {
  readonly base: number
  readonly length: number
}

/** Where a machine has what. */
export interface MachineLayout {
  readonly command: string
  /** The Debian package that has the command. */
  readonly debian: string
  readonly args: readonly string[]
  /** A program that halts, and the length of the file that holds it: it ends where the processor begins. */
  readonly firmware: { readonly code: readonly number[]; readonly at: number; readonly bytes: number }
  readonly ramBase: number
  /** RAM may have so many bytes before it would be moved or meet something else. */
  readonly ramLimit: number
  readonly mmio: (Span & { readonly slots: number }) | null
  readonly pci: {
    /** Configuration space by ports 0xCF8 and 0xCFC, or as memory from an address on (ECAM). */
    readonly config: 'ports' | number
    /** Where BARs go: below 4 GiB, and above for those that can be there. */
    readonly low: Span
    readonly high: Span
  } | null
}

const HALT_X86 = { code: [0xfa, 0xf4, 0xeb, 0xfd], at: 0xfff0, bytes: 0x1_0000 } as const
const HALT_ARM64 = { code: [0x7f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17], at: 0, bytes: 8 } as const

const TWO_32 = 2 ** 32
const X86 = { command: 'qemu-system-x86_64', debian: 'qemu-system-x86', firmware: HALT_X86, ramBase: 0 } as const

export const LAYOUTS: Readonly<Record<MachineType, MachineLayout>> = {
  q35: {
    ...X86,
    args: [],
    ramLimit: 0x8000_0000,
    mmio: null,
    pci: {
      config: 'ports',
      low: { base: 0xc000_0000, length: 0x3000_0000 },
      high: { base: 64 * TWO_32, length: 64 * TWO_32 },
    },
  },
  microvm: {
    ...X86,
    args: ['-global', 'virtio-mmio.force-legacy=false'],
    ramLimit: 0x8000_0000,
    mmio: { base: 0xfeb0_0000, length: 0x200, slots: 24 },
    pci: null,
  },
  virt: {
    command: 'qemu-system-aarch64',
    debian: 'qemu-system-arm',
    args: ['-cpu', 'cortex-a57', '-global', 'virtio-mmio.force-legacy=false'],
    firmware: HALT_ARM64,
    ramBase: 0x4000_0000,
    ramLimit: 0x8000_0000,
    mmio: { base: 0x0a00_0000, length: 0x200, slots: 32 },
    pci: {
      config: 64 * TWO_32 + 0x1000_0000,
      low: { base: 0x1000_0000, length: 0x2e00_0000 },
      high: { base: 128 * TWO_32, length: 64 * TWO_32 },
    },
  },
}
