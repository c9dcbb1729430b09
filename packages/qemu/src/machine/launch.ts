import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { deviceAddress, GuestMemory, guestAddress } from '@guestdma/memory'
import { NodeError, type Peer, SharedMemory, spawnPeer, type UnixListener, UnixSocket } from '@guestdma/node'
import { QemuError } from '../protocol/errors.ts'
import { LineStream } from '../protocol/lines.ts'
import { Qmp } from '../protocol/qmp.ts'
import { Qtest } from '../protocol/qtest.ts'
import { LAYOUTS, type MachineLayout, type MachineType } from './layout.ts'
import { Qemu } from './qemu.ts'

const MIB = 1 << 20
/** A PC has holes and firmware in its first MiB, `virt` its devicetree: drivers get what lies above. */
const FIRST = MIB
const DEFAULT_MEMORY = 64 * MIB
const DEFAULT_DEADLINE_MS = 10_000
/** Where the guest's own RAM begins, if QEMU has a pool only: no machine has anything there. */
const PRIVATE_AT = 32 * 2 ** 32

export interface QemuOptions {
  readonly machine: MachineType
  /** Bytes of guest RAM: whole MiB, at least 2. Default 64 MiB. */
  readonly memory?: number
  /**
   * Bytes of a shared pool, whole MiB. Where it is given, QEMU has the pool and no other memory of the guest: guest RAM
   * lies in this process only, so that the border between two processes enforces what a device can reach.
   */
  readonly pool?: number
  /** Arguments of QEMU, such as `-drive`, `-netdev` and `-device`. On PCI, give each device its `addr`. */
  readonly args?: readonly string[]
  /** QEMU itself. Default: the program for the machine, from PATH. */
  readonly command?: string
  /** How long QEMU may take to start, and for each answer later. Default 10,000. */
  readonly deadlineMs?: number
}

/**
 * Starts QEMU with a processor that stands still, so that its devices can be driven from here: by `memory`, registers
 * and PCI functions. Needs Linux, `koffi`, and QEMU.
 *
 * @example
 * await using qemu = await launchQemu({
 *   machine: 'q35',
 *   args: ['-drive', 'if=none,id=d0,driver=null-co,size=1M', '-device', 'virtio-blk-pci,drive=d0,addr=3'],
 * })
 * const transport = PciTransport.probe(qemu.pci(3), 'disk0')
 *
 * @throws QemuError `QEMU_MISSING`, `QEMU_OPTIONS`, `QEMU_START`, `QEMU_LOST`; NodeError `NODE_KOFFI`,
 *   `NODE_PLATFORM`, `NODE_SOCKET_PATH`, `NODE_SYSCALL`
 */
export async function launchQemu(options: QemuOptions): Promise<Qemu> {
  const layout = checkedLayout(options)
  const { machine, memory: bytes = DEFAULT_MEMORY, pool, deadlineMs = DEFAULT_DEADLINE_MS } = options
  const closers: (() => unknown)[] = []
  try {
    const shared = SharedMemory.create(`${machine} memory`, pool === undefined ? bytes : FIRST + pool)
    closers.push(() => shared.close())
    const listeners: Record<string, UnixListener> = {}
    const peer = startQemu(options, layout, shared, (dir) => {
      for (const name of ['qtest', 'qmp']) {
        const listener = UnixSocket.listen(join(dir, name))
        listeners[name] = listener
        closers.push(() => listener.close())
      }
    })
    closers.push(() => peer.close())
    const deadline = performance.now() + deadlineMs
    const connected = async (name: string): Promise<LineStream> => {
      const socket = await accept(listeners[name], peer, deadline, deadlineMs)
      closers.push(() => socket.close())
      return new LineStream(`QEMU's ${name}`, socket, deadlineMs, () => peer.output())
    }
    // In the order in which QEMU opens them.
    const qmp = await connected('qmp')
    const qtest = await connected('qtest')
    for (const listener of Object.values(listeners)) listener.close()
    return new Qemu({
      machine,
      layout,
      peer,
      qtest: new Qtest(qtest),
      qmp: new Qmp(qmp),
      ...guestOf(layout, shared, bytes, pool),
      release: () => shared.close(),
    })
  } catch (error) {
    for (const close of closers.reverse()) await close()
    throw error
  }
}

