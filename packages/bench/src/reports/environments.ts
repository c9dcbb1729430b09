import type { Environment } from '../contract/result.ts'
import { printable } from '../program/table.ts'

/** What a time depends on so much that two of them say nothing about the code when it differs. */
const COMPARED = {
  cpu: ({ cpu }) => cpu,
  cores: ({ cores }) => `${cores}`,
  platform: ({ platform }) => platform,
  'major version of Node': ({ node }) => node.split('.')[0],
} as const satisfies Record<string, (environment: Environment) => string>

/** What one report says of its environment; all but the date. */
const WHOLE = {
  ...COMPARED,
  'version of Node': ({ node }) => node,
  'version of V8': ({ v8 }) => v8,
  'last-level cache': ({ lastLevelCacheBytes }) => `${lastLevelCacheBytes} bytes`,
} as const satisfies Record<string, (environment: Environment) => string>

/** In what two environments differ so that times cannot be compared, as texts: "cpu: 'A' and 'B'". */
export function incomparable(a: Environment, b: Environment): string[] {
  return differences(COMPARED, a, b)
}

/** In what two environments differ so that one report cannot have both, as texts. The date may differ. */
export function notTheSame(a: Environment, b: Environment): string[] {
  return differences(WHOLE, a, b)
}

function differences(
  what: Readonly<Record<string, (environment: Environment) => string>>,
  a: Environment,
  b: Environment,
): string[] {
  return Object.entries(what)
    .filter(([, read]) => read(a) !== read(b))
    .map(([name, read]) => printable(`${name}: '${read(a)}' and '${read(b)}'`))
}
