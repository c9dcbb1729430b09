import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import { DemoInputError } from '../../src/errors.ts'

/** The bytes of a file in `fixtures/`. */
export function fixture(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(new URL(`../../fixtures/${name}`, import.meta.url)))
}

/** The record of the DemoInputError that `run` must throw. */
export async function refusal(run: () => unknown): Promise<ReturnType<DemoInputError['toRecord']>> {
  try {
    await run()
  } catch (error) {
    if (error instanceof DemoInputError) return error.toRecord()
    throw error
  }
  return expect.unreachable('nothing was refused')
}
