/**
 * An integer that came out of floating-point arithmetic stays a heap number in a field; `| 0` makes a small integer of
 * it.
 */
export function compact(integer: number): number {
  return integer < 2 ** 31 ? integer | 0 : integer
}
