// Boots Linux in v86, with nothing but a serial port and what the caller puts on its PCI bus.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { V86 } from 'v86'
import { checkedCpu, type V86Cpu } from './v86-cpu.ts'

const MIB = 1 << 20
const BIOS = '/usr/share/seabios'
const WASM = fileURLToPath(new URL('v86.wasm', import.meta.resolve('v86')))
/** Lines that an error quotes. */
const QUOTED = 12

export interface GuestFiles {
  readonly kernel: string
  readonly initrd: Uint8Array<ArrayBuffer>
}

export interface LinuxGuest {
  readonly cpu: V86Cpu
  /** What the guest printed, without the line that it is at. */
  readonly lines: readonly string[]
  run(): void
  /** Waits for a line that begins so. Throws an Error with the last lines if none comes in time, or if the kernel panics. */
  printed(word: string, deadlineMs: number): Promise<string>
  /** Stops the guest where it is, with everything that v86 itself has. */
  stopAndSave(): Promise<ArrayBuffer>
  restore(state: ArrayBuffer): Promise<void>
  end(): Promise<void>
}

/** A machine with its kernel loaded and not begun. `work` names functions of guest/init. */
export async function linuxGuest(
  { kernel, initrd }: GuestFiles,
  work: readonly string[],
  onLine: (line: string) => void,
): Promise<LinuxGuest> {
  const emulator = new V86({
    wasm_path: WASM,
    memory_size: 128 * MIB,
    vga_memory_size: 2 * MIB,
    bios: image(join(BIOS, 'bios.bin'), 'apt-get install seabios'),
    vga_bios: image(join(BIOS, 'vgabios-stdvga.bin'), 'apt-get install seabios'),
    bzimage: image(kernel, 'name a bzImage for i386'),
    initrd: { buffer: initrd.slice().buffer },
    cmdline: `console=ttyS0 quiet tsc=reliable mitigations=off panic=-1 -- ${work.join(' ')}`,
    autostart: false,
    disable_speaker: true,
    net_device: { type: 'none' } as object,
  })
  await new Promise<void>((resolve) => emulator.add_listener('emulator-loaded', () => resolve()))
  const lines: string[] = []
  let line = ''
  let heard = (): void => {}
  emulator.add_listener('serial0-output-byte', (byte) => {
    if (byte !== 10) {
      line += String.fromCharCode(byte)
      return
    }
    lines.push(line.trimEnd())
    onLine(line.trimEnd())
    line = ''
    heard()
  })
  return {
    cpu: checkedCpu((emulator as unknown as { v86: { cpu: unknown } }).v86.cpu),
    lines,
    run: () => void emulator.run(),
    async printed(word, deadlineMs) {
      const wanted = (one: string): boolean => one === word || one.startsWith(`${word} `)
      const panicked = (): boolean => lines.some((one) => one.includes('Kernel panic'))
      let late = false
      const timer = setTimeout(() => {
        late = true
        heard()
      }, deadlineMs)
      while (!lines.some(wanted) && !late && !panicked()) await new Promise<void>((resolve) => (heard = resolve))
      clearTimeout(timer)
      const found = lines.find(wanted)
      if (found !== undefined) return found
      const why = panicked() ? 'the kernel panicked' : `it did not within ${deadlineMs / 1000} s`
      throw new Error(`waited for the guest to print ${word}, and ${why}; last:\n${lines.slice(-QUOTED).join('\n')}`)
    },
    async stopAndSave() {
      await emulator.stop()
      return emulator.save_state()
    },
    restore: (state) => emulator.restore_state(state),
    end: () => emulator.destroy(),
  }
}

/** An initramfs of guest/init and the busybox in `programs`. */
export function makeInitrd(programs: string): Uint8Array<ArrayBuffer> {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-initrd-'))
  try {
    for (const folder of ['bin', 'dev', 'proc', 'sys', 'mnt']) mkdirSync(join(dir, folder))
    copyFileSync(join(programs, 'busybox'), join(dir, 'bin/busybox'))
    copyFileSync(new URL('../guest/init', import.meta.url), join(dir, 'init'))
    const line = 'chmod 755 init bin/busybox && find . | cpio -o -H newc --quiet'
    const { status, stdout, stderr } = spawnSync('sh', ['-c', line], { cwd: dir, maxBuffer: 64 * MIB })
    if (status !== 0)
      throw new Error(`the initramfs cannot be made (apt-get install cpio): ${stderr.toString().trim()}`)
    return new Uint8Array(stdout)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

function image(path: string, advice: string): { buffer: ArrayBuffer } {
  try {
    return { buffer: new Uint8Array(readFileSync(path)).buffer }
  } catch (error) {
    throw new Error(`${path} cannot be read (${(error as Error).message}): ${advice}`)
  }
}
