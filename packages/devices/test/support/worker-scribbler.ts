// A worker that says it is ready and then writes nonsense to all of its mailbox, for good.
import { parentPort } from 'node:worker_threads'

parentPort?.once('message', ({ format, mailbox }: { format: string; mailbox: SharedArrayBuffer }) => {
  const words = new Int32Array(mailbox)
  parentPort?.postMessage({ format, event: 'interrupt' })
  parentPort?.postMessage({ format, event: 'nonsense', text: {} })
  parentPort?.postMessage({ format, event: 'ready' })
  let state = 1
  for (;;) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    const word = (state >>> 8) % words.length
    Atomics.store(words, word, state)
    Atomics.notify(words, word)
  }
})
