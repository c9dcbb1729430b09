// The thread that is woken by an eventfd and wakes its waker, for `bench model-check`.
import { parentPort, workerData } from 'node:worker_threads'
import { EventFd, waitReadable } from '@guestdma/node'

const fds = workerData as { readonly asked: number; readonly answered: number }
const [asked, answered] = [EventFd.from(fds.asked), EventFd.from(fds.answered)]
parentPort?.postMessage('ready')
for (;;) {
  waitReadable([fds.asked], 60_000)
  if (asked.take() > 0) answered.signal()
}
