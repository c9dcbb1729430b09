// One pending bit per line. The guest reads the word; a bit falls when its device lowers the line.
import type { InterruptSink, RegisterBus } from '@guestdma/memory'

export class InterruptController implements RegisterBus {
  private word = 0

  get pending(): boolean {
    return this.word !== 0
  }

  line(number: number): InterruptSink {
    return {
      level: (asserted) => {
        this.word = asserted ? this.word | (1 << number) : this.word & ~(1 << number)
      },
    }
  }

  read(offset: number, size: 1 | 2 | 4): number {
    return offset === 0 && size === 4 ? this.word >>> 0 : 0
  }

  write(): void {}
}
