import { inject, test } from 'vitest'
import { blkSoak, netSoak, type SoakGoal } from './support/threads-soak.ts'
import { FORMATS, WORKER_SCHEMES } from './support/workers.ts'

const { seed, milliseconds } = inject('soak')

/** `SOAK_THREADS=whole` moves 10^7 packets and 10^6 block requests, however long that takes. */
const whole = process.env.SOAK_THREADS === 'whole'
const PACKETS = 1e7
const REQUESTS = 1e6

const CASES = WORKER_SCHEMES.flatMap((scheme) => FORMATS.map((format) => [scheme, format] as const))
const WHOLE_MS = 600_000
/** A wake-up that is lost shows in a test that never ends. */
const TIMEOUT_MS = whole ? WHOLE_MS : milliseconds + 60_000

// Half of the time is for packets.
const goalOf = (count: number): SoakGoal =>
  whole
    ? { count: Math.ceil(count / CASES.length), milliseconds: WHOLE_MS }
    : { count: Infinity, milliseconds: milliseconds / CASES.length / 2 }

test.each(CASES)(
  'two threads, %s, %s: no packet is lost, comes twice or out of order',
  async (scheme, format) => console.log(await netSoak(scheme, format === 'packed', goalOf(PACKETS), seed)),
  TIMEOUT_MS,
)

test.each(CASES)(
  'two threads, %s, %s: every block request is done once, or ends with an error',
  async (scheme, format) => console.log(await blkSoak(scheme, format === 'packed', goalOf(REQUESTS), seed)),
  TIMEOUT_MS,
)
