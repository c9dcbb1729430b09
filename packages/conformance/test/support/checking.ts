import { test } from 'vitest'

/** Sentences of virtio 1.4 by the titles of the tests that check them. */
export type Checked = Readonly<Record<string, readonly string[]>>

/** `test` for a suite that knows no tags: each test gets those of its title. */
export function checking(checked: Checked): {
  test: (title: string, body: () => void | Promise<void>) => void
  unused: () => string[]
} {
  const left = new Set(Object.keys(checked))
  return {
    test: (title, body) => {
      left.delete(title)
      test(title, { tags: [...(checked[title] ?? [])] }, body)
    },
    unused: () => [...left],
  }
}
