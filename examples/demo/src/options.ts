import { fileURLToPath } from 'node:url'
import { readCommandLine, sameFile, UsageError } from '@guestdma/bench/program'
import { SCHEMES, type TransportName } from './schemes.ts'

export interface DemoOptions {
  readonly schemes: readonly string[]
  readonly transport: TransportName
  readonly pcap: string
  readonly disk: string
  readonly json: string | undefined
  readonly out: string | undefined
  readonly write: boolean
  readonly help: boolean
}

const TRANSPORTS: readonly TransportName[] = ['mmio', 'pci']

export const HELP = `\
Moves a packet capture and a disk image through virtio drivers and
devices, once over each DMA scheme. Then shows what a device gets
under each scheme that reaches further than it may, and what is
refused.

usage: demo [--scheme ID…] [--transport mmio|pci] [--pcap FILE]
            [--disk FILE [--write]] [--out DIR] [--json FILE]

  --scheme ID       only this scheme; may be given several times:
${Object.keys(SCHEMES)
  .map((id) => `                    ${id}\n`)
  .join('')}\
  --transport NAME  mmio (default) or pci; on-device is shown over
                    pci in any case
  --pcap FILE       a capture of Ethernet frames in pcap format
                    (default: one that comes with the demo)
  --disk FILE       an ext4 image (default: one that comes with
                    the demo)
  --write           write into that image itself; otherwise writes
                    go to a copy in memory
  --out DIR         keep the frames that arrived, as
                    DIR/<scheme>.pcap
  --json FILE       also write the results as JSON, after each
                    scheme
  --help            this text

Exit code 0 if every frame and every block arrived unchanged, 1 if
not, 2 if the command line or an input is refused, 130 after Ctrl-C,
143 after SIGTERM.
`

/** Reads the command line. Throws `DEMO_USAGE`, `DEMO_SCHEME`, `DEMO_TRANSPORT`, `DEMO_WRITE`. */
export function readOptions(args: readonly string[]): DemoOptions {
  const { values, positionals } = readCommandLine('demo', 'DEMO_USAGE', {
    args: args.filter((arg) => arg !== '--'),
    allowPositionals: true,
    options: {
      scheme: { type: 'string', multiple: true },
      transport: { type: 'string' },
      pcap: { type: 'string' },
      disk: { type: 'string' },
      json: { type: 'string' },
      out: { type: 'string' },
      write: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  // `--scheme a b` names two.
  const wanted = [...(values.scheme ?? []), ...positionals]
  if (positionals.length > 0 && values.scheme === undefined) {
    throw new UsageError('DEMO_USAGE', 'demo', `'${positionals[0]}' is not an option; see demo --help`)
  }
  const schemes = wanted.flatMap((list) => list.split(','))
  for (const id of schemes) {
    if (!Object.hasOwn(SCHEMES, id)) {
      throw new UsageError('DEMO_SCHEME', 'demo', `unknown scheme '${id}'; known: ${Object.keys(SCHEMES).join(', ')}`, {
        id,
      })
    }
  }
  const asked = values.transport ?? TRANSPORTS[0]
  const transport = TRANSPORTS.find((name) => name === asked)
  if (transport === undefined) {
    const message = `unknown transport '${asked}'; known: ${TRANSPORTS.join(', ')}`
    throw new UsageError('DEMO_TRANSPORT', 'demo', message, { transport: asked })
  }
  const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
  const image = fixture('disk.ext4')
  if (values.write && (values.disk === undefined || sameFile(values.disk, image))) {
    const message = 'the image that comes with the demo stays as it is; name a copy of your own with --disk'
    throw new UsageError('DEMO_WRITE', '--write', message, { disk: values.disk ?? image })
  }
  return {
    schemes: schemes.length > 0 ? [...new Set(schemes)] : Object.keys(SCHEMES),
    transport,
    pcap: values.pcap ?? fixture('traffic.pcap'),
    disk: values.disk ?? image,
    json: values.json,
    out: values.out,
    write: values.write ?? false,
    help: values.help ?? false,
  }
}
