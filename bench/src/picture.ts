import type { BenchReport, BenchResult } from '@guestdma/bench'

const WIDTH = 760
const LEFT = 190
const BAR = 16
const ROW = 22
const GROUP = 34
const TOP = 74
const COLOURS: Readonly<Record<string, string>> = { map: '#4c78a8', pool: '#9ecae9' }

/** The report's answer to what small packets cost, as a picture: frames of 64 bytes in batches of 32, warm buffers. */
export function drawReport({ environment, results }: BenchReport): string {
  const shown = results.filter(
    ({ driver, bytes, batch, buffers, backend }) =>
      driver === 'net' && bytes === 64 && batch === 32 && buffers === 'warm' && backend !== 'none',
  )
  if (shown.length === 0)
    throw new Error('the picture needs net results of 64 bytes in batches of 32; measure those too')
  const scale = (WIDTH - LEFT - 110) / Math.max(...shown.map(({ nsPerOperation }) => nsPerOperation.p95))
  const operations = [...new Set(shown.map(({ operation }) => operation))]
  let y = TOP
  const parts: string[] = []
  for (const operation of operations) {
    parts.push(text(16, y + 4, `net ${operation}`, 'font-weight="600"'))
    y += 12
    for (const result of shown.filter((candidate) => candidate.operation === operation)) {
      parts.push(bar(result, y, scale))
      y += ROW
    }
    y += GROUP - ROW + 8
  }
  const { node, cpu } = environment
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y + 20}" font-family="sans-serif" font-size="13">`,
    '<title>What a 64-byte frame costs, by scheme</title>',
    `<rect width="100%" height="100%" fill="#fff"/>`,
    text(16, 26, 'What a 64-byte frame costs, by scheme', 'font-size="17" font-weight="600"'),
    text(
      16,
      46,
      'ns per frame on one core, driver and device together; batches of 32; the line is the 5th to 95th percentile',
      'fill="#555"',
    ),
    ...parts,
    text(16, y + 8, escapeXml(`Node ${node}, ${cpu}`), 'fill="#777" font-size="11"'),
    '</svg>',
    '',
  ].join('\n')
}

function bar({ backend, mode, nsPerOperation: { median, p05, p95 } }: BenchResult, y: number, scale: number): string {
  const end = LEFT + median * scale
  const middle = y + BAR / 2
  return [
    text(LEFT - 8, y + 13, `${backend}, ${mode}`, 'text-anchor="end"'),
    `<rect x="${LEFT}" y="${y}" width="${(median * scale).toFixed(1)}" height="${BAR}" fill="${COLOURS[mode]}"/>`,
    `<path d="M${(LEFT + p05 * scale).toFixed(1)} ${middle}H${(LEFT + p95 * scale).toFixed(1)}" stroke="#333"/>`,
    text(Math.max(end, LEFT + p95 * scale) + 8, y + 13, `${median.toFixed(0)} ns`, ''),
  ].join('\n')
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${content}</text>`
}

function escapeXml(content: string): string {
  return content.replace(/&/g, '&amp;').replace(/</g, '&lt;')
}
