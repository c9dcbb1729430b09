// A worker with one device, for worker.test.ts.
import { parentPort } from 'node:worker_threads'
import { BlkDevice, type BlockRequest, MemoryBlockStore, NetDevice } from '@guestdma/devices'
import { serveDevice, type WorkerDeviceSetup } from '@guestdma/devices/worker'

export interface BlkConfig {
  readonly disk: SharedArrayBuffer
  /** What the store does with every write: `late` answers by a timer, `hang` never returns, `throw` ends the thread. */
  readonly writes?: 'late' | 'hang' | 'throw'
}

class OddStore extends MemoryBlockStore {
  private readonly writes: BlkConfig['writes']

  constructor({ disk, writes }: BlkConfig) {
    super(new Uint8Array(disk))
    this.writes = writes
  }

  override write(request: BlockRequest): void {
    if (this.writes === 'hang') for (;;);
    if (this.writes === 'throw') throw new Error('the store is on fire')
    if (this.writes === 'late') setTimeout(() => super.write(request), 1)
    else super.write(request)
  }
}

const offered = { accessPlatform: 'offered' } as const

serveDevice(parentPort, {
  blk: ({ name, port, config }: WorkerDeviceSetup<BlkConfig>) =>
    new BlkDevice({ name, port, store: new OddStore(config), ...offered }),
  net: async ({ name, port }) => new NetDevice({ name, port, mac: [0x52, 0x54, 0, 1, 2, 3], ...offered }),
  broken: () => {
    throw new Error('no such file')
  },
})
