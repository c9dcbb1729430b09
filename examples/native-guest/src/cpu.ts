// A CPU that is small enough to read: sixteen registers of 32 bits (r0 is always 0), instructions of 8 bytes:
// operation, three register numbers, a 32-bit constant. It knows nothing of devices: all that it can do is load and
// store on the machine's bus.

export const OPERATIONS = [
  'halt', // stop with code constant
  'li', // a = constant
  'add', // a = b + c + constant
  'and', // a = b & c
  'lb', // a = byte at b + constant
  'lh', // a = 16 bits
  'lw', // a = 32 bits
  'sb', // byte at b + constant = a
  'sh',
  'sw',
  'beq', // if a = b go to constant
  'bne',
  'jmp',
  'call', // go to constant, remembering where from
  'ret',
  'wfi', // wait until an interrupt is pending
] as const
export type Operation = (typeof OPERATIONS)[number]

export const INSTRUCTION_BYTES = 8

export interface CpuBus {
  load(address: number, size: 1 | 2 | 4): number
  store(address: number, size: 1 | 2 | 4, value: number): void
}

export interface CpuState {
  readonly state: 'running' | 'waiting' | 'halted'
  readonly pc: number
  readonly registers: readonly number[]
  readonly returns: readonly number[]
}

const WIDTHS = { b: 1, h: 2, w: 4 } as const

export class Cpu {
  state: 'running' | 'waiting' | 'halted' = 'running'
  exitCode = -1
  executed = 0
  private readonly start: number
  private pc: number
  private readonly registers = new Uint32Array(16)
  private returns: number[] = []
  private readonly bus: CpuBus
  private readonly interruptPending: () => boolean

  constructor(bus: CpuBus, start: number, interruptPending: () => boolean) {
    this.bus = bus
    this.start = start
    this.pc = start
    this.interruptPending = interruptPending
  }

  /** Executes up to `count` instructions; returns how many. */
  run(count: number): number {
    if (this.state === 'waiting' && this.interruptPending()) this.state = 'running'
    let done = 0
    while (done < count && this.state === 'running') {
      this.step()
      done++
    }
    this.executed += done
    return done
  }

  save(): CpuState {
    const { state, pc, registers, returns } = this
    return { state, pc, registers: [...registers], returns: [...returns] }
  }

  restore({ state, pc, registers, returns }: CpuState): void {
    this.state = state
    this.pc = pc
    this.registers.set(registers)
    this.returns = [...returns]
  }

  reset(): void {
    this.restore({ state: 'running', pc: this.start, registers: Array(16).fill(0), returns: [] })
    this.exitCode = -1
  }

  private step(): void {
    const { bus, registers: r } = this
    const word = bus.load(this.pc, 4)
    const constant = bus.load(this.pc + 4, 4)
    const operation = OPERATIONS[word & 0xff]
    const [a, b, c] = [(word >>> 8) & 15, (word >>> 16) & 15, (word >>> 24) & 15]
    this.pc += INSTRUCTION_BYTES
    switch (operation) {
      case 'halt':
        this.state = 'halted'
        this.exitCode = constant
        break
      case 'li':
        r[a] = constant
        break
      case 'add':
        r[a] = r[b] + r[c] + constant
        break
      case 'and':
        r[a] = r[b] & r[c]
        break
      case 'lb':
      case 'lh':
      case 'lw':
        r[a] = bus.load((r[b] + constant) >>> 0, WIDTHS[operation[1] as 'b' | 'h' | 'w'])
        break
      case 'sb':
      case 'sh':
      case 'sw':
        bus.store((r[b] + constant) >>> 0, WIDTHS[operation[1] as 'b' | 'h' | 'w'], r[a])
        break
      case 'beq':
        if (r[a] === r[b]) this.pc = constant
        break
      case 'bne':
        if (r[a] !== r[b]) this.pc = constant
        break
      case 'jmp':
        this.pc = constant
        break
      case 'call':
        this.returns.push(this.pc)
        this.pc = constant
        break
      case 'ret':
        this.pc = this.returns.pop() ?? 0
        break
      case 'wfi':
        if (!this.interruptPending()) this.state = 'waiting'
        break
      default:
        throw new Error(`no such operation at 0x${this.pc.toString(16)}: ${word & 0xff}`)
    }
    r[0] = 0
  }
}
