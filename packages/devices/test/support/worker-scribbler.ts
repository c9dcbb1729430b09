// A worker that says it is ready and then writes nonsense to all of its mailbox, for good.
import { parentPort } from 'node:worker_threads'

interface Setup {
  readonly format: string
  readonly mailbox: SharedArrayBuffer
  /** What to say of its PCI function. */
  readonly config: unknown
}

parentPort?.once('message', ({ format, mailbox, config }: Setup) => {
  const words = new Int32Array(mailbox)
  parentPort?.postMessage({ format, event: 'interrupt' })
  parentPort?.postMessage({ format, event: 'nonsense', text: {} })
  for (const [address, data] of [
    [0, 1],
    [0xfee0_0000, 2 ** 32],
    [0xfee0_0000, -1],
    [0xfee1_0000, 3],
    ['x', {}],
  ]) {
    parentPort?.postMessage({ format, event: 'message', address, data })
  }
  parentPort?.postMessage({ format, event: 'ready', described: config })
  parentPort?.postMessage({ format, event: 'message', address: 0xfee0_0ffc, data: 7 })
  let state = 1
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    const word = (state >>> 8) % words.length
    Atomics.store(words, word, state)
    Atomics.notify(words, word)
  }
})
