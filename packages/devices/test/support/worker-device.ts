// A worker with one device, for worker.test.ts.
import { parentPort } from 'node:worker_threads'
import { BlkDevice, MemoryBlockStore, NetDevice } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup } from '@guestdma/devices/worker'

const offered = { accessPlatform: 'offered' } as const

serveDevice(parentPort, {
  blk: ({ name, port, config }: WorkerDeviceSetup<{ disk: SharedArrayBuffer }>) =>
    new BlkDevice({ name, port, store: new MemoryBlockStore(new Uint8Array(config.disk)), ...offered }),
  net: async ({ name, port }) => {
    const net = new NetDevice({ name, port, mac: [0x52, 0x54, 0, 1, 2, 3], ...offered })
    parentPort?.on('message', (message) => {
      if (message === 'unplug') net.setLink(false)
      if (message === 'fail') net.needsReset('its owner says so')
    })
    return net
  },
  broken: () => {
    throw new Error('no such file')
  },
})
