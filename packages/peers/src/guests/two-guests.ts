import { NetDevice, type NetDeviceOptions } from '@guestdma/devices'
import type { PeerCase } from '../matrix/case.ts'
import { expectIs } from '../work/workloads.ts'
import { resultOf } from './arm64-report.ts'
import type { GuestMachine } from './guest-machine.ts'

/** One of two guests on a switch. */
export type Side = 0 | 1

const ADDRESSES = ['10.0.5.1', '10.0.5.2'] as const
const SIZES = [56, 1400, 8000]
const PINGS = '10'

/** What `init.sh` prints for `net`, in this order. */
export const NET_RESULTS: readonly string[] = ['served', ...SIZES.map((size) => `pinged ${size}`), 'fetched']

/** The network card of a side. */
export function netDevice(side: Side, options: Omit<NetDeviceOptions, 'mac' | 'accessPlatform'>): NetDevice {
  return new NetDevice({ ...options, mac: [2, 0, 0, 0, 5, side + 1], accessPlatform: 'offered' })
}

/** For a guest's command line: where it is, and where the other one. */
export function netWords(side: Side): string {
  return `address=${ADDRESSES[side]} other=${ADDRESSES[1 - side]}`
}

/** A case for each scheme, with a guest of the next one as its partner. */
export function partnerCases<T extends { readonly backend: string }>(
  peer: string,
  schemes: readonly T[],
  run: (scheme: T, partner: T) => PeerCase['run'],
): PeerCase[] {
  return schemes.map((scheme, i) => {
    const partner = schemes[(i + 1) % schemes.length]
    return {
      peer,
      role: 'driver',
      driver: 'net',
      ring: 'split',
      backend: scheme.backend,
      transport: 'vhost-user',
      what: `with a guest of ${partner.backend} on one switch`,
      deadlineMs: 180_000,
      run: run(scheme, partner),
    }
  })
}

/** Each guest got answers to all its pings, and the file of the other one unchanged. */
export function expectExchanged(guests: readonly [GuestMachine, GuestMachine]): void {
  for (const side of [0, 1] as const) {
    const [one, other] = [guests[side], guests[1 - side]]
    for (const size of SIZES) {
      expectIs(`answers to pings of ${size} bytes`, resultOf(one, `pinged ${size}`), PINGS)
    }
    expectIs('the hash of the file', resultOf(one, 'fetched'), resultOf(other, 'served'))
  }
}
