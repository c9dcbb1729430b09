import { runInThisContext } from 'node:vm'
import { expect } from 'vitest'

type Body = (...args: unknown[]) => unknown
interface Group {
  readonly name: string
  readonly parent: Group | null
  readonly beforeAll: Body[]
  readonly beforeEach: Body[]
  began: boolean
}

/** A test that failed, and how. */
export interface Failure {
  readonly name: string
  readonly message: string
}

/** A test that takes longer hangs. */
const PATIENCE_MS = 10_000

/**
 * Stands for vitest where a test file is run for its verdict alone: the first test that fails ends it, and a test that
 * never ends fails.
 */
export class QuietRunner {
  /** What a test file imports from `vitest`. */
  readonly vitest: Record<string, unknown>
  private readonly tests: { name: string; group: Group; body: Body }[] = []
  private group: Group = newGroup('', null)

  constructor() {
    const describe = this.each((name, body) => {
      const outer = this.group
      this.group = newGroup(name, outer)
      body()
      this.group = outer
    })
    const test = this.each((name, body) => void this.tests.push({ name, group: this.group, body }))
    this.vitest = {
      describe,
      test,
      it: test,
      expect,
      beforeAll: (body: Body) => void this.group.beforeAll.push(body),
      beforeEach: (body: Body) => void this.group.beforeEach.push(body),
      afterAll: () => {},
    }
  }

  /** Runs what was collected up to the first failure. Returns it, or how many tests passed. */
  async run(): Promise<Failure | number> {
    for (const { name, group, body } of this.tests) {
      const groups: Group[] = []
      for (let at: Group | null = group; at !== null; at = at.parent) groups.unshift(at)
      try {
        for (const one of groups.filter(({ began }) => !began)) {
          one.began = true
          for (const hook of one.beforeAll) await bounded(hook)
        }
        for (const one of groups) for (const hook of one.beforeEach) await bounded(hook)
        await bounded(body)
      } catch (error) {
        return { name: [...groups.map((one) => one.name), name].filter(Boolean).join(' > '), message: String(error) }
      }
    }
    return this.tests.length
  }

  // What vitest's functions take in the place of a body, options before or behind it, and `each` with its titles.
  private each(add: (name: string, body: Body) => void): unknown {
    const plain = (name: string, ...rest: unknown[]): void =>
      add(name, rest.find((one) => typeof one === 'function') as Body)
    const each =
      (cases: readonly unknown[]) =>
      (name: string, ...rest: unknown[]): void => {
        for (const one of cases) {
          const args = Array.isArray(one) ? (one as unknown[]) : [one]
          plain(`${name} ${JSON.stringify(args[0])}`, () =>
            (rest.find((r) => typeof r === 'function') as Body)(...args),
          )
        }
      }
    return Object.assign(plain, { each })
  }
}

function newGroup(name: string, parent: Group | null): Group {
  return { name, parent, beforeAll: [], beforeEach: [], began: false }
}

// Errors often make a loop endless, and only the engine can end one.
function bounded(body: Body): unknown {
  const call = runInThisContext('(body) => { globalThis.__body = body }') as (body: Body) => void
  call(body)
  return runInThisContext('globalThis.__body()', { timeout: PATIENCE_MS })
}
