import { styleText } from 'node:util'
import { formatTable, printable, textColumns, wrap } from '@guestdma/bench/program'
import type { AccessFault, DeviceFault } from '@guestdma/devices'
import { hex } from '@guestdma/memory'
import type { Capture } from './capture.ts'
import { type Attempt, type Exposure, LATER_MS } from './exposure.ts'
import type { Refusal } from './refusals.ts'
import type { SchemeResult } from './run-scheme.ts'
import { SCHEMES } from './schemes.ts'

/** What is about to happen, with which files. */
export function introduction({ name, frames, bytes }: Capture, diskName: string, diskBytes: number): string {
  return prose(
    `${printable(name)} (${number(frames)} frames, ${number(bytes)} bytes) and ${printable(diskName)} ` +
      `(${number(diskBytes)} bytes) go through the same virtio-net and virtio-blk drivers, once over each scheme.`,
  )
}

/** The head of the list that {@link chosenLine} goes on with. */
export function chosenTitle(ids: readonly string[]): string {
  return `\n${heading('What is chosen, and why')}${bold(columns(ids, 'scheme', 'over', 'because').trimEnd())}\n`
}

/** One line, so that there is something to read while the rest runs. */
export function chosenLine(ids: readonly string[], { scheme, transport, chosen }: SchemeResult): string {
  const reasons = new Set(chosen.map(({ scheme: id, why }) => (id === scheme ? why : `${id}: ${why}`)))
  return columns(ids, scheme, over(scheme, transport), [...reasons].join('; '))
}

/** What it cost to carry the capture, and what came of the disk. */
export function trafficSection(results: readonly SchemeResult[]): string {
  const table = formatTable(
    [
      { title: 'scheme' },
      { title: 'over' },
      { title: 'frames' },
      { title: 'bytes' },
      { title: 'intact' },
      { title: 'ns/frame' },
      { title: 'copied' },
      { title: 'cleared' },
      { title: 'map' },
      { title: 'unmap' },
      { title: 'commits' },
      { title: 'left' },
      { title: 'faults' },
    ],
    results.map((result) => {
      const { net, mappings, faults } = result
      const { costs } = net
      return [
        result.scheme,
        over(result.scheme, result.transport),
        net.framesIn,
        net.bytesIn,
        sound(result) ? 'yes' : 'NO',
        net.nsPerPacket,
        costs.bytesCopied,
        costs.bytesCleared,
        costs.mapRequests,
        costs.unmapRequests,
        costs.synchronousCommits,
        mappings.live - mappings.posted + mappings.afterClose,
        faults,
      ]
    }),
  )
  const forced = results.flatMap(({ scheme }) => {
    const { only } = SCHEMES[scheme]
    return only === undefined ? [] : [`* ${scheme} is shown over ${only.transport} in any case: ${only.why}\n`]
  })
  const legend = definitions([
    ['ns/frame', `of the first ${number(results[0]?.net.framesTimed ?? 0)} frames, sent again and again`],
    ['intact', 'every frame and block, and what was written to the disk'],
    ['copied, cleared', 'bytes, by the CPU'],
    ['map, unmap', 'requests to the IOMMU; for shared-pages, pages that were shared and taken back'],
    ['commits', 'times that the CPU waited for the IOMMU'],
    ['left', 'mappings that are neither taken back nor receive buffers that wait for a frame'],
  ])
  return `\n${heading('What it costs to carry the frames once')}${table}${forced.join('')}${legend}${disks(results)}`
}

function disks(results: readonly SchemeResult[]): string {
  const found = new Map<string, string[]>()
  for (const { scheme, blk } of results) {
    const { superblock, written } = blk
    const what =
      `'${printable(blk.id)}' holds ext4 '${printable(superblock.label)}', UUID ${superblock.uuid}, ` +
      `SHA-256 ${blk.sha256.slice(0, 16)}…; ${number(written.bytes)} bytes written at sector ${written.sector} ` +
      `and flushed were read back ${written.identical ? 'identical' : 'DIFFERENT'}`
    found.set(what, [...(found.get(what) ?? []), scheme])
  }
  return [...found]
    .map(([what, by]) => prose(found.size === 1 ? `Disk ${what}.` : `${by.join(', ')}: ${what}.`))
    .join('')
}

