// The device of `bench threads`, in its own thread: it counts frames and does nothing else with them.
import { parentPort } from 'node:worker_threads'
import { NetDevice } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup } from '@guestdma/devices/worker'
import { type CountingConfig, countingDevice } from './threads-link.ts'

serveDevice(parentPort, {
  net: ({ name, port, config }: WorkerDeviceSetup<CountingConfig>) =>
    new NetDevice({ name, port, ...countingDevice(config) }),
})
