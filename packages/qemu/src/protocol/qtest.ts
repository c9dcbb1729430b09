import type { RegisterBus } from '@guestdma/memory'
import { QemuError } from './errors.ts'
import type { LineStream } from './lines.ts'

type Width = 1 | 2 | 4

const WIDTH = { 1: 'b', 2: 'w', 4: 'l' } as const
const NUMBER = /^0x[0-9a-f]{1,16}$/i

/**
 * QEMU's qtest protocol: single accesses to the machine's memory and ports as its processor would make them, one
 * question and one answer each. The thread blocks meanwhile.
 *
 * Every method throws QemuError `QEMU_LOST` where QEMU is gone, late or confused, for good, and `QEMU_COMMAND` where it
 * refuses.
 */
export class Qtest {
  private readonly lines: LineStream

  constructor(lines: LineStream) {
    this.lines = lines
  }

  /** Sends one command and returns what followed `OK`. */
  command(text: string): string {
    if (text.includes('\n')) throw new QemuError('QEMU_OPTIONS', this.lines.name, 'a command is one line', { text })
    this.lines.send(text)
    for (;;) {
      const line = this.lines.next()
      const [word] = line.split(' ', 1)
      if (word === 'OK') return line.slice(3)
      if (word === 'FAIL' || word === 'ERR') throw new QemuError('QEMU_COMMAND', this.lines.name, `${text}: ${line}`)
      // Interrupts, which come unasked where they are intercepted.
      if (word !== 'IRQ') throw this.lines.fail(`'${text}' was answered by '${line.slice(0, 80)}'`)
    }
  }

  read(address: number, size: Width): number {
    return this.value(`read${WIDTH[size]} ${address}`)
  }

  write(address: number, size: Width, value: number): void {
    this.command(`write${WIDTH[size]} ${address} ${value}`)
  }

  /** Reads an I/O port; only machines of the PC's kind have them. */
  in(port: number, size: Width): number {
    return this.value(`in${WIDTH[size]} ${port}`)
  }

  /** Writes an I/O port. */
  out(port: number, size: Width, value: number): void {
    this.command(`out${WIDTH[size]} ${port} ${value}`)
  }

  /** Registers from a physical address on. */
  window(base: number): RegisterBus {
    return {
      read: (offset, size) => this.read(base + offset, size),
      write: (offset, size, value) => this.write(base + offset, size, value),
    }
  }

  close(): void {
    this.lines.close()
  }

  private value(command: string): number {
    const answer = this.command(command)
    if (!NUMBER.test(answer)) throw this.lines.fail(`'${command}' was answered by 'OK ${answer.slice(0, 80)}'`)
    return Number(answer)
  }
}
