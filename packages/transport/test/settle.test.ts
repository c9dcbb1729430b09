import { NoUsableBackendError, platformOffer } from '@guestdma/dma'
import { GuestMemory, guestAddress, SpanAllocator } from '@guestdma/memory'
import { FeatureSet, STATUS_FEATURES_OK } from '@guestdma/spec'
import { MmioTransport, negotiate, TransportLostError, type VirtioTransport } from '@guestdma/transport'
import { describe, expect, test } from 'vitest'
import { Registers, type RegistersOptions } from './support/registers.ts'

const memory = new GuestMemory([{ base: 0, length: 4096, memory: new ArrayBuffer(4096) }])

/**
 * Registers of a device that is far: what is written arrives later, and what is read is what was known when the transport
 * settled last.
 */
class FarTransport {
  readonly transport: VirtioTransport
  gone = false
  private readonly posted: (() => void)[] = []
  private status = 0
  private features = FeatureSet.empty

  constructor(registers: Registers) {
    const near = MmioTransport.probe(registers, 'far0')
    if (near === null) throw new Error('no device')
    const post = (write: () => void): void => {
      this.posted.push(write)
      setTimeout(() => this.arrive(near), 2)
    }
    this.transport = Object.assign(Object.create(near) as VirtioTransport, {
      settle: async (): Promise<void> => {
        await new Promise((resolve) => setTimeout(resolve, 5))
        if (this.gone) throw new TransportLostError('far0', new Error('the worker ended'))
        this.arrive(near)
      },
      readStatus: () => this.status,
      readFeatures: () => this.features,
      writeStatus: (status: number) => {
        // Until the device has said something else, its status is what was written, but for what only it can say.
        if (status !== 0) this.status = status & ~STATUS_FEATURES_OK
        post(() => near.writeStatus(status))
      },
      writeFeatures: (features: FeatureSet) => post(() => near.writeFeatures(features)),
    })
  }

  private arrive(near: VirtioTransport): void {
    for (const write of this.posted.splice(0)) write()
    this.status = near.readStatus()
    this.features = near.readFeatures()
  }
}

function agree(options: RegistersOptions, change: (far: FarTransport) => void = () => {}) {
  const far = new FarTransport(new Registers(options))
  change(far)
  const { transport } = far
  const ram = new SpanAllocator(guestAddress(0), 4096)
  return negotiate({
    transport,
    understood: FeatureSet.of(5),
    providers: [
      {
        id: 'only',
        reach: 'all',
        assess: () => ({ fit: 'usable', accept: FeatureSet.empty, why: 'there is no other' }),
        create: () => ({ name: 'only' }) as never,
      },
    ],
    dma: 'auto',
    offer: (offered) => platformOffer({ device: 'far0', offered, memory, ram }),
    wait: { pump: () => {} },
  })
}

describe('far: a transport whose registers answer later', () => {
  test('is negotiated with by what it says once it has settled', async () => {
    const { features } = await agree({ offered: () => FeatureSet.of(5, 32), accepts: () => true })
    expect(features.bits()).toEqual([5, 32])
  })

  test('its refusal of FEATURES_OK is seen', async () => {
    const refused = agree({ offered: () => FeatureSet.of(5, 32), accepts: () => false })
    await expect(refused).rejects.toThrow(NoUsableBackendError)
  })

  test('its end is a lost connection', async () => {
    const lost = agree({ offered: () => FeatureSet.of(32) }, (far) => {
      far.gone = true
    })
    await expect(lost).rejects.toMatchObject({ code: 'TRANSPORT_LOST' })
  })
})
