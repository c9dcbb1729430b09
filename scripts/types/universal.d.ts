// The few other globals outside ECMAScript that browsers, workers and Node all have, so that library code is checked
// against neither the DOM's types nor Node's.

declare const performance: { now(): number }
declare function queueMicrotask(callback: () => void): void
declare function setTimeout(callback: () => void, milliseconds?: number): unknown
declare function clearTimeout(timer: unknown): void
