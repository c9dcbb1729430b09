import { checkSpan, hex, type InterruptSink } from '@guestdma/memory'
import { tellMessage } from './interrupt-sink.ts'

/** Where a platform takes message-signalled interrupts: writes to a span of addresses that is no memory. */
export class Doorbell {
  // [0] where it begins, [1] its bytes; 0 bytes where there is none.
  private readonly span = new Float64Array(2)
  private sink: InterruptSink | null = null

  /** Throws MemoryError `MEMORY_ADDRESS`, `MEMORY_LENGTH`. */
  set(name: string, base: number, length: number, sink: InterruptSink): void {
    checkSpan(base, length, `${name} doorbell ${hex(base)}`)
    this.span[0] = base
    this.span[1] = length
    this.sink = sink
  }

  /** Passes a message on if its address, `request[0]`, is here. */
  ring(request: Float64Array, data: number): boolean {
    const into = request[0] - this.span[0]
    if (!(into >= 0 && into < this.span[1])) return false
    tellMessage(this.sink, request[0], data)
    return true
  }
}
