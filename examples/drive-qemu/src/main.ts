// A disk of QEMU behind QEMU's own virtio-iommu, driven from here: no line of the devices is ours. Run it with
//   npx -y pnpm@12.21.0 exec node examples/drive-qemu/src/main.ts
import { parseArgs } from 'node:util'
import { launchQemu, QemuError } from '@guestdma/qemu'
import { PciTransport, type VirtioTransport } from '@guestdma/transport'
import { createMachine, virtioIommuScheme } from 'guestdma'

const HELP = `Usage: npx -y pnpm@12.21.0 exec node examples/drive-qemu/src/main.ts [--json] [--help]

Starts QEMU with a disk behind a virtio-iommu, writes and reads the disk, and shows what that took.
Needs Linux and QEMU (Debian: apt-get install qemu-system-x86); without QEMU it says so and ends.
`
const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean' } } })

async function main(): Promise<object> {
  await using qemu = await launchQemu({
    machine: 'q35',
    args: [
      ...['-device', 'virtio-iommu-pci,addr=2'],
      ...['-drive', 'if=none,id=d0,driver=null-co,size=64M,read-zeroes=on'],
      ...['-device', 'virtio-blk-pci,drive=d0,addr=3,disable-legacy=on,iommu_platform=on'],
    ],
  })
  const at = (slot: number, name: string): VirtioTransport => {
    const transport = PciTransport.probe(qemu.pci(slot), name)
    if (transport === null) throw new Error(`there is no virtio device in slot ${slot}`)
    return transport
  }
  // The IOMMU knows a device by its requester ID: the slot, and the function in the last three bits.
  const iommu = { transport: () => at(2, 'iommu'), endpoint: () => 3 << 3 }
  const machine = await createMachine({
    memory: qemu.memory,
    schemes: [virtioIommuScheme({ iommu })],
    devices: [{ type: 'blk', name: 'disk', transport: at(3, 'disk') }],
  })
  const disk = machine.blk('disk')
  await machine.run(disk.writeBytes(8, new Uint8Array(4096).fill(7)))
  const read = await machine.run(disk.readBytes(8, 4096))
  const { features, why } = machine.device('disk').negotiated
  const { maps, unmaps } = machine.counters().devices.disk.backend
  await machine.close()
  return { qemu: qemu.version, features: `${features}`, why, sectors: disk.capacity, read: read.length, maps, unmaps }
}

if (values.help === true) process.stdout.write(HELP)
else {
  const result = await main().catch((error: unknown) => {
    if (error instanceof QemuError && error.code === 'QEMU_MISSING') return { skipped: error.message }
    throw error
  })
  if (values.json === true) console.log(JSON.stringify(result))
  else for (const [name, value] of Object.entries(result)) console.log(`${name}: ${value}`)
}
