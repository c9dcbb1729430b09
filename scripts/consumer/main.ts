// What a user's first program looks like: the README's quick start and a network device. `pnpm check:tarballs` runs it
// against the packed packages under every supported Node, and type-checks it under every supported TypeScript.
import {
  createMachine,
  directScheme,
  LoopbackLink,
  MachineEvents,
  MemoryBlockStore,
  onDeviceScheme,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'

const chosen: string[] = []
const events = new MachineEvents()
events.on('scheme', ({ device, scheme }) => chosen.push(`${device} ${scheme}`))
let received = 0
const machine = await createMachine({
  events,
  memory: [{ base: 0x8000_0000, length: 16 << 20, memory: new ArrayBuffer(16 << 20) }],
  schemes: [onDeviceScheme(), virtioIommuScheme(), sharedPoolScheme({ size: 1 << 20 }), directScheme()],
  devices: [
    {
      type: 'blk',
      name: 'disk0',
      platform: 'shared-pool',
      device: { store: new MemoryBlockStore(new Uint8Array(1 << 20)) },
    },
    {
      type: 'blk',
      name: 'disk1',
      platform: 'on-device',
      transport: 'pci',
      device: { store: new MemoryBlockStore(new Uint8Array(1 << 20)) },
    },
    {
      type: 'blk',
      name: 'disk2',
      platform: 'virtio-iommu',
      device: { store: new MemoryBlockStore(new Uint8Array(1 << 20)) },
    },
    {
      type: 'net',
      name: 'net0',
      platform: 'direct',
      device: { mac: [2, 0, 0, 0, 0, 1], link: new LoopbackLink() },
      observer: {
        frames: (batch) => {
          received += batch.count
        },
      },
    },
  ],
})
const disk = machine.blk('disk0')
await machine.run(disk.writeBytes(8, new TextEncoder().encode('hello'.padEnd(512))))
const sector = await machine.run(disk.readBytes(8, 512))
for (const name of ['disk1', 'disk2']) {
  const other = machine.blk(name)
  await machine.run(other.writeBytes(8, sector))
  const copy = await machine.run(other.readBytes(8, 512))
  if (copy.join() !== sector.join()) throw new Error(`${name} read back something else`)
}
machine.net('net0').sendCopy(new Uint8Array(60))
machine.pump()
const { disk0 } = machine.counters().devices
await machine.close()

const text = new TextDecoder().decode(sector).trim()
if (text !== 'hello') throw new Error(`read back '${text}'`)
if (disk0.backend.bytesCopiedToDevice !== 512) throw new Error(`${disk0.backend.bytesCopiedToDevice} bytes copied`)
if (received !== 1) throw new Error(`${received} frames received`)
if (chosen.join() !== 'disk0 shared-pool,disk1 on-device,disk2 virtio-iommu,net0 direct') throw new Error(chosen.join())
