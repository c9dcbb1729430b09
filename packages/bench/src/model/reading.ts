import { readFileSync } from 'node:fs'
import { ModelError } from './errors.ts'

/**
 * Reads overrides of parameters: a JSON object of numbers by name. Whether there are such parameters is for
 * `parametersOf` to say. Throws ModelError `MODEL_FILE`.
 */
export function readParameterFile(path: string): Readonly<Record<string, unknown>> {
  let found: unknown
  try {
    found = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new ModelError('MODEL_FILE', path, `the parameters cannot be read: ${(error as Error).message}`, { path })
  }
  if (typeof found === 'object' && found !== null && !Array.isArray(found)) return found as Record<string, unknown>
  throw new ModelError('MODEL_FILE', path, 'the file has to hold a JSON object such as {"uncachedRead": 800}', { path })
}
