import { AuditedTransport } from '@guestdma/conformance'
import type { PoolFact } from '@guestdma/dma'
import type { VirtioTransport } from '@guestdma/transport'
import { expectIs } from './workloads.ts'

/** A transport whose device may be told of one window and nothing else: rings, tables and buffers lie in there. */
export function auditedWindow(transport: VirtioTransport, { window, device }: PoolFact): AuditedTransport {
  const { region, offset, length } = window
  return new AuditedTransport(transport, {
    allowed: [{ base: device, length }],
    lookup: (address, bytes) =>
      address >= device && address + bytes <= device + length
        ? { region, offset: offset + address - device, length: bytes }
        : null,
  })
}

/** No address outside was published, and there was something to look at. */
export function expectInside(audits: readonly AuditedTransport[], least: number = 100): void {
  for (const audit of audits) {
    audit.audit()
    expectIs(`addresses outside that ${audit.name} was told of`, audit.findings, [])
    expectIs(`that ${audit.name} was told of addresses`, audit.passed >= least, true)
  }
}
