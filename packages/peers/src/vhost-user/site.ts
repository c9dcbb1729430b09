import { AuditedTransport } from '@guestdma/conformance'
import type { DmaScheme, PoolFact } from '@guestdma/dma'
import { type DeviceAddress, type GuestRange, Region } from '@guestdma/memory'
import { type Peer, SharedMemory } from '@guestdma/node'
import {
  DPDK_IOTLB,
  type IotlbProviderOptions,
  iotlbScheme,
  type VhostUserOptions,
  VhostUserTransport,
} from '@guestdma/vhost-user'
import { createMachine, type Machine, type RemoteConfig, sharedPoolScheme } from 'guestdma'
import { auditedWindow } from '../work/audit.ts'

const RAM_BASE = 0x8000_0000
const RAM = 16 << 20
/** Where a device sees a pool: at no address of the guest. */
const POOL_DEVICE = 0x12_3456_0000
const POOL = 4 << 20
const DEADLINE_MS = 15_000

export type VhostBackend = 'shared-pool' | 'vhost-iotlb'

/** What one case gives a back end, and what is its own. */
export interface VhostSite {
  readonly audits: AuditedTransport[]
  /** A transport over a new connection. The one before is closed. */
  connect(path: string): VhostUserTransport
  machine(transport: VhostUserTransport, peer: Peer, more?: Partial<RemoteConfig>): Promise<Machine>
  close(): void
}

/** How a case differs from a plain one. */
export interface VhostSetting {
  /** How mappings are taken back, and who is told of them. */
  readonly iotlb?: Omit<IotlbProviderOptions, 'domain'>
  /** Changes the scheme. */
  readonly scheme?: (scheme: DmaScheme) => DmaScheme
  /** How long the peer may take. Default 15 seconds. */
  readonly deadlineMs?: number
}

/** The guest's memory: a pool that is all the back end is given, or RAM behind translations that it has to ask for. */
export function vhostSite(
  backend: VhostBackend,
  device: Omit<VhostUserOptions, 'memory' | 'iotlb' | 'wait'>,
  { iotlb: options = {}, scheme: changed = (scheme) => scheme, deadlineMs = DEADLINE_MS }: VhostSetting = {},
): VhostSite {
  const iotlb = backend === 'vhost-iotlb'
  const shared = SharedMemory.create(backend, iotlb ? RAM : POOL)
  const ram: GuestRange = { base: RAM_BASE, length: RAM, memory: iotlb ? shared.buffer : new ArrayBuffer(RAM) }
  const transports: VhostUserTransport[] = []
  const audits: AuditedTransport[] = []
  return {
    audits,
    connect(path) {
      for (const before of transports.splice(0)) before.close()
      const transport = VhostUserTransport.connect(path, {
        ...device,
        memory: [{ memory: shared, device: iotlb ? RAM_BASE : POOL_DEVICE }],
        iotlb,
        wait: { pump: () => {}, deadlineMs },
      })
      transports.push(transport)
      return transport
    },
    machine(transport, peer, more = {}) {
      const pool = poolOf(shared)
      const scheme = changed(
        iotlb ? iotlbScheme(transport, { ...options, domain: DPDK_IOTLB }) : sharedPoolScheme({ memory: () => pool }),
      )
      const to = iotlb ? transport : auditedWindow(transport, pool)
      if (to instanceof AuditedTransport) audits.push(to)
      return createMachine({
        memory: [ram],
        schemes: [scheme],
        deadlineMs,
        devices: [
          {
            type: transport.deviceId === 1 ? 'net' : 'blk',
            name: device.name,
            transport: to,
            dma: scheme.id,
            enforcedBy: iotlb ? 'peer' : 'construction',
            requestDeadlineMs: deadlineMs,
            // A connection that ended proves nothing about the process.
            detach: () => {
              if (peer.ended) transport.backEndEnded()
              return peer.ended
            },
            ...more,
          },
        ],
      })
    },
    close() {
      for (const transport of transports) transport.close()
      shared.close()
    },
  }
}

function poolOf(shared: SharedMemory): PoolFact {
  const window = { region: new Region(shared.buffer, 'pool'), offset: 0, length: shared.bytes }
  return { window, device: POOL_DEVICE as DeviceAddress, home: 'guest-ram' }
}
