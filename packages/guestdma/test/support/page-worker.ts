// A browser's worker with one device, for page.browser.ts.
import { BlkDevice, type BlockRequest, MemoryBlockStore } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup, type WorkerScope } from '@guestdma/devices/worker'

/** A store that takes no turn back once it is asked to write a sector that begins with 0xff. */
class HangingStore extends MemoryBlockStore {
  override write(request: BlockRequest): void {
    if (request.data[0] === 0xff) for (;;);
    super.write(request)
  }
}

serveDevice(globalThis as unknown as WorkerScope, {
  blk: ({ name, port, config }: WorkerDeviceSetup<{ readonly disk: SharedArrayBuffer }>) =>
    new BlkDevice({ name, port, store: new HangingStore(new Uint8Array(config.disk)), accessPlatform: 'offered' }),
})
