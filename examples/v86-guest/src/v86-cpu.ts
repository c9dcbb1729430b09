// What this example touches inside v86. None of it is documented, so the version in package.json is exact.

type Read = (address: number) => number
type Write = (address: number, value: number) => void

/** v86's host bridge. Configuration accesses go through two ports; these methods are what is behind them. */
interface V86Pci {
  /** The address that the guest selected: register, function (two bytes), enable. */
  readonly pci_addr: Uint8Array
  readonly pci_response32: Int32Array
  readonly pci_status32: Int32Array
  /** The guest selected an address: puts what is there into the response. */
  pci_query(): void
  pci_write8: Write
  pci_write16: Write
  pci_write32: Write
  register_device(device: {
    readonly name: string
    readonly pci_id: number
    readonly pci_space: readonly number[]
    readonly pci_bars: readonly never[]
  }): void
  raise_irq(pciId: number): void
  lower_irq(pciId: number): void
}

export interface V86Cpu {
  readonly wasm_memory: WebAssembly.Memory
  /** RAM; its offset in `wasm_memory` is where RAM begins. */
  readonly mem8: Uint8Array
  readonly memory_size: Int32Array
  /** By block of 128 KiB: who serves it. */
  readonly memory_map_read8: readonly Read[]
  readonly memory_map_write8: readonly Write[]
  readonly memory_map_read32: readonly Read[]
  readonly memory_map_write32: readonly Write[]
  readonly io: {
    mmap_register(from: number, bytes: number, read8: Read, write8: Write, read32: Read, write32: Write): void
  }
  readonly devices: { readonly pci: V86Pci }
  mmap_write16: Write
  /** Code that was translated from RAM at [from, to) is stale. */
  jit_dirty_cache(from: number, to: number): void
  /** The guest, or whoever owns the machine, resets it. */
  reboot_internal(): void
}

const METHODS = [
  ['devices', 'pci', 'pci_query'],
  ['devices', 'pci', 'pci_write8'],
  ['devices', 'pci', 'pci_write16'],
  ['devices', 'pci', 'pci_write32'],
  ['devices', 'pci', 'register_device'],
  ['devices', 'pci', 'raise_irq'],
  ['devices', 'pci', 'lower_irq'],
  ['io', 'mmap_register'],
  ['mmap_write16'],
  ['jit_dirty_cache'],
  ['reboot_internal'],
]

/** Throws an Error that names what is not as in the version that this was written for. */
export function checkedCpu(cpu: unknown): V86Cpu {
  for (const path of METHODS) {
    let found = cpu
    for (const name of path) found = (found as Record<string, unknown> | undefined)?.[name]
    if (typeof found === 'function') continue
    throw new Error(`this v86 has no method cpu.${path.join('.')}; the glue was written for v86 0.5.462`)
  }
  return cpu as V86Cpu
}
