/** A list in groups of one name each, in the order in which the names come up. */
export function grouped<T>(list: readonly T[], nameOf: (element: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const element of list) {
    const group = groups.get(nameOf(element))
    if (group === undefined) groups.set(nameOf(element), [element])
    else group.push(element)
  }
  return groups
}
