import type { ExposureResult } from '../contract/result.ts'
import { type Amounts, EXPOSURE_CLASSES, exposed } from './classes.ts'

/** A Markdown table of results: bytes that were readable and writable, in all and by class. */
export function exposureTable(results: readonly ExposureResult[]): string {
  const head = ['scheme', 'work', 'bytes', 'access', 'exposed', ...EXPOSURE_CLASSES, 'before attach']
  const rows = results.flatMap((result) => {
    const { backend, beforeAttach, bytes, driver, mode, operation, ring } = result
    const total = exposed(result)
    const row = (access: 'readable' | 'writable'): string[] => {
      const amounts: Readonly<Amounts> = result[access]
      return [
        `\`${backend}\``,
        [driver, operation, mode, ...(ring === 'split' ? [] : [ring])].join(' '),
        String(bytes),
        access === 'readable' ? 'read' : 'write',
        count(total[access]),
        ...EXPOSURE_CLASSES.map((name) => count(amounts[name])),
        count(beforeAttach[access]),
      ]
    }
    return [row('readable'), row('writable')]
  })
  const rule = head.map((_, i) => (i === 0 || i === 1 || i === 3 ? '---' : '---:'))
  return [head, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function count(bytes: number): string {
  return bytes === 0 ? '–' : Math.max(1, Math.round(bytes)).toLocaleString('en-US')
}
