import { type GuestAddress, guestAddress } from '@guestdma/memory'
import type { Machine } from 'guestdma'
import { line } from './differential-model.ts'
import { type BlkOp, type DiskName, digest } from './differential-script.ts'

/** The requests of a script over the drivers of a machine: what fails because of a reset is asked for again. */
export class DiskTraffic {
  /** How often a request was in flight when its device or its queue was reset. */
  retries = 0
  private readonly made: Machine
  private readonly arena: GuestAddress
  private readonly completed: (disk: DiskName) => void
  private readonly lines = new Map<number, string>()
  private waiting: BlkOp[] = []
  private out = 0

  constructor(made: Machine, arena: GuestAddress, completed: (disk: DiskName) => void) {
    this.made = made
    this.arena = arena
    this.completed = completed
  }

  get idle(): boolean {
    return this.waiting.length === 0 && this.out === 0
  }

  /** How each request ended, in the order of the script. */
  get results(): string[] {
    return [...this.lines].sort(([a], [b]) => a - b).map(([, text]) => text)
  }

  add(ops: readonly BlkOp[]): void {
    this.waiting.push(...ops)
    this.submit()
  }

  /** Hands over what waits, where there is a driver to hand it to. */
  submit(): void {
    const ready = this.waiting.filter(({ disk }) => this.made.device(disk).running)
    this.waiting = this.waiting.filter((op) => !ready.includes(op))
    for (const op of ready) void this.follow(op)
  }

  private async follow(op: BlkOp): Promise<void> {
    this.out++
    try {
      const data = await this.execute(op)
      this.lines.set(op.id, line(op, 'ok', data))
      this.completed(op.disk)
    } catch (error) {
      const { code = String(error) } = error as { readonly code?: string }
      if (code === 'DRIVER_CLOSED' || code === 'BLK_RESET') {
        this.retries++
        this.waiting.push(op)
      } else this.lines.set(op.id, line(op, code, ''))
    } finally {
      this.out--
    }
  }

  private async execute({ kind, disk, sector, length, at, bytes }: BlkOp): Promise<string> {
    const driver = this.made.blk(disk)
    const address = guestAddress(this.arena + Math.max(0, at))
    switch (kind) {
      case 'flush':
        await driver.flush()
        return ''
      case 'id':
        return driver.id()
      case 'write':
        await driver.write(sector, address, length)
        return ''
      case 'read':
        await driver.read(sector, address, length)
        return digest(this.made.memory.read(address, length))
      case 'put':
        await driver.writeBytes(sector, bytes)
        return ''
      default:
        return digest(await driver.readBytes(sector, length))
    }
  }
}
