// Serves a disk image to Linux in QEMU, or to any front end of vhost-user. Run it with
//   npx -y pnpm@12.21.0 exec node examples/serve-linux/src/main.ts --disk FILE --socket PATH
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { BlkDevice, BusWindows, MemoryBlockStore } from '@guestdma/devices'
import { FileBlockStore, SharedMemory, serveWatched } from '@guestdma/node'
import { VhostUserServer, VhostUserTransport } from '@guestdma/vhost-user'
import { createMachine, directScheme } from 'guestdma'

const [text, flag] = [{ type: 'string' }, { type: 'boolean' }] as const
const { values } = parseArgs({ options: { disk: text, socket: text, json: flag, help: flag } })
const { disk, socket: path = join(tmpdir(), `serve-linux-${process.pid}.sock`) } = values
if (values.help === true) {
  console.log('options: --disk FILE --socket PATH --json; without a disk it drives 1 MiB of memory by itself, and ends')
  process.exit()
}

const store = disk === undefined ? new MemoryBlockStore(new Uint8Array(1 << 20)) : await FileBlockStore.open(disk)
// QEMU gives a guest queues of 128, whatever the device has, and Linux sends as many segments as SEG_MAX says: 126 then.
const device = new BlkDevice({ name: 'disk0', port: new BusWindows('disk0'), store, queueSize: 128 })
const onDisconnect = ({ message }: Error): void => console.error(`the front end is gone: ${message}`)
const server = VhostUserServer.listen({ path, device, onDisconnect })
server.faults.observer = ({ message }) => console.error(`refused: ${message}`)

if (disk === undefined) await drive()
else {
  console.log(`serving ${disk}; start QEMU with
  -object memory-backend-memfd,id=mem,size=512M,share=on -machine q35,memory-backend=mem -m 512M
  -chardev socket,id=c0,path=${path} -device vhost-user-blk-pci,chardev=c0,disable-legacy=on`)
  process.once('SIGINT', () => server.close())
}

/** A guest in this process, whose RAM is all that the device is given. */
async function drive(): Promise<void> {
  using ram = SharedMemory.create('ram', 8 << 20)
  const base = 0x8000_0000
  const transport = VhostUserTransport.connect(path, {
    name: 'disk0',
    deviceId: device.deviceId,
    queues: 1,
    memory: [{ memory: ram, device: base }],
    // The server is in this process, so it has its turn while the driver waits.
    wait: { pump: () => void serveWatched(0) },
  })
  const machine = await createMachine({
    memory: [{ base, length: ram.bytes, memory: ram.buffer }],
    schemes: [directScheme()],
    devices: [{ type: 'blk', name: 'disk0', transport, dma: 'direct' }],
  })
  const blk = machine.blk('disk0')
  await machine.run(blk.writeBytes(0, new TextEncoder().encode('served over vhost-user'.padEnd(512))))
  const read = await machine.run(blk.readBytes(0, 512))
  const result = { sectors: blk.capacity, first: new TextDecoder().decode(read).trim() }
  console.log(values.json === true ? JSON.stringify(result) : `sector 0 of ${result.sectors}: ${result.first}`)
  await machine.close()
  transport.close()
  server.close()
}
