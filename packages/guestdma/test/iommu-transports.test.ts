import { everything, IommuDevice, MmioRegisters, PciFunction } from '@guestdma/devices'
import { DMA_OK, DmaMappings, FROM_DEVICE, type IommuFault, TO_DEVICE } from '@guestdma/dma'
import { IommuBackend, VirtioIommu } from '@guestdma/iommu'
import { ACCESS_READ, ACCESS_WRITE, type BusPort, GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { assignBars, MmioTransport, PciTransport, type VirtioTransport } from '@guestdma/transport'
import { describe, expect, test } from 'vitest'

const BASE = 0x8000_0000
const BYTES = 8 << 20

function transportTo(kind: 'mmio' | 'pci', device: IommuDevice, notify: 'inline' | 'marked'): VirtioTransport {
  if (kind === 'mmio') {
    const transport = MmioTransport.probe(new MmioRegisters(device, { notify }), 'iommu')
    if (transport === null) throw new Error('no device')
    return transport
  }
  const pci = new PciFunction(device, { notify })
  let next = 0x1000_0000
  assignBars(pci, ({ size }) => {
    next = Math.ceil(next / size) * size + size
    return next - size
  })
  const transport = PciTransport.probe(pci, 'iommu')
  if (transport === null) throw new Error('no function')
  return transport
}

const reaches = (port: BusPort, address: number, access: 1 | 2): boolean => {
  port.refresh()
  port.request[0] = address
  return port.resolve(1, access) > 0
}

describe.each(['mmio', 'pci'] as const)('a virtio-iommu over %s, its driver and its device', (kind) => {
  // Inline, a commit finds its answer when the doorbell returns; marked, it waits through the platform's pump.
  test.each(['inline', 'marked'] as const)(
    'bypass off, attach, map, unmap, faults; doorbells are %s',
    async (notify) => {
      const memory = new GuestMemory([{ base: BASE, length: BYTES, memory: new ArrayBuffer(BYTES) }])
      const ram = new SpanAllocator(guestAddress(BASE), BYTES)
      const device = new IommuDevice({ name: 'iommu', port: everything(memory), bypass: 'on' })
      const ports = [1, 2].map((id) => device.addEndpoint(id, { name: `dev${id}`, downstream: everything(memory) }))
      expect(ports.map((port) => reaches(port, BASE, ACCESS_WRITE))).toEqual([true, true])

      const faults: IommuFault[] = []
      const iommu = await VirtioIommu.start({
        transport: transportTo(kind, device, notify),
        memory,
        ram,
        wait: { pump: () => void device.poll(64) },
        observer: (fault) => faults.push(fault),
      })
      expect(ports.map((port) => reaches(port, BASE, ACCESS_WRITE))).toEqual([false, false])
      device.poll(64)
      iommu.poll()
      expect(faults.map((fault) => [fault.device, fault.reason])).toEqual([
        ['endpoint 1', 'domain'],
        ['endpoint 2', 'domain'],
      ])

      const domain = iommu.attach(1, 'net0')
      const backend = new IommuBackend({ name: 'virtio-iommu', memory, ram, domain })
      const m = new DmaMappings(200)
      for (let row = 0; row < m.rows; row++) {
        m.guest[row] = BASE + (4 << 20) + row * 4096
        m.length[row] = 1500
        m.direction[row] = row % 2 === 0 ? TO_DEVICE : FROM_DEVICE
        expect(backend.map(m, row)).toBe(DMA_OK)
      }
      expect(backend.commitMaps()).toBe(DMA_OK)
      for (const row of [0, 1, 198, 199]) {
        expect([ACCESS_READ, ACCESS_WRITE].map((access) => reaches(ports[0], m.device[row], access as 1 | 2))).toEqual(
          row % 2 === 0 ? [true, false] : [false, true],
        )
        expect(reaches(ports[1], m.device[row], ACCESS_READ)).toBe(false)
      }
      for (let row = 0; row < m.rows; row++) backend.unmap(m, row, 0)
      expect(backend.commitUnmaps()).toBe(DMA_OK)
      expect([...m.device].some((address) => reaches(ports[0], address, ACCESS_READ))).toBe(false)
      expect(device.counters.mappings).toBe(0)

      // The probes above were reported as well, in as many turns as it takes.
      while (device.poll(64) + iommu.poll() > 0);
      faults.length = 0
      reaches(ports[0], m.device[7] + 5, ACCESS_WRITE)
      device.poll(64)
      iommu.poll()
      const { low, high } = faults[faults.length - 1].address ?? { low: 0, high: 0 }
      expect([faults[faults.length - 1].device, faults[faults.length - 1].reason]).toEqual(['net0', 'mapping'])
      expect([faults[faults.length - 1].access, high * 2 ** 32 + low]).toEqual(['write', m.device[7] + 5])
      backend.dispose()
      await iommu.close()
      expect([device.counters.domains, ram.live]).toEqual([0, 0])
    },
  )
})