function checkedLayout({ machine, memory = DEFAULT_MEMORY, pool, deadlineMs = 0 }: QemuOptions): MachineLayout {
  const layout: MachineLayout | undefined = Object.hasOwn(LAYOUTS, machine) ? LAYOUTS[machine] : undefined
  const refuse = (message: string, details: Record<string, unknown>): never => {
    throw new QemuError('QEMU_OPTIONS', `QEMU ${machine}`, message, details)
  }
  if (layout === undefined) return refuse(`the machine must be ${Object.keys(LAYOUTS).join(', ')}`, { machine })
  for (const [name, value, least] of [
    ['memory', memory, 2 * MIB],
    ['pool', pool ?? MIB, MIB],
  ] as const) {
    if (!Number.isSafeInteger(value) || value % MIB !== 0 || value < least || value > layout.ramLimit - FIRST) {
      const most = (layout.ramLimit - FIRST) / MIB
      refuse(`${name}: ${String(value)} bytes must be ${least / MIB} to ${most} whole MiB`, { [name]: value })
    }
  }
  if (!Number.isFinite(deadlineMs) || deadlineMs < 0) {
    refuse(`deadlineMs ${String(deadlineMs)} must be a finite number, 0 or more`, { deadlineMs })
  }
  return layout
}

function startQemu(
  { machine, args = [], command }: QemuOptions,
  layout: MachineLayout,
  shared: SharedMemory,
  prepare: (dir: string) => void,
): Peer {
  const program = command ?? layout.command
  const { firmware } = layout
  try {
    return spawnPeer({
      command: program,
      args: (dir) => {
        prepare(dir)
        const bios = new Uint8Array(firmware.bytes)
        bios.set(firmware.code, firmware.at)
        writeFileSync(join(dir, 'bios'), bios)
        // QEMU opens our memfd by our table of descriptors: no file that could stay behind.
        const memory = `id=mem,size=${shared.bytes},mem-path=/proc/${process.pid}/fd/${shared.fd},share=on`
        return [
          ...['-machine', `${machine},memory-backend=mem`, '-accel', 'tcg', ...layout.args],
          ...['-bios', join(dir, 'bios'), '-display', 'none', '-nodefaults', '-no-user-config'],
          ...['-m', `${shared.bytes / MIB}M`, '-object', `memory-backend-file,${memory}`],
          ...['-qmp', `unix:${join(dir, 'qmp')}`],
          ...args,
          ...['-qtest', `unix:${join(dir, 'qtest')}`, '-qtest-log', '/dev/null'],
        ]
      },
    })
  } catch (cause) {
    if (!(cause instanceof NodeError) || cause.code !== 'NODE_COMMAND') throw cause
    const message = `${program} cannot be started; Debian has it in the package ${layout.debian}`
    throw new QemuError('QEMU_MISSING', `QEMU ${machine}`, message, { command: program }, { cause })
  }
}

/** Waits with turns of the event loop in between: only there is it known that QEMU ended. */
async function accept(listener: UnixListener, peer: Peer, deadline: number, deadlineMs: number): Promise<UnixSocket> {
  for (;;) {
    try {
      return listener.accept(0)
    } catch (error) {
      if (!(error instanceof NodeError) || error.code !== 'NODE_DEADLINE') throw error
    }
    const what = peer.ended ? 'QEMU ended' : performance.now() > deadline ? `no connection in ${deadlineMs} ms` : null
    if (what !== null) throw new QemuError('QEMU_START', peer.command, `${what}; it printed: ${peer.output()}`)
    await setTimeout(5)
  }
}

/** The guest's memory, and what of it is RAM for drivers. */
function guestOf(
  { ramBase }: MachineLayout,
  shared: SharedMemory,
  bytes: number,
  pool: number | undefined,
): Pick<ConstructorParameters<typeof Qemu>[0], 'memory' | 'ram' | 'pool'> {
  const base = guestAddress(ramBase + FIRST)
  const length = shared.bytes - FIRST
  const range = { base, length, memory: shared.buffer, offset: FIRST }
  if (pool === undefined) return { memory: new GuestMemory([range]), ram: { base, length }, pool: undefined }
  const ram = { base: guestAddress(PRIVATE_AT), length: bytes }
  const memory = new GuestMemory([range, { ...ram, memory: new ArrayBuffer(bytes) }])
  const window = memory.window(base, length)
  return { memory, ram, pool: { window, device: deviceAddress(base), home: 'guest-ram' } }
}
