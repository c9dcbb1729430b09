import { BusWindows, NetDevice, type NetDeviceOptions } from '@guestdma/devices'
import { VhostUserServer } from '@guestdma/vhost-user'
import type { PeerCase, PeerProgram } from '../matrix/case.ts'
import { BootServer } from '../work/boot-server.ts'
import { expectIs, socketPath, until } from '../work/workloads.ts'
import { startGuest } from './guest-machine.ts'
import { packageVersion } from './package-version.ts'
import { expectRefused, SWIOTLB_REQUIRED } from './refusal.ts'

/** The firmware of QEMU's network cards. */
export const ipxe: PeerProgram = {
  id: 'ipxe',
  name: 'iPXE',
  packages: ['ipxe-qemu', 'qemu-system-x86'],
  version: async () => packageVersion('ipxe-qemu'),
}

const BOOTED_MS = 90_000
const LONG = 300_000

/** Each is a script but the last. The second is long, and its last line shows that all of it came. */
const FILES = {
  'first.ipxe': script('chain second.ipxe'),
  'second.ipxe': script(`# ${'a line of a long script '.repeat(4)}\n`.repeat(LONG / 100), 'imgfetch third'),
  third: new Uint8Array(1000).fill(1),
}

function script(...lines: readonly string[]): Uint8Array {
  return new TextEncoder().encode(['#!ipxe', ...lines, ''].join('\n'))
}

/** Starts a machine that has nothing to boot from but its network. */
async function withNet(
  options: Partial<NetDeviceOptions>,
  work: (site: {
    readonly link: BootServer
    readonly port: BusWindows
    readonly device: NetDevice
    readonly server: VhostUserServer
    readonly guest: ReturnType<typeof startGuest>
  }) => Promise<void>,
): Promise<void> {
  const link = new BootServer(FILES)
  const port = new BusWindows('net')
  const device = new NetDevice({ name: 'net', port, mac: [2, 0, 0, 0, 5, 2], link, ...options })
  using server = VhostUserServer.listen({ path: socketPath(), device })
  await using guest = startGuest({
    memory: '128M',
    args: [
      ...['-chardev', `socket,id=c,path=${server.path}`, '-netdev', 'vhost-user,id=n,chardev=c'],
      // With MSI-X this QEMU ends under TCG.
      ...['-device', 'virtio-net-pci,netdev=n,mac=02:00:00:00:05:02,disable-legacy=on,vectors=0,bootindex=0'],
    ],
  })
  await work({ link, port, device, server, guest })
}

const boots: PeerCase['run'] = ({ saw }) =>
  withNet({}, async ({ link, device, server, guest }) => {
    saw('the firmware is starting')
    const names = Object.keys(FILES)
    const lacking = (): string => `${names}; it asked for ${link.asked} and has ${link.fetched}`
    await until(lacking, () => link.fetched.length === names.length, guest.peer, BOOTED_MS)
    expectIs('what was fetched', link.fetched, names)
    expectIs('faults', [...device.faults.last(), ...server.faults.last().map(String)], [])
  })

const refused: PeerCase['run'] = ({ saw }) =>
  withNet(SWIOTLB_REQUIRED, async ({ port, device, server, guest }) => {
    saw('the firmware is starting')
    await expectRefused(server, device, port, guest.peer, BOOTED_MS)
    expectIs('frames that were sent', device.counters.transmitted, 0)
  })

export const ipxeCases: readonly PeerCase[] = [
  { what: 'boots from the network', run: boots },
  { what: 'refused where bit 27 is required', run: refused },
].map(({ what, run }) => ({
  peer: 'ipxe',
  role: 'driver' as const,
  driver: 'net',
  ring: 'split' as const,
  backend: 'direct',
  transport: 'vhost-user',
  what,
  deadlineMs: 120_000,
  run,
}))
