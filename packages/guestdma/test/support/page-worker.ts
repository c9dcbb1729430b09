// A browser's worker with one device, for page.browser.ts.
import { BlkDevice, MemoryBlockStore } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup, type WorkerScope } from '@guestdma/devices/worker'

serveDevice(globalThis as unknown as WorkerScope, {
  blk: ({ name, port, config }: WorkerDeviceSetup<{ readonly disk: SharedArrayBuffer }>) =>
    new BlkDevice({ name, port, store: new MemoryBlockStore(new Uint8Array(config.disk)), accessPlatform: 'offered' }),
})
