import type { CaseProgress } from '../matrix/case.ts'
import { expectIs, until } from '../work/workloads.ts'
import type { Arm64Scheme, Served } from './arm64-scheme.ts'
import { figuresOf } from './guest-figures.ts'
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
    most = Math.max(
      most,
      served.reduce((found, { port }) => found + port.secretInReach(), 0),
    )
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

/** Records what there is to compare between the schemes. `bytesCopied` is what the guest told of its bounce buffers. */
export function recordFigures(
  { figure }: CaseProgress,
  { reach }: Arm64Scheme,
  served: readonly Served[],
  { guest, negotiated, secretInReach }: { guest: GuestMachine; negotiated: string; secretInReach: number },
): void {
  const bytesCopied = Number(resultOf(guest, 'copied'))
  const figures = figuresOf(served, { negotiated, reach, bytesCopied, secretInReach })
  for (const [name, value] of Object.entries(figures)) figure(name, value)
}
