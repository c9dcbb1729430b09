// Turns firmware into bytes: instructions, labels, strings.
import { INSTRUCTION_BYTES, OPERATIONS, type Operation } from './cpu.ts'

/** A register number. r0 is always 0. */
export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15

// What the helpers below use for themselves.
const ADDRESS: Register = 14
const VALUE: Register = 15

interface Instruction {
  readonly operation: Operation
  readonly registers: readonly [number, number, number]
  readonly constant: number | string
}

export class Assembler {
  private readonly base: number
  private readonly instructions: Instruction[] = []
  private readonly labels = new Map<string, number>()
  private readonly strings: string[] = []

  constructor(base: number) {
    this.base = base
  }

  label(name: string): void {
    this.labels.set(name, this.base + INSTRUCTION_BYTES * this.instructions.length)
  }

  /** One instruction; `constant` is a number, a label or, from {@link text}, a string. */
  op(operation: Operation, a: number = 0, b: number = 0, constant: number | string = 0, c: number = 0): void {
    this.instructions.push({ operation, registers: [a, b, c], constant })
  }

  /** The address of a NUL-terminated string. */
  text(text: string): string {
    if (!this.strings.includes(text)) this.strings.push(text)
    return `text ${text}`
  }

  /** Stores a constant: 8, 16 or 32 bits. */
  put(size: 8 | 16 | 32, address: number, value: number): void {
    this.op('li', ADDRESS, 0, address)
    this.op('li', VALUE, 0, value)
    this.op(size === 8 ? 'sb' : size === 16 ? 'sh' : 'sw', VALUE, ADDRESS, 0)
  }

  /** Loads from a constant address into a register. */
  get(size: 8 | 16 | 32, into: Register, address: number): void {
    this.op('li', ADDRESS, 0, address)
    this.op(size === 8 ? 'lb' : size === 16 ? 'lh' : 'lw', into, ADDRESS, 0)
  }

  /** Stops the machine with `why` unless a register holds `value`. */
  expect(register: Register, value: number, why: string): void {
    const good = `good ${this.instructions.length}`
    this.op('li', VALUE, 0, value)
    this.op('beq', register, VALUE, good)
    this.op('li', 1, 0, this.text(why))
    this.op('jmp', 0, 0, 'panic')
    this.label(good)
  }

  /** The program: instructions, then strings. */
  bytes(): Uint8Array<ArrayBuffer> {
    const encoder = new TextEncoder()
    let end = INSTRUCTION_BYTES * this.instructions.length
    const texts = this.strings.map((text) => {
      const bytes = encoder.encode(`${text}\0`)
      this.labels.set(`text ${text}`, this.base + end)
      end += bytes.length
      return bytes
    })
    const all = new Uint8Array(end)
    const view = new DataView(all.buffer)
    this.instructions.forEach(({ operation, registers, constant }, i) => {
      const value = typeof constant === 'number' ? constant : this.labels.get(constant)
      if (value === undefined) throw new Error(`no label ${constant}`)
      all.set([OPERATIONS.indexOf(operation), ...registers], INSTRUCTION_BYTES * i)
      view.setUint32(INSTRUCTION_BYTES * i + 4, value >>> 0, true)
    })
    let at = INSTRUCTION_BYTES * this.instructions.length
    for (const bytes of texts) {
      all.set(bytes, at)
      at += bytes.length
    }
    return all
  }
}
