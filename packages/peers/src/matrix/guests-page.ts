import { row } from './page.ts'
import type { CaseResult, PeersReport } from './result.ts'

/** What a case may have recorded of all devices of a guest together, and what a reader sees above it. */
const OF_A_GUEST = [
  ['negotiated', 'features'],
  ['reach', 'reach'],
  ['accesses', 'accesses'],
  ['outside', 'outside'],
  ['faults', 'faults'],
  ['bytesCopied', 'bytes copied by the guest'],
  ['iommuMessages', 'translations given and taken back'],
  ['secretInReach', 'freed pattern in reach, bytes at once'],
  ['secretHandedOver', 'freed pattern handed over, bytes in all'],
] as const

/** The same of one device and one kernel: the figure's name begins with both. */
const OF_A_DEVICE = [
  ['told', 'addresses told'],
  ['outside', 'outside'],
  ['refused', 'refused by its port'],
  ['secrets', 'freed lines handed over'],
  ['accesses', 'accesses of the guest to its memory'],
  ['bytes', 'bytes of them'],
] as const

/** Guests side by side, as a page of the documentation: what cases recorded whose driver somebody else wrote. */
export function guestsPage({ environment, results }: PeersReport): string {
  const recorded = results.filter(({ figures, role }) => role === 'driver' && figures !== undefined)
  const whole = recorded.filter(({ figures = {} }) => 'reach' in figures)
  const byDevice = recorded.filter(({ figures = {} }) => !('reach' in figures))
  return [
    '# Drivers of real guests, scheme by scheme',
    '',
    `Written by \`run peers --guests docs/guests.md\` on ${environment.date.slice(0, 10)}. The guests do the work that [peers.md](peers.md) describes, on devices of this project; \`outside\` counts accesses, or addresses that a`,
    'device was told, beyond what the scheme lets it reach. The pattern is one that the guest wrote to memory and freed.',
    '',
    '## One kernel, four schemes',
    '',
    row(['guest', 'device', 'scheme', ...OF_A_GUEST.map(([, title]) => title), 'outcome']),
    row(Array.from({ length: OF_A_GUEST.length + 4 }, () => '---')),
    ...whole.map((one) =>
      row([one.peer, one.driver, one.backend, ...OF_A_GUEST.map(([name]) => text(one, name)), one.outcome]),
    ),
    '',
    '## The guest half of the SWIOTLB RFC, and the same kernel without it',
    '',
    row(['case', 'scheme', 'kernel', 'device', ...OF_A_DEVICE.map(([, title]) => title), 'outcome']),
    row(Array.from({ length: OF_A_DEVICE.length + 5 }, () => '---')),
    ...byDevice.flatMap(deviceRows),
    '',
    'What our own drivers copy and clear by the same schemes is in the [README](../README.md#what-small-packets-cost); what Linux does differently, and why it matters, is in [rfc-findings.md](rfc-findings.md).',
    '',
  ].join('\n')
}

function deviceRows(one: CaseResult): string[] {
  const groups = new Set(Object.keys(one.figures ?? {}).map((name) => name.slice(0, name.lastIndexOf(' '))))
  return [...groups].map((group) => {
    const [kernel, device = ''] = group.split(/ (?=\S+$)/)
    const values = OF_A_DEVICE.map(([name]) => text(one, `${group} ${name}`))
    return row([one.what === '' ? 'works' : one.what, one.backend, kernel, device, ...values, one.outcome])
  })
}

function text({ figures = {} }: CaseResult, name: string): string {
  const value = figures[name]
  return typeof value === 'number' ? value.toLocaleString('en') : (value ?? '')
}
