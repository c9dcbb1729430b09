import { readFileSync } from 'node:fs'
import type { DmaScheme, SwiotlbDeclaration } from '@guestdma/dma'
import { deviceAddress, GuestMemory, guestAddress } from '@guestdma/memory'
import { type RestrictedDmaPool, readDevicetree, restrictedDmaPool, virtioMmioNodes } from '@guestdma/transport'
import { onDeviceScheme } from 'guestdma'
import { ranges } from './machines.ts'

// The example of SWIOTLB RFC 2/3, compiled.
const BLOB = new URL('../../../transport/test/devicetree/swiotlb-rfc.dtb', import.meta.url)

/** Guest memory, and a platform whose device has the region that the devicetree of the RFC's example names. */
export function exampleOfTheRfc(bit: SwiotlbDeclaration['bit']): {
  readonly scheme: DmaScheme
  readonly pool: RestrictedDmaPool
  readonly memory: GuestMemory
} {
  const tree = readDevicetree(new Uint8Array(readFileSync(BLOB)))
  const [{ node }] = virtioMmioNodes(tree)
  const pool = restrictedDmaPool(tree, node)
  if (pool === null) throw new Error('the devicetree names no pool')
  const { base, length } = pool
  const memory = new GuestMemory([...ranges(16 << 20), { base, length, memory: new ArrayBuffer(length) }])
  const scheme: DmaScheme = {
    id: 'on-device',
    provider: onDeviceScheme().provider,
    install(platform) {
      const window = platform.memory.window(guestAddress(base), length)
      platform.declareRam(false)
      platform.declareSwiotlb({ window, device: deviceAddress(base), home: 'guest-ram', addressing: 'bus', bit })
      return () => platform.window(deviceAddress(base), window)
    },
  }
  return { scheme, pool, memory }
}
