import type { CaseProgress } from '../matrix/case.ts'
import { expectIs, until } from '../work/workloads.ts'
import type { Arm64Scheme, Served } from './arm64-scheme.ts'
import type { GuestMachine } from './guest-machine.ts'

/** The longest that a guest may take for a result. */
const RESULT_MS = 60_000

/** What a guest printed as a result, or an empty text. */
export function resultOf(guest: GuestMachine, name: string): string {
  return new RegExp(`^RESULT ${name} (\\S.*?)\\s*$`, 'm').exec(guest.serial())?.[1] ?? ''
}

/**
 * Waits for results, one after the other, and looks after each of them at what the devices could read. Returns the most
 * bytes of the secret that were found at once.
 */
export async function watchResults(
  guest: GuestMachine,
  served: readonly Served[],
  names: readonly string[],
  { saw }: CaseProgress,
): Promise<number> {
  let most = 0
  for (const name of names) {
    await guest.printed(new RegExp(`^RESULT ${name} [^\\n]*\\n`, 'm'), RESULT_MS)
    const found = sum(served, ({ port }) => port.secretInReach())
    most = Math.max(most, found)
    saw(`the guest printed ${name} ${resultOf(guest, name)}`)
  }
  return most
}

/** Waits until the guest switched itself off. */
export async function ended(guest: GuestMachine): Promise<void> {
  const lacking = (): string => `the guest to switch itself off; it printed: ${guest.serial().slice(-600)}`
  await until(lacking, () => guest.peer.ended, undefined, RESULT_MS)
}

/** No access went outside of what the scheme promises, none was refused, and there was something to look at. */
export function expectConfined(served: readonly Served[]): void {
  for (const { device, port, server } of served) {
    expectIs(`accesses outside by ${device.name}`, port.outside, 0)
    const faults = [...port.faults.last(), ...device.faults.last(), ...server.faults.last().map(String)]
    expectIs(`faults of ${device.name}`, faults, [])
    expectIs(`that ${device.name} accessed anything`, port.granted >= 100, true)
  }
}

/**
 * Records what there is to compare between the schemes, for all devices of a guest together. `negotiated` is what the
 * front end agreed on: QEMU keeps ACCESS_PLATFORM to itself where it translates nothing. `bytesCopied` is what the guest
 * told of its bounce buffers. `iommuMessages` are translations that came and that were taken back. `secretInReach` is
 * the most that was found at once, `secretHandedOver` the sum of what was there whenever something was handed over.
 */
export function recordFigures(
  { figure }: CaseProgress,
  scheme: Arm64Scheme,
  served: readonly Served[],
  { guest, negotiated, secretInReach }: { guest: GuestMachine; negotiated: string; secretInReach: number },
): void {
  const figures = {
    negotiated,
    reach: scheme.reach,
    accesses: sum(served, ({ port }) => port.granted),
    outside: sum(served, ({ port }) => port.outside),
    faults: sum(served, ({ port, device }) => port.faults.count + device.faults.count),
    bytesCopied: Number(resultOf(guest, 'copied')),
    iommuMessages: sum(served, ({ port }) => port.messages),
    secretInReach,
    secretHandedOver: sum(served, ({ port }) => port.handedOver),
  }
  for (const [name, value] of Object.entries(figures)) figure(name, value)
}

function sum(served: readonly Served[], value: (one: Served) => number): number {
  return served.reduce((total, one) => total + value(one), 0)
}
