import { endWithParent } from '@guestdma/bench/program'
import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { SharedMemory } from '@guestdma/node'
import { IotlbPort, VhostUserServer } from '@guestdma/vhost-user'
import { ConfinedPort } from './guests/watched-port.ts'

// The process of one disk: `disk-server SOCKET FILE QUEUE_SIZE all|translated|BASE-LENGTH`. The last word is what the
// device reaches: guest memory, what the front end translates, or a span of guest memory.
endWithParent()

const [path, file, queueSize, reach] = process.argv.slice(2)
const name = 'disk'
const [base, length] = reach.split('-').map(Number)
const port =
  reach === 'all'
    ? new BusWindows(name)
    : reach === 'translated'
      ? new IotlbPort(name)
      : new ConfinedPort(name, { base, length })
const store = new MemoryBlockStore(new Uint8Array(SharedMemory.open(file).buffer))
const device = new BlkDevice({ name, port, store, queueSize: Number(queueSize), accessPlatform: 'offered' })
VhostUserServer.listen({ path, device })