/** What a device gets that reaches further than it may, by scheme. */
export function exposureSection(exposures: readonly Exposure[]): string {
  const table = formatTable(
    [
      { title: 'scheme' },
      { title: 'next to it' },
      { title: 'another page' },
      { title: 'around it' },
      { title: 'secrets' },
      { title: 'write to it' },
      { title: 'once sent' },
      { title: `${LATER_MS} ms later` },
      { title: 'faults' },
      { title: 'told' },
    ],
    exposures.map(({ scheme, neighbour, elsewhere, around, write, completed, later, faults, reported }) => [
      scheme,
      outcome(neighbour),
      outcome(elsewhere),
      around.before + around.behind,
      around.secrets,
      outcome(write),
      outcome(completed),
      outcome(later),
      faults,
      reported,
    ]),
  )
  const before =
    'A frame is lent to be sent. Directly behind it in its page of guest RAM lies a secret, and another one in ' +
    'another page. The device takes the address of the frame from the ring and tries more than it was lent.'
  const legend = definitions([
    ['around it', 'bytes that can be read in one piece before and behind the frame, and the secrets in them'],
    ['write to it', 'into the frame, which was lent to be read; copy only: guest RAM did not change'],
    ['once sent', 'the same address, when the driver knows that the frame is gone and a secret lies there'],
    ['old frame', 'what the device was sent anyway'],
    ['faults', 'refused accesses, with those that it took to find the limits; in brackets, those of one attempt'],
    ['told', 'faults that the IOMMU told the guest of'],
  ])
  return `\n${heading('What a device gets that reaches further')}${prose(before)}${table}${legend}`
}

/** Drivers and devices that do not agree. */
export function refusalSection(refusals: readonly Refusal[]): string {
  const items = refusals.map(({ title, featuresOk, status, faults, error }, i) => {
    const lines = [
      `FEATURES_OK ${featuresOk}; status in the end: ${status.join(', ')}`,
      ...faults.map((fault) => `fault: ${inWords(fault)}`),
      error === null ? 'no error' : `error: ${error.message} (${error.code})`,
    ]
    return prose(`${i + 1}. ${title}`) + lines.map((line) => prose(line, '   ', '     ')).join('')
  })
  return `\n${heading('An old driver, and a downgrade')}${items.join('')}`
}

/** Did everything arrive as it was sent? */
export function sound({ net, blk }: SchemeResult): boolean {
  return net.identical && blk.identical && blk.written.identical
}

function outcome({ outcome: what, faults }: Attempt<string>): string {
  return faults === 0 ? what : `${what} (${faults})`
}

function over(scheme: string, transport: string): string {
  return SCHEMES[scheme].only === undefined ? transport : `${transport}*`
}

function columns(ids: readonly string[], scheme: string, transport: string, rest: string): string {
  const width = Math.max('scheme'.length, ...ids.map((id) => id.length))
  const first = `${scheme.padEnd(width)}  ${transport.padEnd(4)}  `
  return prose(rest, first, ' '.repeat(first.length))
}

function inWords(fault: AccessFault | DeviceFault): string {
  if ('port' in fault) {
    const { port, address, length, access, reason } = fault
    const at = typeof address === 'number' ? hex(address) : `${hex(address.high)} * 2^32 + ${hex(address.low)}`
    return `${access === 1 ? 'read' : 'write'} of ${number(length)} bytes at ${at} refused by ${port}'s port: ${reason}`
  }
  if (fault.kind === 'features')
    return `${fault.device} cleared FEATURES_OK (${fault.reason}: bit ${fault.bits.join(', ')})`
  return `${fault.device}, ${fault.kind}: ${fault.reason}`
}

function prose(text: string, first = '', indent = first): string {
  return wrap(text, textColumns(), first, indent)
}

// Underlined, so that it stands out without colour too.
function heading(text: string): string {
  return `${bold(text)}\n${'-'.repeat(text.length)}\n`
}

function definitions(terms: readonly (readonly [string, string])[]): string {
  const width = Math.max(...terms.map(([term]) => term.length)) + 4
  return terms.map(([term, what]) => prose(what, `  ${term}`.padEnd(width), ' '.repeat(width))).join('')
}

function bold(text: string): string {
  return styleText('bold', text, { stream: process.stdout })
}

function number(value: number): string {
  return value.toLocaleString('en')
}
