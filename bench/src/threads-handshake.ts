// A word that goes to another thread and comes back, for `bench threads`: the whole file is that other thread as well.
import { Worker, workerData } from 'node:worker_threads'

/** Words of the shared memory, each on a cache line of its own. */
const ASKED = 0
const ANSWERED = 16
const WORDS = 32

interface Setting {
  readonly words: Int32Array
  /** Does either side sleep until it is woken? Otherwise both spin. */
  readonly asleep: boolean
}

export interface Handshake {
  /** Sends a word to the other thread and waits until it is back. */
  round(): void
  close(): Promise<void>
}

/** Starts the other thread. Both have to be on cores of their own. */
export async function openHandshake(asleep: boolean): Promise<Handshake> {
  const shared: Setting = { words: new Int32Array(new SharedArrayBuffer(WORDS * 4)), asleep }
  const worker = new Worker(new URL(import.meta.url), { workerData: shared })
  await new Promise((resolve, reject) => worker.once('online', resolve).once('error', reject))
  let number = 0
  return {
    round(): void {
      const before = number
      number = (number + 1) | 0
      send(shared, ASKED, number)
      awaitOther(shared, ANSWERED, before)
    },
    close: async () => void (await worker.terminate()),
  }
}

function send({ words, asleep }: Setting, at: number, number: number): void {
  Atomics.store(words, at, number)
  if (asleep) Atomics.notify(words, at)
}

/** Returns the word once it is another one than `before`. */
function awaitOther({ words, asleep }: Setting, at: number, before: number): number {
  for (;;) {
    const now = Atomics.load(words, at)
    if (now !== before) return now
    if (asleep) Atomics.wait(words, at, before)
  }
}

const setting = workerData as Setting | null
if (setting?.words !== undefined) {
  for (let number = 0; ; ) {
    number = awaitOther(setting, ASKED, number)
    send(setting, ANSWERED, number)
  }
}
