/** Events by time, and those of the same time in the order in which they were added: a binary heap. */
export class EventQueue<Event> {
  private readonly heap: { readonly time: number; readonly order: number; readonly event: Event }[] = []
  private added = 0

  /** When the next event is; `Infinity` if there is none. */
  get time(): number {
    return this.heap.length === 0 ? Infinity : this.heap[0].time
  }

  add(time: number, event: Event): void {
    this.heap.push({ time, order: this.added++, event })
    let at = this.heap.length - 1
    while (at > 0 && this.before(at, (at - 1) >> 1)) {
      this.swap(at, (at - 1) >> 1)
      at = (at - 1) >> 1
    }
  }

  /** Takes the next event. There has to be one. */
  take(): Event {
    const { heap } = this
    const { event } = heap[0]
    const last = heap.pop() as (typeof heap)[number]
    if (heap.length > 0) {
      heap[0] = last
      this.sink()
    }
    return event
  }

  private sink(): void {
    for (let at = 0; ; ) {
      let least = at
      for (const child of [2 * at + 1, 2 * at + 2])
        if (child < this.heap.length && this.before(child, least)) least = child
      if (least === at) return
      this.swap(at, least)
      at = least
    }
  }

  private before(a: number, b: number): boolean {
    const [x, y] = [this.heap[a], this.heap[b]]
    return x.time < y.time || (x.time === y.time && x.order < y.order)
  }

  private swap(a: number, b: number): void {
    const kept = this.heap[a]
    this.heap[a] = this.heap[b]
    this.heap[b] = kept
  }
}
