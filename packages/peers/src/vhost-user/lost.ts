import type { Machine } from 'guestdma'
import { expectIs } from '../work/workloads.ts'

/** The code of an error, where it has one. */
export function codeOf(error: unknown): string | undefined {
  return (error as { code?: string } | undefined)?.code
}

/**
 * Closes a machine that lost its device. Memory that the device may still reach stays out of use; where its process is
 * known to have ended, all of it goes back.
 */
export async function closeLost(machine: Machine, quarantined: boolean): Promise<void> {
  const refusal = await machine.close().then(
    () => undefined,
    (error: { code?: string; details?: { quarantined?: boolean } }) => error,
  )
  const found = [refusal?.code, refusal?.details?.quarantined]
  expectIs('the end of the machine', found, ['TRANSPORT_DEVICE_STUCK', quarantined])
  if (!quarantined) expectIs('guest RAM in use', machine.ram.allocated, 0)
}
