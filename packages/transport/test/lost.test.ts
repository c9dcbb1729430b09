import type { DeviceAddress, RegisterBus } from '@guestdma/memory'
import { FeatureSet } from '@guestdma/spec'
import {
  DeviceStuckError,
  MmioTransport,
  type PciAccess,
  PciTransport,
  resetDevice,
  resetQueue,
  TransportError,
  TransportLostError,
  type VirtioTransport,
} from '@guestdma/transport'
import { describe, expect, it } from 'vitest'
import { PciFunction } from './support/pci-function.ts'
import { Registers } from './support/registers.ts'

const CAUSE = new Error('the socket closed')
const AT = 0x1000 as DeviceAddress
const AREAS = { descriptor: AT, driver: AT, device: AT }
const WAIT = { pump: (): void => {} }

/** A switch for the connection, and what lies behind it. */
interface Line {
  cut: boolean
}

function behind(line: Line, bus: RegisterBus): RegisterBus {
  const use = (): RegisterBus => {
    if (line.cut) throw CAUSE
    return bus
  }
  return {
    read: (offset, size) => use().read(offset, size),
    write: (offset, size, value) => use().write(offset, size, value),
  }
}

function probe(kind: 'mmio' | 'pci', line: Line): VirtioTransport {
  if (kind === 'mmio') return MmioTransport.probe(behind(line, new Registers()), 'dev0') as VirtioTransport
  const fake = new PciFunction()
  const access: PciAccess = {
    config: behind(line, fake.config),
    bar: (index) => {
      const bus = fake.bar(index)
      return bus === null ? null : behind(line, bus)
    },
  }
  return PciTransport.probe(access, 'dev0') as VirtioTransport
}

describe.each(['mmio', 'pci'] as const)('transport/lost over %s', (kind) => {
  const connected = (): { line: Line; transport: VirtioTransport } => {
    const line = { cut: false }
    const transport = probe(kind, line)
    transport.enableQueue(0, 8, AREAS)
    return { line, transport }
  }

  it.each<[string, (transport: VirtioTransport) => unknown]>([
    ['readStatus', (transport) => transport.readStatus()],
    ['writeStatus', (transport) => transport.writeStatus(1)],
    ['readFeatures', (transport) => transport.readFeatures()],
    ['writeFeatures', (transport) => transport.writeFeatures(FeatureSet.of(32))],
    ['maxQueueSize', (transport) => transport.maxQueueSize(1)],
    ['enableQueue', (transport) => transport.enableQueue(1, 8, AREAS)],
    ['resetQueue', (transport) => transport.resetQueue(0)],
    ['queueResetDone', (transport) => transport.queueResetDone(0)],
    ['notify', (transport) => transport.notify(0, 0)],
    ['readConfig', (transport) => transport.readConfig((config) => config.read8(0))],
    ['writeConfig', (transport) => transport.writeConfig(0, 1, 0)],
    ['takeInterrupts', (transport) => transport.takeInterrupts()],
  ])('%s throws TransportLostError with the cause, however often it is called', (_, call) => {
    const { line, transport } = connected()
    line.cut = true
    for (let i = 0; i < 2; i++) {
      let thrown: unknown
      try {
        call(transport)
      } catch (error) {
        thrown = error
      }
      expect(thrown).toBeInstanceOf(TransportLostError)
      expect(thrown).toMatchObject({ code: 'TRANSPORT_LOST', part: 'dev0', cause: CAUSE })
    }
  })

  it('probe throws it as well', () => {
    expect(() => probe(kind, { cut: true })).toThrow(TransportLostError)
  })

  it('a reset that cannot be confirmed is a stuck device whose memory stays out of use', async () => {
    const { line, transport } = connected()
    line.cut = true
    for (const reset of [resetDevice(transport, WAIT), resetQueue(transport, 0, WAIT)]) {
      const error = await reset.catch((reason: unknown) => reason)
      expect(error).toBeInstanceOf(DeviceStuckError)
      expect(error).toMatchObject({ details: { quarantined: true } })
      expect((error as Error).cause).toBeInstanceOf(TransportLostError)
    }
  })

  it('is told also where the connection is lost while a reset is waited for', async () => {
    const { line, transport } = connected()
    const pump = (): void => {
      line.cut = true
    }
    transport.writeStatus(1)
    const stuck = Object.create(transport, { writeStatus: { value: () => {} } }) as VirtioTransport
    await expect(resetDevice(stuck, { pump })).rejects.toMatchObject({ code: 'TRANSPORT_DEVICE_STUCK' })
  })
})

describe('transport/lost: a bus with errors of its own', () => {
  it('passes a TransportError on as it is', () => {
    const own = new TransportError('TRANSPORT_LOST', 'tunnel', 'the tunnel collapsed')
    const read = (): never => {
      throw own
    }
    expect(() => MmioTransport.probe({ read, write: () => {} }, 'dev0')).toThrow(own)
  })
})
