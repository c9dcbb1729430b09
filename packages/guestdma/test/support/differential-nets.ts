import { DMA_EXHAUSTED, DMA_OK } from '@guestdma/dma'
import { FrameBatch, type NetDriver, type ReceivedFrames } from '@guestdma/drivers'
import type { GuestAddress } from '@guestdma/memory'
import { QUEUE_FULL } from '@guestdma/virtqueue'
import type { Machine } from 'guestdma'
import { digest, type FrameOp, NETS, type NetName, type Script } from './differential-script.ts'

const BATCH = 24

interface Sender {
  readonly batch: FrameBatch
  waiting: FrameOp[]
  /** With the driver, by token, in the order of sending. */
  readonly out: Map<number, FrameOp>
}

/**
 * The frames of a script over the drivers of a machine: what does not fit waits for `drain`, and what was with a driver
 * when its device was reset is sent again.
 */
export class NetTraffic {
  readonly received: Record<string, string[]> = {}
  resent = 0
  /** How often a driver had no room. */
  blocked = 0
  readonly errors: string[] = []
  private readonly script: Script
  private readonly mode: 'map' | 'pool'
  private readonly senders: Readonly<Record<NetName, Sender>>
  private readonly resetting = new Set<NetName>()
  private made: Machine | null = null
  private arena = 0
  private missing = 0

  constructor(script: Script, mode: 'map' | 'pool') {
    this.script = script
    this.mode = mode
    const sender = (): Sender => ({ batch: new FrameBatch(BATCH), waiting: [], out: new Map() })
    this.senders = { left: sender(), right: sender(), third: sender() }
  }

  start(made: Machine, arena: GuestAddress): void {
    this.made = made
    this.arena = arena
    made.events.on('drain', ({ device }) => {
      if (device in this.senders) this.push(device as NetName)
    })
  }

  /** Everything was sent, and all of it arrived. */
  get idle(): boolean {
    return (
      this.missing === 0 && NETS.every((name) => this.senders[name].out.size + this.senders[name].waiting.length === 0)
    )
  }

  add(frames: readonly FrameOp[]): void {
    for (const frame of frames) {
      this.senders[frame.from].waiting.push(frame)
      this.missing += frame.to.length
    }
    for (const name of NETS) this.push(name)
  }

  /** The transmit queue of `name` is to be reset. What its driver holds is told as sent then, and nothing of it went out. */
  willBeReset(name: NetName): void {
    if (this.senders[name].out.size > 0) this.resetting.add(name)
  }

  /** The device of `name` was reset: nothing of what its driver still held went out. */
  wasReset(name: NetName): void {
    const sender = this.senders[name]
    this.resent += sender.out.size
    sender.waiting = [...sender.out.values(), ...sender.waiting]
    sender.out.clear()
  }

  sent(name: NetName, tokens: Uint32Array, count: number): void {
    if (this.resetting.delete(name)) {
      this.wasReset(name)
      return
    }
    for (let i = 0; i < count; i++)
      if (!this.senders[name].out.delete(tokens[i]))
        this.errors.push(`${name} sent ${tokens[i]}, which it was not given`)
  }

  frames(name: NetName, batch: ReceivedFrames): void {
    for (let i = 0; i < batch.count; i++) {
      const bytes = batch.copy(i)
      const stream = `${name}<${this.source(name, bytes)}`
      this.received[stream] ??= []
      this.received[stream].push(digest(bytes))
      this.missing--
    }
  }

  /** Hands over as much as there is room for. */
  push(name: NetName): void {
    const sender = this.senders[name]
    const slot = this.made?.device(name)
    if (slot === undefined || !slot.running) return
    const driver = (this.made as Machine).net(name)
    while (sender.waiting.length > 0) {
      const [first] = sender.waiting
      const taken = first.how === 'copy' ? this.sendCopy(driver, sender, first) : this.sendBatch(driver, sender)
      if (taken > 0) continue
      this.blocked++
      const { sendStatus } = driver
      if (sendStatus !== QUEUE_FULL && sendStatus !== DMA_EXHAUSTED && sendStatus !== DMA_OK)
        this.errors.push(`${name} refuses frame ${first.id} of ${first.bytes.length} bytes: status ${sendStatus}`)
      return
    }
  }

  private sendCopy(driver: NetDriver, { waiting, out }: Sender, frame: FrameOp): number {
    out.set(frame.id, frame)
    if (driver.sendCopy(frame.bytes, frame.id)) {
      waiting.shift()
      return 1
    }
    out.delete(frame.id)
    return 0
  }

  // As many frames as can go in one batch: those in the caller's memory are all headed, or none of them is.
  private sendBatch(driver: NetDriver, { batch, waiting, out }: Sender): number {
    batch.count = 0
    let headed: boolean | null = null
    for (const frame of waiting) {
      const { how, bytes, at, id } = frame
      const row = batch.count
      if (row === BATCH || how === 'copy') break
      if (how === 'own' || this.mode === 'pool') {
        const buffer = driver.acquire()
        if (buffer < 0) break
        const region = driver.bufferRegion
        region.refresh()
        region.u8.set(bytes, driver.bufferOffset(buffer))
        batch.buffer[row] = buffer
      } else {
        if (headed !== null && headed !== (how === 'headed')) break
        headed = how === 'headed'
        batch.buffer[row] = -1
        batch.address[row] = this.arena + at
      }
      batch.length[row] = bytes.length
      batch.token[row] = id
      batch.count++
    }
    if (batch.count === 0) return 0
    batch.headed = headed === true
    const n = driver.send(batch)
    for (let row = 0; row < batch.count; row++) {
      if (row < n) out.set(waiting[row].id, waiting[row])
      else if (batch.buffer[row] >= 0) driver.release(batch.buffer[row])
    }
    waiting.splice(0, n)
    return n
  }

  private source(name: NetName, bytes: Uint8Array): NetName {
    if (this.script.network === 'switch') return NETS[bytes[11]]
    return name === 'left' ? 'right' : name === 'right' ? 'left' : 'third'
  }
}
