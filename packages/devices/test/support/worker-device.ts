// A worker with one device, for worker.test.ts.
import { parentPort } from 'node:worker_threads'
import { BlkDevice, MemoryBlockStore, NetDevice, type NetDeviceOptions } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup } from '@guestdma/devices/worker'
import { VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA } from '@guestdma/spec'

function told({ name, port, link, offer = [] }: Pick<NetDeviceOptions, 'name' | 'port' | 'link' | 'offer'>): NetDevice {
  const mac = [0x52, 0x54, 0, 1, 2, 3]
  const net = new NetDevice({ name, port, mac, offer, ...(link === undefined ? {} : { link }) })
  parentPort?.on('message', (message) => {
    if (message === 'unplug') net.setLink(false)
    if (message === 'fail') net.needsReset('its owner says so')
    if (message === 'faults') parentPort?.postMessage({ faults: net.faults.last(), count: net.faults.count })
  })
  return net
}

serveDevice(parentPort, {
  blk: ({ name, port, config }: WorkerDeviceSetup<{ disk: SharedArrayBuffer }>) =>
    new BlkDevice({ name, port, store: new MemoryBlockStore(new Uint8Array(config.disk)) }),
  net: (setup) => told({ ...setup, link: { transmit: ({ count }) => count } }),
  odd: (setup) => told({ ...setup, offer: [VIRTIO_F_NOTIFICATION_DATA, VIRTIO_F_NOTIF_CONFIG_DATA] }),
  // A link that always has something to deliver, so that its device is never idle.
  busy: async (setup) => told({ ...setup, link: { transmit: ({ count }) => count, deliver: () => 1 } }),
  // Says what its port grants at an address, and hangs at a doorbell of queue 1.
  probe: ({ name, port }) => {
    parentPort?.on('message', (address) => {
      if (typeof address !== 'number') return
      port.request[0] = address
      parentPort?.postMessage({ granted: port.resolve(8, 1) })
    })
    const net = told({ name, port })
    net.notify = (queue) => {
      if (queue.index === 1) for (;;);
      return true
    }
    return net
  },
  broken: () => {
    throw new Error('no such file')
  },
})
