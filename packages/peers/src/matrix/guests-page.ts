import { row } from './page.ts'
import type { CaseResult, PeersReport } from './result.ts'

/** What a case may have recorded of all devices of a guest together, and what a reader sees beside it. */
const OF_A_GUEST = [
  ['negotiated', 'features'],
  ['reach', 'reach'],
  ['bytesRead', 'bytes read or received'],
  ['bytesWritten', 'bytes written or sent'],
  ['accesses', 'accesses of the device'],
  ['outside', 'outside'],
  ['faults', 'faults'],
  ['bytesCopied', 'bytes copied to and from bounce buffers'],
  ['bytesCleared', 'bytes cleared in them'],
  ['iommuMessages', 'translations given and taken back'],
  ['secretInReach', 'freed pattern in reach, bytes at once'],
  ['secretHandedOver', 'freed pattern handed over, bytes in all'],
] as const

const DEVICES: Readonly<Record<string, string>> = { blk: 'disks', net: 'a network card' }

/** The same of one device and one kernel: the figure's name begins with both. */
const OF_A_DEVICE = [
  ['told', 'addresses told'],
  ['outside', 'outside'],
  ['refused', 'refused by its port'],
  ['secrets', 'freed lines handed over'],
  ['accesses', 'accesses of the guest to its memory'],
  ['bytes', 'bytes of them'],
] as const

/** What our own driver did by a scheme of a guest, under the names of that guest's figures. */
export interface OwnFigures {
  readonly driver: string
  readonly backend: string
  readonly figures: Readonly<Record<string, number | string>>
}

/**
 * Guests side by side, as a page of the documentation: what cases recorded whose driver somebody else wrote, and our own
 * drivers beside it where they did the same.
 */
export function guestsPage({ environment, results }: PeersReport, own: readonly OwnFigures[] = []): string {
  const recorded = results.filter(({ figures, role }) => role === 'driver' && figures !== undefined)
  const whole = recorded.filter(({ figures = {} }) => 'reach' in figures)
  const byDevice = recorded.filter(({ figures = {} }) => !('reach' in figures))
  const groups = [...new Set(whole.map(titleOf))]
  return [
    '# Drivers of real guests, scheme by scheme',
    '',
    `Written by \`run peers --guests docs/guests.md\` on ${environment.date.slice(0, 10)}. The guests do the work that [peers.md](peers.md) describes, on devices of this project; \`outside\` counts accesses, or addresses that a`,
    'device was told, beyond what the scheme lets it reach. The pattern is one that the guest wrote to memory and freed.',
    ...groups.flatMap((title) =>
      sideBySide(
        title,
        whole.filter((one) => titleOf(one) === title),
        own,
      ),
    ),
    ...(own.length === 0 ? [] : WHY),
    '',
    '## The guest half of the SWIOTLB RFC, and the same kernel without it',
    '',
    row(['case', 'scheme', 'kernel', 'device', ...OF_A_DEVICE.map(([, title]) => title), 'outcome']),
    row(Array.from({ length: OF_A_DEVICE.length + 5 }, () => '---')),
    ...byDevice.flatMap(deviceRows),
    '',
    'What small packets cost our own drivers by these schemes is in the [README](../README.md#what-each-scheme-costs-and-what-it-still-exposes); what else Linux does differently, and why it matters, is in [rfc-findings.md](rfc-findings.md).',
    '',
  ].join('\n')
}

function titleOf({ peer, driver }: CaseResult): string {
  return `${peer}: ${DEVICES[driver] ?? driver}`
}

/** A column for each scheme, and one for our own driver next to it. */
function sideBySide(title: string, cases: readonly CaseResult[], own: readonly OwnFigures[]): string[] {
  const columns = cases.flatMap((one) => {
    const ours = own.find(({ driver, backend }) => driver === one.driver && backend === one.backend)
    const guest = { head: `${one.backend}: ${one.peer}`, figures: { ...one.figures, outcome: one.outcome } }
    return ours === undefined ? [guest] : [guest, { head: 'guestdma', figures: { ...ours.figures, outcome: '' } }]
  })
  return [
    '',
    `## ${title}`,
    '',
    row(['', ...columns.map(({ head }) => head)]),
    row(Array.from({ length: columns.length + 1 }, () => '---')),
    ...[...OF_A_GUEST, ['outcome', 'outcome'] as const].map(([name, words]) =>
      row([words, ...columns.map(({ figures }) => text({ figures }, name))]),
    ),
  ]
}

const WHY = [
  '',
  '## Where Linux and guestdma differ, and why',
  '',
  "The columns of guestdma are its own drivers over devices that are served and watched in the same way, with as many bytes in requests as long as the guest's. With `swiotlb` all of RAM is in reach and the driver bounces through a pool at its end;",
  'with `restricted-dma-pool` the device reaches that pool alone; behind the IOMMU the back end asks the driver for translations, without a virtio-iommu in between.',
  '',
  '- **Copied.** Linux copies what a device is to fill into its slot first, and back out afterwards: twice what is read, and once what is written. guestdma copies either once.',
  '- **Cleared.** guestdma clears a slot, before a device is to fill it, of what the guest had put there; a device that writes less than it says hands out zeros, or what it wrote itself earlier. Slots that only the device wrote are not cleared, which is why there is so little of it. Linux clears nothing: the copy from before stands there.',
  '- **Handed over.** That copy carries what the pages held before, so recycled memory gets into a restricted pool. In place (`direct`) either driver hands its buffers over as they are.',
  '- **Translations.** Linux maps each page of a request by itself, and QEMU hands each page over for reading and writing. guestdma maps a buffer as a whole, for the direction that it is lent in, so what a device is to write it cannot read.',
  '- **In reach.** `swiotlb=force` confines nothing: the device is asked to use the pool, and reaches all of RAM all the same. The same holds for our pool where nothing enforces it.',
  '- **Accesses** behind the IOMMU are more under Linux, since rings are looked up anew whenever a translation was taken back, and Linux takes back each page.',
]

function deviceRows(one: CaseResult): string[] {
  const groups = new Set(Object.keys(one.figures ?? {}).map((name) => name.slice(0, name.lastIndexOf(' '))))
  return [...groups].map((group) => {
    const [kernel, device = ''] = group.split(/ (?=\S+$)/)
    const values = OF_A_DEVICE.map(([name]) => text(one, `${group} ${name}`))
    return row([one.what === '' ? 'works' : one.what, one.backend, kernel, device, ...values, one.outcome])
  })
}

function text({ figures = {} }: Pick<CaseResult, 'figures'>, name: string): string {
  const value = figures[name]
  return typeof value === 'number' ? value.toLocaleString('en') : (value ?? '')
}
