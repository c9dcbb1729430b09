import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { GuestDmaError } from '@guestdma/memory'
import { SCHEMES } from './schemes.ts'

export interface DemoOptions {
  readonly schemes: readonly string[]
  readonly pcap: string
  readonly disk: string
  readonly json: string | undefined
  readonly out: string | undefined
  readonly write: boolean
  readonly help: boolean
}

/** A command line that cannot be followed. Codes start with `DEMO_`. */
export class DemoUsageError extends GuestDmaError {}

export const HELP = `Moves a packet capture and a disk image through virtio drivers and devices, once for each DMA scheme.

usage: demo [--scheme ID…] [--pcap FILE] [--disk FILE] [--out DIR] [--write] [--json FILE]

  --scheme ID   only this scheme; may be given several times (${Object.keys(SCHEMES).join(', ')})
  --pcap FILE   a capture of Ethernet frames in pcap format (default: one that comes with the demo)
  --disk FILE   an ext4 image (default: one that comes with the demo)
  --out DIR     keep what arrived, as DIR/<scheme>.pcap (default: a new directory for temporary files)
  --write       write into the disk image itself; otherwise writes go to a copy in memory
  --json FILE   also write the results as JSON
  --help        this text

Exit code 0 if every frame and every block arrived unchanged, 1 otherwise.
`

/** Reads the command line. Throws `DEMO_USAGE`, `DEMO_SCHEME`. */
export function readOptions(args: readonly string[]): DemoOptions {
  let values: {
    scheme?: string[]
    pcap?: string
    disk?: string
    json?: string
    out?: string
    write?: boolean
    help?: boolean
  }
  let positionals: string[]
  try {
    ;({ values, positionals } = parseArgs({
      args: args.filter((arg) => arg !== '--'),
      allowPositionals: true,
      options: {
        scheme: { type: 'string', multiple: true },
        pcap: { type: 'string' },
        disk: { type: 'string' },
        json: { type: 'string' },
        out: { type: 'string' },
        write: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }))
  } catch (error) {
    throw new DemoUsageError('DEMO_USAGE', 'demo', `${(error as Error).message.split('.')[0]}; see demo --help`)
  }
  // `--scheme a b` names two.
  const wanted = [...(values.scheme ?? []), ...positionals]
  if (positionals.length > 0 && values.scheme === undefined) {
    throw new DemoUsageError('DEMO_USAGE', 'demo', `'${positionals[0]}' is not an option; see demo --help`)
  }
  const schemes = wanted.flatMap((list) => list.split(','))
  for (const id of schemes) {
    if (!Object.hasOwn(SCHEMES, id)) {
      throw new DemoUsageError(
        'DEMO_SCHEME',
        'demo',
        `unknown scheme '${id}'; known: ${Object.keys(SCHEMES).join(', ')}`,
        { id },
      )
    }
  }
  const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
  return {
    schemes: schemes.length > 0 ? [...new Set(schemes)] : Object.keys(SCHEMES),
    pcap: values.pcap ?? fixture('traffic.pcap'),
    disk: values.disk ?? fixture('disk.ext4'),
    json: values.json,
    out: values.out,
    write: values.write ?? false,
    help: values.help ?? false,
  }
}
