// An emulator that sleeps: it polls a device because `onWork` said so, and for no other reason.
import type { VirtioDevice } from '../../src/index.ts'

const ROUNDS = 10_000

export class EventLoop {
  private readonly due = new Set<string>()
  private readonly devices = new Map<string, VirtioDevice>()
  /** How often `onWork` was called, by name. */
  readonly told = new Map<string, number>()

  /** The `onWork` of the device with this name. */
  onWork(name: string): () => void {
    return () => {
      this.due.add(name)
      this.told.set(name, (this.told.get(name) ?? 0) + 1)
    }
  }

  add(device: VirtioDevice): void {
    this.devices.set(device.name, device)
  }

  get asleep(): boolean {
    return this.due.size === 0
  }

  /** Polls what is due until nothing is. Returns how many polls that took; throws where it does not end. */
  run(budget = 64): number {
    let polls = 0
    while (this.due.size > 0) {
      for (const name of [...this.due]) {
        this.due.delete(name)
        const device = this.devices.get(name)
        if (device === undefined) throw new Error(`${name} is not in the loop`)
        if (device.poll(budget) > 0) this.due.add(name)
        if (++polls > ROUNDS) throw new Error('the loop does not come to rest')
      }
    }
    return polls
  }
}

/** Runs `act` and collects the messages of the errors that surface in microtasks because of it. */
export async function surfaced(act: () => void): Promise<string[]> {
  const messages: string[] = []
  const others = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => messages.push(error.message))
  try {
    act()
    await new Promise((resolve) => setTimeout(resolve, 0))
  } finally {
    process.removeAllListeners('uncaughtException')
    for (const listener of others) process.on('uncaughtException', listener)
  }
  return messages
}
