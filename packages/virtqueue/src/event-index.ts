/**
 * Did an index that moved from `old` to `now` pass `event`? All three are 16-bit counters that wrap (virtio 1.4
 * §2.7.10): the answer is whether `event` lies in the half-open interval [old, now), taken modulo 2^16.
 */
export function crosses(event: number, now: number, old: number): boolean {
  return ((event - old) & 0xffff) < ((now - old) & 0xffff)
}
